"""The training engine and its recipes; the import name is minibatch.train.

A step is an interval of nominal time, its loss a sum over denominators known beforehand: the gradient does not depend
on microbatches, and a run killed at any moment ends where it would have ended. Start with `Trainer`.
"""

if __name__ != "minibatch.train":
    raise ImportError(
        f"train/ was imported as {__name__!r}, but its import name is 'minibatch.train': "
        "write `from minibatch.train import ...`, or run `python -m minibatch.train.<module>`"
    )

try:
    import safetensors as _safetensors  # noqa: F401
    import torch as _torch  # noqa: F401
except ImportError as error:
    from minibatch.errors import MissingExtraError as _MissingExtraError

    raise _MissingExtraError(
        f'minibatch.train needs {error.name!r}, which is not installed: pip install "minibatch-timeline[train]"'
    ) from error

from minibatch.models import noise as noise
from minibatch.train import losses as losses
from minibatch.train import metrics as metrics
from minibatch.train import schedules as schedules
from minibatch.train.averaging import EMA as EMA
from minibatch.train.checkpoint import newest_complete as newest_complete
from minibatch.train.clipping import ClipElement as ClipElement
from minibatch.train.clipping import ClipNorm as ClipNorm
from minibatch.train.clipping import ClipPerSample as ClipPerSample
from minibatch.train.clipping import ClipTensorNorm as ClipTensorNorm
from minibatch.train.config import RunConfig as RunConfig
from minibatch.train.digest import parameters_digest as parameters_digest
from minibatch.train.errors import FolderInUseError as FolderInUseError
from minibatch.train.errors import NonFiniteError as NonFiniteError
from minibatch.train.errors import SpikeError as SpikeError
from minibatch.train.errors import TrainingError as TrainingError
from minibatch.train.experiment import Autoencoder as Autoencoder
from minibatch.train.experiment import Classifier as Classifier
from minibatch.train.experiment import Experiment as Experiment
from minibatch.train.experiment import Regressor as Regressor
from minibatch.train.groups import Rule as Rule
from minibatch.train.groups import groups as groups
from minibatch.train.groups import parameter_table as parameter_table
from minibatch.train.joint import JointSource as JointSource
from minibatch.train.ledger import read_ledger as read_ledger
from minibatch.train.losses import Temperature as Temperature
from minibatch.train.losses import Uncertainty as Uncertainty
from minibatch.train.losses import binary_cross_entropy as binary_cross_entropy
from minibatch.train.losses import class_weight as class_weight
from minibatch.train.losses import contrastive as contrastive
from minibatch.train.losses import contrastive_margin as contrastive_margin
from minibatch.train.losses import cosine as cosine
from minibatch.train.losses import cross_entropy as cross_entropy
from minibatch.train.losses import ctc as ctc
from minibatch.train.losses import focal as focal
from minibatch.train.losses import gaussian_nll as gaussian_nll
from minibatch.train.losses import hinge as hinge
from minibatch.train.losses import huber as huber
from minibatch.train.losses import kl as kl
from minibatch.train.losses import l1 as l1
from minibatch.train.losses import mmd as mmd
from minibatch.train.losses import mse as mse
from minibatch.train.losses import multiclass_hinge as multiclass_hinge
from minibatch.train.losses import on as on
from minibatch.train.losses import present as present
from minibatch.train.losses import sigmoid_focal as sigmoid_focal
from minibatch.train.losses import uncertain as uncertain
from minibatch.train.metrics import Collected as Collected
from minibatch.train.metrics import Metric as Metric
from minibatch.train.optimizers import optimizer as optimizer
from minibatch.train.ownership import reached_parameters as reached_parameters
from minibatch.train.presets import preset as preset
from minibatch.train.regularizers import Contractive as Contractive
from minibatch.train.regularizers import HiddenL1 as HiddenL1
from minibatch.train.regularizers import MaxNorm as MaxNorm
from minibatch.train.regularizers import WeightL1 as WeightL1
from minibatch.train.regularizers import WeightL2 as WeightL2
from minibatch.train.regularizers import WeightPrior as WeightPrior
from minibatch.train.result import StepResult as StepResult
from minibatch.train.selfcheck import selfcheck as selfcheck
from minibatch.train.skips import Skip as Skip
from minibatch.train.spikes import Spikes as Spikes
from minibatch.train.terms import Term as Term
from minibatch.train.trainer import Trainer as Trainer
from minibatch.train.validation import Validation as Validation
from minibatch.train.validation import evaluate as evaluate

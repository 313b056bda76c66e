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
from minibatch.train.checkpoint import newest_complete as newest_complete
from minibatch.train.config import RunConfig as RunConfig
from minibatch.train.digest import parameters_digest as parameters_digest
from minibatch.train.errors import FolderInUseError as FolderInUseError
from minibatch.train.errors import NonFiniteError as NonFiniteError
from minibatch.train.errors import TrainingError as TrainingError
from minibatch.train.ledger import read_ledger as read_ledger
from minibatch.train.losses import binary_cross_entropy as binary_cross_entropy
from minibatch.train.losses import class_weight as class_weight
from minibatch.train.losses import cross_entropy as cross_entropy
from minibatch.train.losses import huber as huber
from minibatch.train.losses import l1 as l1
from minibatch.train.losses import mse as mse
from minibatch.train.losses import on as on
from minibatch.train.metrics import Metric as Metric
from minibatch.train.regularizers import WeightL2 as WeightL2
from minibatch.train.result import StepResult as StepResult
from minibatch.train.terms import Term as Term
from minibatch.train.trainer import Trainer as Trainer
from minibatch.train.validation import Validation as Validation
from minibatch.train.validation import evaluate as evaluate

"""Regularizers: parts of the objective beside the losses, chosen by patterns of names, with scheduled coefficients.

weights.py has those of parameters, which regularization.py applies once per step; activations.py and contractive.py
those of what modules give out, which recording.py records in every forward pass.
"""

from minibatch.train.regularizers.activations import ActivationRegularizer as ActivationRegularizer
from minibatch.train.regularizers.activations import HiddenL1 as HiddenL1
from minibatch.train.regularizers.activations import Recorded as Recorded
from minibatch.train.regularizers.activations import RecurrentNorm as RecurrentNorm
from minibatch.train.regularizers.activations import RecurrentState as RecurrentState
from minibatch.train.regularizers.coefficients import Regularizer as Regularizer
from minibatch.train.regularizers.coefficients import named as named
from minibatch.train.regularizers.contractive import Contractive as Contractive
from minibatch.train.regularizers.recording import Recorder as Recorder
from minibatch.train.regularizers.regularization import Regularization as Regularization
from minibatch.train.regularizers.weights import MaxNorm as MaxNorm
from minibatch.train.regularizers.weights import WeightL1 as WeightL1
from minibatch.train.regularizers.weights import WeightL2 as WeightL2
from minibatch.train.regularizers.weights import WeightPenalty as WeightPenalty
from minibatch.train.regularizers.weights import WeightPrior as WeightPrior
from minibatch.train.regularizers.weights import WeightRegularizer as WeightRegularizer

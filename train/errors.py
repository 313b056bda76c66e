"""What can go wrong while training, as further leaves of the tree in `minibatch.errors`.

MinibatchError
├── CheckpointError (there)           a checkpoint that is damaged, or of something else
└── TrainingError
    ├── SpikeError                         a loss or gradient jumped; the weights are as before the step
    ├── NonFiniteError (ArithmeticError)   a loss or gradient is NaN or infinite; the weights are as before the step
    └── FolderInUseError (RuntimeError)    another process, or another Trainer, works on the same folder
"""

from minibatch.errors import MinibatchError


class TrainingError(MinibatchError):
    """A run cannot go on."""


class NonFiniteError(TrainingError, ArithmeticError):
    """A loss or a gradient is NaN or infinite; weights, buffers and optimizer are as they were before the step."""


class SpikeError(TrainingError):
    """A loss or a gradient jumped, and the run's policy is to stop, or it has happened too often."""


class FolderInUseError(TrainingError, RuntimeError):
    """Another process, or another Trainer of this one, works on the same folder."""

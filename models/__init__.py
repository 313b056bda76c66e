"""Model definitions; the import name is minibatch.models. One architecture per file; torch only, no data, no loop.

>>> from minibatch.models import MLP
>>> MLP(sizes=(64, 32, 10), seed=0)(__import__("torch").zeros(5, 64)).shape
torch.Size([5, 10])
"""

if __name__ != "minibatch.models":
    raise ImportError(
        f"models/ was imported as {__name__!r}, but its import name is 'minibatch.models': "
        "write `from minibatch.models import ...`"
    )

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError('models need PyTorch, which is not installed: pip install "minibatch-timeline[train]"') from error

from minibatch.models.combined import combine as combine
from minibatch.models.feedforward import FeedForward as FeedForward
from minibatch.models.mlp import MLP as MLP
from minibatch.models.noise import Dropout as Dropout
from minibatch.models.noise import DropPath as DropPath
from minibatch.models.noise import GaussianNoise as GaussianNoise
from minibatch.models.noise import attach as attach

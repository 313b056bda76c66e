"""A model in eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Have the model in eval mode inside; afterwards each of its modules is in the mode that it was in before.

    >>> model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1).eval())
    >>> with eval_mode(model):
    ...     inside = [module.training for module in model.modules()]
    >>> inside, [module.training for module in model.modules()]
    ([False, False, False], [True, True, False])
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

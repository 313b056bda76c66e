"""What a model returns, as a list of tensors and back: mappings, lists and tuples of tensors, nested at will."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor


def tensors_in(outputs: Any) -> list[Tensor]:
    """All tensors of an output, in a fixed order.

    >>> import torch
    >>> [t.shape[0] for t in tensors_in({"a": torch.zeros(2), "b": (torch.zeros(3), None)})]
    [2, 3]
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        return [tensor for value in outputs.values() for tensor in tensors_in(value)]
    if isinstance(outputs, list | tuple):
        return [tensor for value in outputs for tensor in tensors_in(value)]
    return []


def changed(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same output with `change` applied to every tensor.

    Mappings become plain dictionaries, except those that can be made of another mapping of the same names.
    """
    if isinstance(outputs, Tensor):
        return change(outputs)
    if isinstance(outputs, Mapping):
        values = {name: changed(value, change) for name, value in outputs.items()}
        if type(outputs) is dict:
            return values
        try:
            return type(outputs)(**values)  # the outputs of well-known model libraries
        except TypeError:
            return values
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*[changed(value, change) for value in outputs])
    if isinstance(outputs, list | tuple):
        return type(outputs)([changed(value, change) for value in outputs])
    return outputs


def with_tensors(outputs: Any, tensors: Sequence[Tensor]) -> Any:
    """The same output with its tensors replaced, in the order of `tensors_in`."""
    waiting = iter(tensors)
    return changed(outputs, lambda _: next(waiting))

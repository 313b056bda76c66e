"""Modules by patterns of their names, and the samples in what a module takes and gives.

A pattern is a shell pattern of qualified names, or several. It names modules that are called; what lies inside a module
that it names is not looked at, so that "layers.*" means the parts of `layers` and not the parts of those.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

Pattern = str | Sequence[str]


def matches(name: str, pattern: Pattern) -> bool:
    """Whether a name fits the shell pattern, or one of several; upper and lower case differ.

    >>> matches("body.layers.0", "body.*"), matches("head", ("body.*", "head"))
    (True, True)
    """
    return any(fnmatchcase(name, one) for one in ((pattern,) if isinstance(pattern, str) else pattern))


def modules_matching(model: nn.Module, pattern: Pattern) -> dict[str, nn.Module]:
    """The outermost modules whose qualified names fit `pattern`, in the order of the model: {name: module}.

    The model itself has no name, and lists and dictionaries of modules are never called: neither is found.
    Raises ValueError if there is none, with the names that there are.

    >>> model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.ReLU())])})
    >>> list(modules_matching(model, "layers.*"))
    ['layers.0', 'layers.1']
    """
    found: dict[str, nn.Module] = {}
    names = [(name, module) for name, module in model.named_modules() if name and not _only_holds(module)]
    for name, module in names:
        inside = any(name.startswith(outer + ".") for outer in found)
        if not inside and matches(name, pattern):
            found[name] = module
    if not found:
        shown = ", ".join(name for name, _ in names[:20]) + (" …" if names[20:] else "")
        raise ValueError(f"pattern {pattern!r} fits the name of no module; there are {shown or 'none'}")
    return found


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor in a tensor, or in a tuple, list or dictionary of them at any depth; None if none.

    >>> import torch
    >>> first_tensor((torch.tensor([1]), {"hidden": torch.ones(2)}))
    tensor([1., 1.])
    """
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    return next((tensor for item in value if (tensor := first_tensor(item)) is not None), None)


def with_first_tensor(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with `new` in the place of `old`, the very tensor that `first_tensor` gave; containers are copied.

    >>> import torch
    >>> x = torch.ones(1)
    >>> with_first_tensor((x, [x]), x, x + 1)
    (tensor([2.]), [tensor([1.])])
    """
    return _with_first(value, old, new)[0]


def sample_axis(module: nn.Module, tensor: Tensor) -> int:
    """Which axis of an output of `module` is the samples: 0, except in torch's layers that put time first.

    >>> import torch
    >>> sample_axis(nn.GRU(2, 3), torch.ones(7, 5, 3)), sample_axis(nn.GRU(2, 3, batch_first=True), torch.ones(5, 7, 3))
    (1, 0)
    """
    attention = getattr(module, "self_attn", module)
    time_first = isinstance(module, nn.RNNBase | nn.MultiheadAttention) or isinstance(attention, nn.MultiheadAttention)
    return 1 if time_first and tensor.ndim == 3 and not getattr(attention, "batch_first", True) else 0


def _only_holds(module: nn.Module) -> bool:
    # ParameterList and ParameterDict are never called either.
    return isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)


def _with_first(value: Any, old: Tensor, new: Tensor) -> tuple[Any, bool]:
    if value is old:
        return new, True
    if isinstance(value, dict):
        items: dict[Any, Any] = {}
        done = False
        for name, item in value.items():
            items[name], changed = (item, False) if done else _with_first(item, old, new)
            done = done or changed
        return (type(value)(items) if done else value), done
    if isinstance(value, tuple | list):
        parts, done = [], False
        for item in value:
            part, changed = (item, False) if done else _with_first(item, old, new)
            parts.append(part)
            done = done or changed
        if not done:
            return value, False
        named = hasattr(value, "_fields")  # a named tuple takes its items one by one
        return (type(value)(*parts) if named else type(value)(parts)), True
    return value, False

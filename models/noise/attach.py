"""Noise put into a model that was written without it: in front of the model, or behind modules named by a pattern.

A noise layer becomes a part of the module that it belongs to, called by a hook. It has no parameters, so the names and
the order of parameters, buffers and everything in a checkpoint stay as they are; copies of the model have copies of it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from minibatch.models.noise.keys import KeyedNoise
from minibatch.models.noise.layers import Dropout, GaussianNoise, Rescale
from minibatch.models.outputs import Pattern, first_tensor, modules_matching, sample_axis, with_first_tensor

FRONT = "input"


def attach(model: nn.Module, noise: Mapping[str, KeyedNoise | Sequence[KeyedNoise]]) -> list[str]:
    """Put noise into `model`, in place: {pattern: layer, or several in their order}; the names of what was put in.

    "input" stands for the front of the model: the first floating tensor it is called with gets the noise, and the data
    stay clean. Any other key is a shell pattern of modules (see models/outputs.py), and the noise comes behind them: on
    the first floating tensor they return. Every place gets a copy of the layer, with a name and so a key of its own.
    Attach before `bind` and before a Trainer is made; torch's RNNs and attention may have time or samples first.

    Raises ValueError, with nothing attached, for a pattern that fits no module, and for a module that is a part of the
    model in several places (noise belongs to one place).

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> attach(model, {"input": GaussianNoise(0.1), "1": Dropout(0.5)})
    ['0.input_noise', '1.output_noise']
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    places: list[tuple[nn.Module, str, bool, Sequence[KeyedNoise]]] = []
    for pattern, given in noise.items():
        layers = (given,) if isinstance(given, nn.Module) else tuple(given)
        wrong = [type(layer).__name__ for layer in layers if not isinstance(layer, KeyedNoise)]
        if wrong or not layers:
            raise TypeError(f"attach: {pattern!r} has {wrong or 'no layer'}, expected noise layers of models.noise")
        front = pattern == FRONT
        for name, module in ({"": model} if front else modules_matching(model, pattern)).items():
            if isinstance(module, KeyedNoise):
                continue
            host, inner = _host(module, front=front)
            places.append((host, ".".join(part for part in (name, inner) if part), front, layers))
    for host, name, _, _ in places:
        others = [other for other, module in model.named_modules(remove_duplicate=False) if module is host]
        if len(others) > 1:
            raise ValueError(
                f"attach: {name!r} is one module in several places, {', '.join(others)}; noise belongs to one place: "
                "attach it behind another module, or give each place a module of its own"
            )
    return [_put(host, name, front, layer) for host, name, front, layers in places for layer in layers]


def attach_named(
    model: nn.Module,
    *,
    hidden: Pattern = (),
    input_noise: float = 0.0,
    hidden_noise: float = 0.0,
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    rescale: Rescale = "train",
) -> list[str]:
    """Attach noise and dropout under theanets' names, in its order (dropout first); the names of what was put in.

    hidden: pattern of the hidden layers, needed for hidden_noise and hidden_dropout. Noise is given by its standard
    deviation, dropout by its probability; 0 is none. rescale: as in Dropout; theanets 0.7 has "train", 0.6 "never".

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> attach_named(model, hidden="1", input_dropout=0.2, hidden_noise=0.1)
    ['0.input_noise', '1.output_noise']
    """
    if (hidden_noise or hidden_dropout) and not hidden:
        raise ValueError("hidden_noise and hidden_dropout need hidden=, a pattern of the names of the hidden layers")
    names: list[str] = []
    patterns = (hidden,) if isinstance(hidden, str) else tuple(hidden)
    for places, p, sigma in (((FRONT,), input_dropout, input_noise), (patterns, hidden_dropout, hidden_noise)):
        layers: list[KeyedNoise] = []
        if p:
            layers.append(Dropout(p, rescale=rescale))
        if sigma:
            layers.append(GaussianNoise(sigma))
        if layers:
            names += attach(model, dict.fromkeys(places, layers))
    return names


class _Behind:
    """A forward hook: the output of its module, with the noise of the module's part called `part`."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        layer = getattr(module, self.part)
        tensor = first_tensor(output)
        if tensor is None:
            raise TypeError(
                f"the noise {layer} behind {type(module).__name__} needs a floating tensor in its output, got "
                f"{type(output).__name__}"
            )
        return with_first_tensor(output, tensor, _noisy(layer, tensor, sample_axis(module, tensor)))


class _InFront:
    """A forward pre-hook: the arguments of its module, with the noise of the module's part called `part`."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        layer = getattr(module, self.part)
        tensor = first_tensor((args, kwargs))
        if tensor is None:
            raise TypeError(
                f"the noise {layer} in front of the model needs a floating tensor among its arguments: convert the "
                "field to float in a transform of the source, or attach the noise behind the module that does"
            )
        return with_first_tensor((args, kwargs), tensor, _noisy(layer, tensor, sample_axis(module, tensor)))


def _noisy(layer: nn.Module, tensor: Tensor, axis: int) -> Tensor:
    if axis == 0:
        noisy: Tensor = layer(tensor)
        return noisy
    moved: Tensor = layer(tensor.movedim(axis, 0).contiguous())
    return moved.movedim(0, axis)


def _host(module: nn.Module, *, front: bool) -> tuple[nn.Module, str]:
    """The module that noise at `module` becomes a part of, and its name below `module`.

    A Sequential calls whatever is a part of it, so its first or last module takes the noise.
    """
    names: list[str] = []
    while isinstance(module, nn.Sequential):
        if type(module).forward is not nn.Sequential.forward or not len(module):
            raise ValueError(
                f"attach: {type(module).__name__} is a Sequential that is empty or has a forward of its own, which "
                "noise as a part of it could disturb; attach it behind the modules inside"
            )
        name, module = list(module.named_children())[0 if front else -1]
        names.append(name)
    return module, ".".join(names)


def _put(host: nn.Module, name: str, front: bool, layer: KeyedNoise) -> str:
    part = first = "input_noise" if front else "output_noise"
    number = 1
    while hasattr(host, part):
        number += 1
        part = f"{first}_{number}"
    host.add_module(part, copy.deepcopy(layer).train(host.training))
    if front:
        host.register_forward_pre_hook(_InFront(part), with_kwargs=True)
    else:
        host.register_forward_hook(_Behind(part))
    return f"{name}.{part}" if name else part

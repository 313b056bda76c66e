"""Layers that draw from torch's global generator: which they are, what takes their place, and what a user does."""

from typing import Any

from torch import nn

from minibatch.models.noise.keys import KeyedNoise
from minibatch.models.noise.layers import AlphaDropout, Dropout, DropPath, RReLU

# Layers that draw in train mode whatever their arguments; what `convert` can replace is in `_keyed`.
_ALWAYS_FOREIGN = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_FOREIGN_BY_RATE = (nn.modules.dropout._DropoutNd,)
# Of well-known libraries that need not be installed: timm and torchvision.
_FOREIGN_BY_NAME = {"DropPath": "drop_prob", "StochasticDepth": "p", "DropBlock2d": "drop_prob", "PatchDropout": "prob"}


def foreign(model: nn.Module) -> dict[str, str]:
    """The layers of `model` that draw from torch's global generator: {qualified name: what it is}, by type alone.

    Functions such as `F.dropout` inside a forward method leave no trace in the modules; an engine finds those when
    the global generator has moved during a forward pass.

    >>> foreign(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    {'1': 'Dropout(p=0.5, inplace=False)'}
    """
    return {name: _one_line(module) for name, module in model.named_modules() if _is_foreign(module)}


def advice(model: nn.Module) -> list[str]:
    """What to do about the foreign layers that `convert` cannot replace: a line for each kind of layer, if any.

    >>> advice(nn.LSTM(2, 2, num_layers=2, dropout=0.1))
    ['LSTM: set dropout=0, make one LSTM of one layer each, and put noise.Dropout between them']
    """
    kinds = [module for module in model.modules() if _is_foreign(module) and _keyed(module) is None]
    return list(dict.fromkeys(f"{type(module).__name__}: {_instead(module)}" for module in kinds))


def convert(model: nn.Module) -> list[str]:
    """Replace torch's dropout layers in `model`, in place, by keyed ones of the same rate; the names of those replaced.

    Dropout of elements, channels and paths (`DropPath` of timm, `StochasticDepth` of torchvision in mode "row"),
    `AlphaDropout` and `RReLU` have keyed forms. Raises ValueError, with nothing replaced, if the model has other layers
    that draw from the global generator, or is such a layer itself.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    >>> convert(model), model[1]
    (['1'], Dropout(p=0.5))
    """
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if _is_foreign(module)}
    stuck = {name: module for name, module in found.items() if not name or _keyed(module) is None}
    if stuck:
        raise ValueError(
            "no keyed layer takes the place of "
            + "; ".join(f"{name or 'the model itself'}: {_one_line(module)}" for name, module in stuck.items())
            + ". What to do: "
            + "; ".join(advice(model) or ["make the layer a part of a model, so that it can be replaced there"])
        )
    replacements: dict[nn.Module, nn.Module] = {}
    for name, module in found.items():
        parent, _, attribute = name.rpartition(".")
        if module not in replacements:  # a layer used in two places stays one layer
            keyed = _keyed(module)
            assert keyed is not None
            replacements[module] = keyed.train(module.training)
        setattr(model.get_submodule(parent), attribute, replacements[module])
    return list(found)


def _is_foreign(module: nn.Module) -> bool:
    if isinstance(module, _FOREIGN_BY_RATE):
        return bool(module.p > 0.0)
    if isinstance(module, nn.RReLU):
        return bool(module.lower != module.upper)
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0.0)
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0.0 and module.num_layers > 1
    rate = _FOREIGN_BY_NAME.get(type(module).__name__)
    if rate is not None and not isinstance(module, KeyedNoise):
        return bool(getattr(module, rate, 0.0))
    return isinstance(module, _ALWAYS_FOREIGN)


def _keyed(module: nn.Module) -> KeyedNoise | None:
    """The keyed layer that does the same as `module`, or None."""
    if isinstance(module, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return Dropout(module.p, per_channel=True)
    if isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout):
        return AlphaDropout(module.p, per_channel=isinstance(module, nn.FeatureAlphaDropout))
    if isinstance(module, nn.Dropout):
        return Dropout(module.p)
    if isinstance(module, nn.RReLU):
        return RReLU(module.lower, module.upper)
    kind = type(module).__name__
    strange: Any = module
    if kind == "DropPath":
        return DropPath(strange.drop_prob, rescale=getattr(module, "scale_by_keep", True))
    if kind == "StochasticDepth" and getattr(module, "mode", None) == "row":
        return DropPath(strange.p)
    return None


def _instead(module: nn.Module) -> str:
    """What a user writes in place of a layer that `convert` cannot replace."""
    kind = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        return (
            "set dropout=0 and drop what comes out of it, noise.attach(model, {'*attention*': noise.Dropout(p)}); its "
            "dropout of attention weights happens inside one fused function of torch"
        )
    if isinstance(module, nn.RNNBase):
        return f"set dropout=0, make one {kind} of one layer each, and put noise.Dropout between them"
    if isinstance(module, _ALWAYS_FOREIGN):
        return "use a pooling layer with fixed windows, or pass its samples= by hand"
    if kind == "StochasticDepth":
        return 'its mode "batch" draws once for the whole minibatch; use mode "row", or noise.DropPath'
    return "write it with noise.Dropout, noise.DropPath or noise.GaussianNoise, or set its rate to 0"


def _one_line(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"

"""Weight initialisation by name, each with its source; no draw comes from torch's global generator.

`fill(model, "he_normal", seed=…)` visits the weights in the order of `model.named_parameters()`, so a model's first
values are a function of (architecture, name of the rule, seed) alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Rule = Callable[[Tensor, torch.Generator], Tensor]


def he_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 2 / fan_in), for layers followed by a ReLU. He et al. 2015, arXiv:1502.01852, equation 10."""
    return nn.init.normal_(weight, 0.0, math.sqrt(2.0 / _fans(weight)[0]), generator=generator)


def glorot_uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), for tanh-like layers. Glorot and Bengio 2010, equation 16."""
    bound = math.sqrt(6.0 / sum(_fans(weight)))
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def lecun_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1 / fan_in), which keeps the variance through linear layers. LeCun et al. 1998, Efficient BackProp, 4.6."""
    return nn.init.normal_(weight, 0.0, math.sqrt(1.0 / _fans(weight)[0]), generator=generator)


def orthogonal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rows or columns orthonormal. Saxe et al. 2014, arXiv:1312.6120."""
    return nn.init.orthogonal_(weight, generator=generator)


RULES: dict[str, Rule] = {
    "he_normal": he_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
}


def fill(model: nn.Module, rule: str, *, seed: int) -> None:
    """Give every weight of two or more axes values by `rule`, and every other parameter named `bias` zeros.

    rule: a name in RULES; seed: any integer (its low 64 bits count).
    Parameters with one axis that are not biases (the gains of a norm layer) are left as they are.

    >>> layer = torch.nn.utils.skip_init(nn.Linear, 2, 3)
    >>> fill(layer, "glorot_uniform", seed=7)
    >>> bool((layer.weight.abs() <= math.sqrt(6 / 5)).all()), layer.bias.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    if rule not in RULES:
        raise ValueError(f"init={rule!r} is not known; one of {', '.join(RULES)}")
    generator = torch.Generator()
    generator.manual_seed(seed % 2**64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                # Drawn on the CPU, so that a model made on another device starts with the same bits.
                parameter.copy_(RULES[rule](torch.empty(parameter.shape, dtype=parameter.dtype), generator))
            elif name.rpartition(".")[2] == "bias":
                parameter.zero_()


def _fans(weight: Tensor) -> tuple[int, int]:
    """(inputs of one output, outputs of one input) of a weight (out, in, …window)."""
    window = math.prod(weight.shape[2:])
    return weight.shape[1] * window, weight.shape[0] * window

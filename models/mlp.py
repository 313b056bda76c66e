"""Multilayer perceptron: linear layers with a nonlinearity and keyed dropout between them.

Shapes: n samples · f features in · h hidden units · c outputs (logits or regression values).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.noise import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


class MLP(nn.Module):
    """Logits (n, c) of features (n, f); further axes of the input are flattened into f.

    The input may have any numeric dtype (uint8 pixels, say); it is converted to that of the weights.

    sizes: (f, h1, …, c), at least two; dropout: rate in front of every layer but the first (0: none), input_dropout:
    in front of the first; activation: a name in ACTIVATIONS; init: a name in `models.init.RULES`; seed: of the weights
    (an engine passes `minibatch.rng.key(seed, "init")`). No number is drawn from torch's global generator.

    >>> import torch
    >>> model = MLP(sizes=(4, 8, 3), seed=1).eval()
    >>> model(torch.ones(2, 2, 2)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        activation: str = "relu",
        init: str = "he_normal",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"sizes={tuple(sizes)}: expected two or more positive numbers (features, hidden…, outputs)"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not known; one of {', '.join(ACTIVATIONS)}")
        layers: list[nn.Module] = []
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            rate = dropout if number else input_dropout
            if number:
                layers.append(ACTIVATIONS[activation]())
            if rate:
                layers.append(Dropout(rate))
            # On the meta device the constructor draws nothing from the global generator; `fill` below gives the values.
            layers.append(nn.Linear(fan_in, fan_out, device="meta").to_empty(device=torch.get_default_device()))
        self.layers = nn.Sequential(*layers)
        self._last = len(layers) - 1
        initialisation.fill(self, init, seed=seed)

    def forward(self, features_nf: Tensor) -> Tensor:
        last = self.layers[self._last]
        assert isinstance(last, nn.Linear)
        logits_nc: Tensor = self.layers(features_nf.flatten(1).to(last.weight.dtype))
        return logits_nc

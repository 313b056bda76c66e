"""Feed-forward nets from a list of layer sizes, every layer a module with a name of its own.

    FeedForward((784, 100, 10))                                   layers in, hid1, out
    FeedForward((784, (100, "tanh"), {"size": 50, "name": "code", "sparsity": 0.9}, 10))

The names are those of theanets: the first layer is "in", the last "out", the others "hid1", "hid2", … unless a layer
says its own. Parameters are "hid1.weight" (units, inputs) and "hid1.bias" (units,); shell patterns such as "hid*"
choose layers for regularizers, noise and monitors.

Shapes: n samples · f features in · u units of a layer · c outputs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models import mlp
from minibatch.models.noise import GOLDEN, MASK_64, element_bits, element_words, mix64, sample_words


class Softmax(nn.Softmax):
    """Softmax over the units of a layer, axis 1."""

    def __init__(self) -> None:
        super().__init__(dim=1)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    **mlp.ACTIVATIONS,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "logistic": nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    "softmax": Softmax,
    "softplus": nn.Softplus,
}
# Those that let about half of their input through, for which He's rule keeps the variance; Glorot's is for the others.
RECTIFIERS = ("elu", "gelu", "leaky_relu", "relu", "silu")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One layer as it was asked for.

    size: units. activation: a name in ACTIVATIONS. sparsity: the share of the weights that begin at 0, 0 ≤ s < 1.
    std: of the first weights, N(0, std²), None for the rule of the activation. tied: the name of an earlier layer whose
    weights this one uses transposed.
    """

    size: int
    name: str
    activation: str = "relu"
    sparsity: float = 0.0
    std: float | None = None
    tied: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"layer {self.name!r}: size={self.size!r}, expected a number of units, at least 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"layer {self.name!r}: activation={self.activation!r} is not known; one of {', '.join(ACTIVATIONS)}"
            )
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"layer {self.name!r}: sparsity={self.sparsity!r}, expected a share, 0 ≤ s < 1")
        if self.std is not None and not 0.0 < self.std < math.inf:
            raise ValueError(f"layer {self.name!r}: std={self.std!r}, expected a finite number > 0")


Layers = Sequence[int | tuple[Any, ...] | Mapping[str, Any] | LayerSpec]


def layer_specs(layers: Layers, *, activation: str = "relu", output: str = "linear") -> tuple[LayerSpec, ...]:
    """The layers of a list of sizes, (size, activation), ("tied", name), and mappings of LayerSpec's fields.

    activation: of hidden layers that name none; output: of the last. Raises ValueError saying which layer is wrong.

    >>> [(spec.name, spec.size, spec.activation) for spec in layer_specs((4, (3, "tanh"), 2))]
    [('in', 4, 'linear'), ('hid1', 3, 'tanh'), ('out', 2, 'linear')]
    """
    if isinstance(layers, str | Mapping) or not isinstance(layers, Sequence) or len(layers) < 2:
        raise ValueError(f"layers={layers!r}: expected two layers or more, such as (784, 100, 10)")
    last = len(layers) - 1
    given = [_given(layer, number) for number, layer in enumerate(layers)]
    specs: list[LayerSpec] = []
    for number, options in enumerate(given):
        usual = "in" if number == 0 else "out" if number == last else f"hid{number}"
        options = {"name": usual, "activation": output if number == last else activation, **options}
        if number == 0:
            wrong = {"activation", "sparsity", "std", "tied"} & given[0].keys()
            if wrong:
                raise ValueError(f"layer 0 only takes the inputs: it has a size and a name, no {', '.join(wrong)}")
            options["activation"] = "linear"
        if options.get("tied") is not None:
            options["size"] = _tied_size(options, specs)
        specs.append(LayerSpec(**options))
    names = [spec.name for spec in specs]
    wrong_names = {n for n in names if names.count(n) > 1 or not n or "." in n or hasattr(FeedForward, n)}
    if wrong_names:
        raise ValueError(
            f"layers need different names without a dot that are no attributes of a module; got {', '.join(names)}"
        )
    return tuple(specs)


def _given(layer: Any, number: int) -> dict[str, Any]:
    """What was said of one layer, by the names of LayerSpec's fields."""
    if isinstance(layer, LayerSpec):
        known = ["size", "name"] if number == 0 else [field.name for field in fields(layer)]
        return {name: getattr(layer, name) for name in known}
    if isinstance(layer, Mapping):
        known = [field.name for field in fields(LayerSpec)]
        unknown = [name for name in layer if name not in known]
        if unknown or ("size" not in layer and "tied" not in layer):
            raise ValueError(f"layer {number} is {dict(layer)!r}: expected a size, and of the rest only {known}")
        return dict(layer)
    if isinstance(layer, tuple | list):
        if len(layer) == 2 and layer[0] == "tied" and isinstance(layer[1], str):
            return {"tied": layer[1]}
        if len(layer) == 2 and isinstance(layer[1], str):
            return {"size": layer[0], "activation": layer[1]}
        raise ValueError(f"layer {number} is {layer!r}: expected (size, activation) or ('tied', name of a layer)")
    return {"size": layer}


def _tied_size(options: Mapping[str, Any], before: Sequence[LayerSpec]) -> int:
    """How many units a layer has that uses an earlier one's weights transposed: as many as that one has inputs."""
    for below, partner in pairwise(before):
        if partner.name == options["tied"]:
            size = options.get("size", below.size)
            if partner.tied is None and before[-1].size == partner.size and size == below.size:
                return below.size
            raise ValueError(
                f"layer {options['name']!r} cannot be tied to {partner.name!r}: transposed, the weights of that layer "
                f"take {partner.size} inputs and give {below.size}, here are {before[-1].size} and {size}"
                + ("; it is tied itself" if partner.tied else "")
            )
    raise ValueError(
        f"layer {options['name']!r} is tied to {options['tied']!r}, which is no layer before it; "
        f"there are {', '.join(spec.name for spec in before[1:]) or 'none'}"
    )


class Input(nn.Module):
    """The first layer: samples (n, …) of any numeric dtype as floating (n, f); what the layers above see as inputs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        # What knows the dtype of the net, as no parameter is here; it is no part of what is saved.
        self.register_buffer("kind", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != self.size:
            raise ValueError(
                f"the net takes {self.size} inputs per sample, got {tuple(x.shape[1:])} in {tuple(x.shape)}"
            )
        return flat.to(self.get_buffer("kind").dtype)

    def extra_repr(self) -> str:
        return f"{self.size}"


class Dense(nn.Module):
    """activation(x Wᵀ + b): (n, inputs) → (n, units), with `weight` (units, inputs) and `bias` (units,)."""

    def __init__(self, inputs: int, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.size, inputs))
        self.bias = nn.Parameter(torch.zeros(spec.size))
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(F.linear(x, self.weight, self.bias))
        return result

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} → {self.weight.shape[0]}"


class Tied(nn.Module):
    """activation(x W + b) with the weights (units of partner, its inputs) of `partner`: only `bias` is its own."""

    def __init__(self, partner: Dense, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        self._partner = (partner,)  # in a tuple, as it is no part of this module: its weights have one name
        self.bias = nn.Parameter(torch.zeros(spec.size))
        self.activation = ACTIVATIONS[spec.activation]()

    @property
    def partner(self) -> Dense:
        """The layer whose weights are used."""
        return self._partner[0]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(F.linear(x, self.partner.weight.t(), self.bias))
        return result

    def extra_repr(self) -> str:
        return f"{self.partner.weight.shape[0]} → {self.partner.weight.shape[1]}"


class FeedForward(nn.Module):
    """Layer after layer: outputs (n, c) of samples (n, …) with f numbers each; any numeric dtype comes in.

    layers: see `layer_specs`. seed: of the first weights, 64 bits; each layer's are a function of (seed, its number)
    and of its own shape. Rectifiers start with He's normal, others with Glorot's uniform distribution, biases with 0.

    >>> import torch
    >>> net = FeedForward((4, (8, "tanh"), 3), seed=1)
    >>> net(torch.ones(2, 2, 2)).shape, [name for name, _ in net.named_parameters()]
    (torch.Size([2, 3]), ['hid1.weight', 'hid1.bias', 'out.weight', 'out.bias'])
    """

    def __init__(self, layers: Layers, *, activation: str = "relu", output: str = "linear", seed: int = 0) -> None:
        super().__init__()
        self.specs = layer_specs(layers, activation=activation, output=output)
        self.names = tuple(spec.name for spec in self.specs)
        self.add_module(self.names[0], Input(self.specs[0].size))
        for number, (below, spec) in enumerate(pairwise(self.specs), 1):
            if spec.tied is not None:
                partner = self.get_submodule(spec.tied)
                assert isinstance(partner, Dense)
                self.add_module(spec.name, Tied(partner, spec))
                continue
            layer = Dense(below.size, spec)
            fill(layer, seed=mix64((seed + number * GOLDEN) & MASK_64))
            self.add_module(spec.name, layer)

    @classmethod
    def of(cls, layers: Mapping[str, nn.Module]) -> "FeedForward":
        """A net of layers that exist already: they are shared with whatever they were part of, not copied."""
        net = FeedForward.__new__(FeedForward)
        nn.Module.__init__(net)
        net.names = tuple(layers)
        net.specs = tuple(_spec_of(name, layer) for name, layer in layers.items())
        for name, layer in layers.items():
            net.add_module(name, layer)
        return net

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The layers by name, from inputs to outputs."""
        return {name: self.get_submodule(name) for name in self.names}

    @property
    def hidden(self) -> tuple[str, ...]:
        """The names of the hidden layers."""
        return self.names[1:-1]

    def forward(self, x: Tensor) -> Tensor:
        modules: Mapping[str, Any] = self._modules
        for name in self.names:
            x = modules[name](x)
        return x

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """What every layer gives for the samples x (n, …): (n, u) by name, the inputs as "in".

        >>> {name: tuple(h.shape) for name, h in FeedForward((4, 3, 2)).activations(torch.ones(5, 4)).items()}
        {'in': (5, 4), 'hid1': (5, 3), 'out': (5, 2)}
        """
        return dict(self._through(x))

    def _through(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, layer in self.layers.items():
            x = layer(x)
            yield name, x


def _spec_of(name: str, layer: nn.Module) -> LayerSpec:
    if isinstance(layer, Input):
        return LayerSpec(name=name, size=layer.size, activation="linear")
    assert isinstance(layer, Dense | Tied)
    return replace(layer.spec, name=name)


@torch.no_grad()
def fill(layer: Dense, *, seed: int) -> None:
    """Give a layer its first weights, a function of (spec, shape, seed); its biases become 0."""
    spec = layer.spec
    rule = "he_normal" if spec.activation in RECTIFIERS else "glorot_uniform"
    if spec.std is not None:
        initialisation.fill(layer, "lecun_normal", seed=seed)
        layer.weight.mul_(spec.std * math.sqrt(layer.weight.shape[1]))
    else:
        initialisation.fill(layer, rule, seed=seed)
    if spec.sparsity:
        # Exactly this share, chosen by keyed words; ties of equal words go to the earlier weight.
        words = _words(mix64(seed ^ MASK_64), *layer.weight.shape)
        chosen = torch.argsort(words.flatten(), stable=True)[: round(spec.sparsity * words.numel())]
        layer.weight.view(-1)[chosen] = 0.0


def _words(key: int, rows: int, columns: int) -> Tensor:
    """Random words of `key` for the places of a matrix: int32 (rows, columns)."""
    cpu = torch.device("cpu")
    signed = key - 2**64 if key >> 63 else key
    low, high = sample_words(torch.tensor([[signed]]), torch.arange(rows))
    return element_bits(low[0], high[0], element_words(columns, cpu))

"""Noise layers whose randomness is keyed to nominal time: no generator, no state, nothing to save.

Every layer bound by `bind` has a 64-bit key. The random word of one element of one sample is a hash of (key of the
layer, number of the call of that layer within one forward pass, nominal time of the sample, index of the element in
the sample), in integer arithmetic alone. So a mask is the same for any cut into microbatches, on any device, with any
number of threads, after a resume and in a recomputation; and no state of a generator is ever saved.

The hash, modulo 2^64 and 2^32 (`tests/models/test_noise.py` has it in plain Python):
    stream   = mix64(key + call · GOLDEN), or `key` itself for call 0
    word     = mix64(stream + (time + 1) · GOLDEN)        the words that `minibatch.rng.bits(stream, time)` gives
    x        = low half of word  ^  premix(element)
    x        = (x ^ x >> 16) · A + high half of word
    x        = (x ^ x >> 15) · B                          Wellons' lowbias32, all but its last step
    keep     = x ≥ 2^32 · p - 2^31                        as signed numbers, round(2^32 · p) if that fits
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from statistics import NormalDist
from typing import Any, Self

import torch
from torch import Tensor, nn

MASK_64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
# "lowbias32", found by search for least avalanche bias; C. Wellons, hash-prospector, 2018.
A = 0x7FEB352D
B = 0x846CA68B


def _signed(word: int, bits: int) -> int:
    """An unsigned word as the signed number of the same bits: torch has no unsigned arithmetic."""
    return word - (1 << bits) if word >> (bits - 1) else word


_GOLDEN, _MIX_1, _MIX_2 = (_signed(word, 64) for word in (GOLDEN, MIX_1, MIX_2))
_B = _signed(B, 32)


def mix64(word: int) -> int:
    """The finalizer of SplitMix64 (Stafford's variant 13) on a Python integer; equal to `minibatch.rng.mix64`."""
    word = (word ^ (word >> 30)) * MIX_1 & MASK_64
    word = (word ^ (word >> 27)) * MIX_2 & MASK_64
    return word ^ (word >> 31)


def sample_words(offsets: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high halves of the word of each stream and sample: int32 (streams, n, 1) twice.

    offsets: the streams as signed numbers, int64 (streams, 1); times: int64 (n,).
    """
    word = (times + 1) * _GOLDEN + offsets
    # In place: these are tiny tensors, and each operation costs its launch.
    word ^= (word >> 30) & ((1 << 34) - 1)
    word *= _MIX_1
    word ^= (word >> 27) & ((1 << 37) - 1)
    word *= _MIX_2
    word ^= (word >> 31) & ((1 << 33) - 1)
    word = word.unsqueeze(-1)
    return word.to(torch.int32), (word >> 32).to(torch.int32)


def element_words(count: int, device: torch.device) -> Tensor:
    """The premixed index of every element of a sample: int32 (count,)."""
    word = torch.arange(1, count + 1, dtype=torch.int32, device=device)
    word *= _signed(GOLDEN >> 32, 32)
    word ^= (word >> 16) & 0xFFFF
    word *= A
    word ^= (word >> 15) & 0x1FFFF
    word *= _B
    word ^= (word >> 16) & 0xFFFF
    return word


def element_bits(low: Tensor, high: Tensor, elements: Tensor) -> Tensor:
    """Random words of every element: int32 (n, count) of low, high (n, 1), elements (count,); high bits are best."""
    word = low ^ elements
    # torch shifts signed numbers only; without the masks the sign bit would be xored with itself, and lost.
    word ^= (word >> 16) & 0xFFFF
    word *= A
    word += high
    word ^= (word >> 15) & 0x1FFFF
    word *= _B
    return word


class NoiseKeys:
    """The keys of a model's noise layers and, inside `with keys.at(times):`, which samples the model is working on.

    One object per model, made by `bind`. `at` surrounds the forward and the backward pass (a recomputation happens in
    the latter) of one microbatch, whose samples have the nominal `times`: int64 (n,), on the model's device.
    """

    def __init__(self, names: Sequence[str], keys: Sequence[int]) -> None:
        self.names = tuple(names)
        self.keys = tuple(keys)
        self.times: Tensor | None = None
        self.calls = [0] * len(keys)
        self._words: tuple[Tensor, Tensor] | None = None
        self._offsets: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._replaying = False
        self._entering: Tensor | None = None
        self._outer: list[tuple[Tensor | None, list[int], tuple[Tensor, Tensor] | None]] = []

    def at(self, times: Tensor) -> Self:
        """A context in which the samples at hand are those of nominal `times`: int64 (n,), on the model's device."""
        self._entering = times
        return self

    def __enter__(self) -> Self:
        self._outer.append((self.times, self.calls, self._words))
        self.times, self.calls, self._words = self._entering, [0] * len(self.keys), None
        _ACTIVE.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.times, self.calls, self._words = self._outer.pop()
        _ACTIVE.remove(self)

    def words(self, layer: int) -> tuple[Tensor, Tensor]:
        """The sample words of the next call of layer number `layer`: two int32 tensors (n, 1)."""
        assert self.times is not None
        call = self._call_of(layer)
        if call == 0:
            if self._words is None:
                # Of all layers at once: the cost is in the launches.
                self._words = sample_words(self._offsets_of(self.keys, self.times.device), self.times)
            low, high = self._words
            return low[layer], high[layer]
        stream = mix64((self.keys[layer] + call * GOLDEN) & MASK_64)
        low, high = sample_words(self._offsets_of((stream,), self.times.device), self.times)
        return low[0], high[0]

    def _offsets_of(self, streams: tuple[int, ...], device: torch.device) -> Tensor:
        """The streams on the device, kept there: a copy in every step would wait for it."""
        offsets = self._offsets.get((streams, device))
        if offsets is None:
            offsets = torch.tensor([[_signed(stream, 64)] for stream in streams], device=device)
            self._offsets[streams, device] = offsets
        return offsets

    def _call_of(self, layer: int) -> int:
        """The number of this call of the layer, counted within one forward pass; a recomputation is the same call."""
        if not self._replaying and _in_backward():
            # A recomputation (activation checkpointing) that did not say which call it repeats.
            if self.calls[layer] <= 1:
                return 0
            raise RuntimeError(
                f"noise layer {self.names[layer]!r} is called {self.calls[layer]} times in one forward pass and now "
                "again in a recomputation: pass context_fn=noise.checkpoint_contexts to torch.utils.checkpoint"
            )
        call = self.calls[layer]
        self.calls[layer] = call + 1
        return call

    @contextmanager
    def replay(self, calls: list[int]) -> Iterator[None]:
        """Count calls from `calls` on: the recomputation of a part of the forward pass."""
        before, self.calls, self._replaying = (self.calls, self._replaying), list(calls), True
        try:
            yield
        finally:
            self.calls, self._replaying = before


class KeyedNoise(nn.Module):
    """What noise layers share: identity in eval mode, and random words from the keys in train mode.

    Subclasses call `words(x)`, and the first axis of `x` must be the samples of the microbatch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: NoiseKeys | None = None
        self.number = 0
        self._elements: Tensor | None = None

    def words(self, x: Tensor, count: int) -> Tensor:
        """Random words int32 (n, count) for the samples x (n, …)."""
        keys = self.keys
        if keys is None or keys.times is None:
            raise RuntimeError(
                f"{type(self).__name__} draws by nominal time, but was called in train mode outside of a step: "
                "let Trainer run the model; or write `keys = noise.bind(model, key_of)` once and "
                "`with keys.at(times):` around forward and backward; or call model.eval() for inference"
            )
        if x.ndim == 0 or x.shape[0] != keys.times.shape[0]:
            raise ValueError(
                f"noise layer {keys.names[self.number]!r} got an input of shape {tuple(x.shape)}, but the microbatch "
                f"has {keys.times.shape[0]} samples: the first axis must be samples; reshape before and after the layer"
            )
        elements = self._elements
        if elements is None or elements.shape[0] != count or elements.device != x.device:
            elements = self._elements = element_words(count, x.device)
        low, high = keys.words(self.number)
        return element_bits(low, high, elements)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is unbound: it would otherwise count its calls in the keys of the original.
        return {**self.__dict__, "keys": None, "_elements": None}


class Dropout(KeyedNoise):
    """Zero each element with probability `p` and scale the others by 1/(1 - p); identity in eval mode.

    Hinton et al. 2012, arXiv:1207.0580, in the "inverted" form. x: floating (n, …), n samples; the result has its shape
    and dtype. With `per_channel`, whole channels x[i, j] are zeroed (Tompson et al. 2015, arXiv:1411.4280).

    >>> layer = Dropout(0.5)
    >>> with bind(layer, lambda name: 7).at(torch.arange(3)):
    ...     layer(torch.ones(3, 4)).unique().tolist()
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5, *, per_channel: bool = False) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p={p}: expected a probability, 0 ≤ p ≤ 1")
        self.p = float(p)
        self.per_channel = per_channel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            return x * 0.0
        if self.per_channel and x.ndim < 2:
            raise ValueError(f"Dropout(per_channel=True) needs an input (n, channels, …), got shape {tuple(x.shape)}")
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if self.per_channel else x.shape
        # p = 1 - 2^-40 would overflow the threshold: the largest word then still survives, once in 2^32.
        threshold = min(round(self.p * 2**32), 2**32 - 1) - 2**31
        keep = self.words(x, math.prod(shape[1:])) >= threshold
        return x * keep.to(x.dtype).mul_(1.0 / (1.0 - self.p)).view(shape)

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", per_channel=True" if self.per_channel else "")


class GaussianNoise(KeyedNoise):
    """Add independent N(0, sigma²) to each element; identity in eval mode. x: floating (n, …); sigma: a deviation.

    The normal numbers are sums of two entries of a table of quantiles, each chosen by 16 random bits, so that they are
    the same bits on every device (logarithms and cosines are not): exact mean and variance, tails to ±5.9 sigma.

    >>> layer = GaussianNoise(0.1).eval()
    >>> layer(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not (sigma >= 0.0 and math.isfinite(sigma)):
            raise ValueError(f"sigma={sigma}: expected a standard deviation, finite and ≥ 0")
        self.sigma = float(sigma)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.sigma == 0.0:
            return x
        word = self.words(x, math.prod(x.shape[1:]))
        word ^= (word >> 16) & 0xFFFF  # lowbias32's last step: dropout reads the high bits only
        table = _half_normal_table(x.device)
        noise = table[((word >> 16) & 0xFFFF).long()] + table[(word & 0xFFFF).long()]
        return x + (noise * self.sigma).to(x.dtype).view(x.shape)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


@cache
def _half_normal_table(device: torch.device) -> Tensor:
    """The 65,536 quantiles of N(0, 1/2) at the middles of equal probabilities, scaled to variance 1/2: float64."""
    normal = NormalDist()
    upper = [normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    scale = math.sqrt(0.5 / (math.fsum(value * value for value in upper) / 32768))
    half = [value * scale for value in upper]
    return torch.tensor([-value for value in reversed(half)] + half, dtype=torch.float64, device=device)


def bind(model: nn.Module, key_of: Callable[[str], int]) -> NoiseKeys:
    """Give every noise layer in `model` the key `key_of(name)`; the object whose `at(times)` switches them on.

    The keys are 64-bit integers; an engine derives them with `minibatch.rng.key(seed, "noise." + name)`. Binding again
    replaces the keys.

    >>> keys = bind(nn.Sequential(nn.Linear(2, 2), Dropout(0.1)), hash)
    >>> keys.names
    ('1',)
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, KeyedNoise)}
    keys = NoiseKeys(list(layers), [key_of(name) & MASK_64 for name in layers])
    for number, layer in enumerate(layers.values()):
        layer.keys, layer.number = keys, number
    return keys


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For `torch.utils.checkpoint.checkpoint(…, use_reentrant=False, context_fn=noise.checkpoint_contexts)`.

    Needed only where a noise layer is called several times within one forward pass; others need no help.
    """
    calls = {keys: list(keys.calls) for keys in _ACTIVE}

    @contextmanager
    def recomputation() -> Iterator[None]:
        with ExitStack() as stack:
            for keys, counted in calls.items():
                stack.enter_context(keys.replay(counted))
            yield

    return nullcontext(), recomputation()


# Which keys are switched on, innermost last. Not per thread: on a GPU the backward pass runs in a thread of its own.
_ACTIVE: list[NoiseKeys] = []


def _in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    current = getattr(torch._C, "_current_graph_task_id", None)  # what torch.utils.checkpoint itself asks
    return current is not None and current() != -1


# Layers that draw from torch's global generator in train mode; what `convert` can replace is in `_keyed`.
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


def convert(model: nn.Module) -> list[str]:
    """Replace torch's dropout layers in `model`, in place, by keyed ones of the same rate; the names of those replaced.

    Raises ValueError, with nothing replaced, if the model has other layers that draw from the global generator, or is
    such a layer itself.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    >>> convert(model), model[1]
    (['1'], Dropout(p=0.5))
    """
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if _is_foreign(module)}
    stuck = {name: _one_line(module) for name, module in found.items() if not name or _keyed(module) is None}
    if stuck:
        raise ValueError(
            "no keyed layer exists for "
            + "; ".join(f"{name or 'the model itself'}: {what}" for name, what in stuck.items())
            + ": write these with noise.Dropout or noise.GaussianNoise, or set their rates to 0"
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


def _keyed(module: nn.Module) -> Dropout | None:
    """The keyed layer that does the same as `module`, or None."""
    if isinstance(module, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return Dropout(module.p, per_channel=True)
    return Dropout(module.p) if isinstance(module, nn.Dropout) else None


def _one_line(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"

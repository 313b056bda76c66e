"""The keys of a model's noise layers, and which samples and which call of a layer are at hand.

A layer bound by `bind` has a 64-bit key. The stream of one of its calls is
    stream   = mix64(key + call · GOLDEN), or `key` itself for call 0
    key      = mix64(key of `bind` + mix64(number of the data stream)), or the key of `bind` itself for number 0
and words.py makes random words of (stream, nominal time, element).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from minibatch.models.noise.words import (
    GOLDEN,
    MASK_64,
    element_bits,
    element_words,
    half_normal_table,
    mix64,
    normals,
    sample_words,
    signed,
)


@dataclass(kw_only=True)
class _Pass:
    """What one forward pass works on: the samples, the keys of the layers for their stream, and calls so far."""

    times: Tensor | None
    keys: tuple[int, ...]
    calls: list[int]
    words: tuple[Tensor, Tensor] | None


class NoiseKeys:
    """The keys of a model's noise layers and, inside `with keys.at(times):`, which samples the model is working on.

    One object per model, made by `bind`. `at` surrounds the forward and the backward pass (a recomputation happens in
    the latter) of one microbatch. Every forward pass over the same samples needs an `at` of its own: within one, a
    second call of a layer is another draw. calls: how often each layer has been called within it.
    """

    def __init__(self, names: Sequence[str], keys: Sequence[int], *, normals: bool = False) -> None:
        self.names = tuple(names)
        self.keys = tuple(keys)
        self.times: Tensor | None = None
        self.calls = [0] * len(keys)
        self.table: Tensor | None = None  # of quantiles, where a layer draws normal numbers
        self._normals = normals
        self._keys = self.keys
        self._words: tuple[Tensor, Tensor] | None = None
        self._of_stream: dict[int, tuple[int, ...]] = {0: self.keys}
        self._offsets: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._replaying = False
        self._entering: tuple[Tensor, int] | None = None
        self._outer: list[_Pass] = []

    def at(self, times: Tensor, stream: int = 0) -> Self:
        """A context in which the samples at hand are those of nominal `times`: int64 (n,), on the model's device.

        stream: 64 bits that tell data streams apart whose nominal times overlap (joint training on several sources);
        samples of different streams get independent noise at equal times.
        """
        self._entering = (times, stream)
        return self

    def __enter__(self) -> Self:
        assert self._entering is not None, "write `with keys.at(times):`"
        times, stream = self._entering
        keys = self._of_stream.get(stream)
        if keys is None:
            shift = mix64(stream & MASK_64)
            keys = self._of_stream[stream] = tuple(mix64(key + shift & MASK_64) for key in self.keys)
        self._begin(_Pass(times=times, keys=keys, calls=[0] * len(keys), words=None))
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def words(self, layer: int) -> tuple[Tensor, Tensor]:
        """The sample words of the next call of layer number `layer`: two int32 tensors (n, 1)."""
        call = self._call_of(layer)
        if call == 0:
            assert self._words is not None
            low, high = self._words
            return low[layer], high[layer]
        assert self.times is not None
        return sample_words(signed(mix64(self._keys[layer] + call * GOLDEN & MASK_64)), self.times)

    def current(self) -> _Pass:
        """The pass at hand, to be repeated by `replay`."""
        return _Pass(times=self.times, keys=self._keys, calls=list(self.calls), words=self._words)

    @contextmanager
    def replay(self, again: _Pass) -> Iterator[None]:
        """The recomputation of a part of a forward pass: its samples, and calls counted from where they stood."""
        replaying, self._replaying = self._replaying, True
        self._begin(_Pass(times=again.times, keys=again.keys, calls=list(again.calls), words=again.words))
        try:
            yield
        finally:
            self._end()
            self._replaying = replaying

    def _begin(self, now: _Pass) -> None:
        self._outer.append(_Pass(times=self.times, keys=self._keys, calls=self.calls, words=self._words))
        if now.words is None and now.times is not None and now.keys:
            # Of all layers at once, because the cost is in the launches; and here, outside of anything compiled.
            now.words = sample_words(self._offsets_of(now.keys, now.times.device), now.times)
            if self._normals:
                self.table = half_normal_table(now.times.device)
        self.times, self._keys, self.calls, self._words = now.times, now.keys, now.calls, now.words
        _ACTIVE.append(self)

    def _end(self) -> None:
        before = self._outer.pop()
        self.times, self._keys, self.calls, self._words = before.times, before.keys, before.calls, before.words
        _ACTIVE.remove(self)

    def _offsets_of(self, keys: tuple[int, ...], device: torch.device) -> Tensor:
        """The keys on the device, kept there: a copy in every step would wait for it."""
        offsets = self._offsets.get((keys, device))
        if offsets is None:
            offsets = torch.tensor([[signed(key)] for key in keys], device=device)
            self._offsets[keys, device] = offsets
        return offsets

    def _call_of(self, layer: int) -> int:
        """The number of this call of the layer, counted within one forward pass; a recomputation is the same call."""
        call = self.calls[layer]
        if not self._replaying and call and in_backward():
            # A recomputation (activation checkpointing) that did not say which call it repeats.
            if call == 1:
                return 0
            raise RuntimeError(
                f"noise layer {self.names[layer]!r} is called {call} times in one forward pass and now again in a "
                "recomputation: call torch.utils.checkpoint with use_reentrant=False and "
                "context_fn=noise.checkpoint_contexts"
            )
        self.calls[layer] = call + 1
        return call


class KeyedNoise(nn.Module):
    """What noise layers share: identity in eval mode, and random words from the keys in train mode.

    Subclasses call `words` or `normals`, and the first axis of `x` must be the samples of the microbatch.
    """

    draws_normals = False

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
        low, high = keys.words(self.number)
        return element_bits(low, high, self._elements_of(count, x.device))

    def normals(self, x: Tensor) -> Tensor:
        """Standard normal numbers float64 (n, …) for the samples x (n, …)."""
        word = self.words(x, math.prod(x.shape[1:]))
        assert self.keys is not None
        assert self.keys.table is not None
        return normals(word, self.keys.table).view(x.shape)

    def _elements_of(self, count: int, device: torch.device) -> Tensor:
        if torch.compiler.is_compiling():
            return element_words(count, device)  # a few instructions of the compiled kernel, and nothing to guard
        elements = self._elements
        if elements is None or elements.shape[0] != count or elements.device != device:
            elements = self._elements = element_words(count, device)
        return elements

    def __getstate__(self) -> dict[str, Any]:
        # A copy is unbound: it would otherwise count its calls in the keys of the original.
        return {**self.__dict__, "keys": None, "_elements": None}


def bind(model: nn.Module, key_of: Callable[[str], int]) -> NoiseKeys:
    """Give every noise layer in `model` the key `key_of(name)`; the object whose `at(times)` switches them on.

    The keys are 64-bit integers; an engine derives them with `minibatch.rng.key(seed, "noise." + name)`. Binding again
    replaces the keys.

    >>> from minibatch.models.noise import Dropout
    >>> keys = bind(nn.Sequential(nn.Linear(2, 2), Dropout(0.1)), lambda name: 7)
    >>> keys.names
    ('1',)
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, KeyedNoise)}
    drawing = any(layer.draws_normals for layer in layers.values())
    keys = NoiseKeys(list(layers), [key_of(name) & MASK_64 for name in layers], normals=drawing)
    for number, layer in enumerate(layers.values()):
        layer.keys, layer.number = keys, number
    return keys


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For `torch.utils.checkpoint.checkpoint(…, use_reentrant=False, context_fn=noise.checkpoint_contexts)`.

    Needed only where a noise layer is called several times within one forward pass, or where backward runs outside of
    `with keys.at(times):`; others need no help.
    """
    passes = {keys: keys.current() for keys in _ACTIVE}

    @contextmanager
    def recomputation() -> Iterator[None]:
        with ExitStack() as stack:
            for keys, again in passes.items():
                stack.enter_context(keys.replay(again))
            yield

    return nullcontext(), recomputation()


# Which keys are switched on, innermost last. Not per thread: on a GPU the backward pass runs in a thread of its own.
_ACTIVE: list[NoiseKeys] = []


# A compiled layer asks when it is traced: the count of calls that it is guarded by tells recomputations apart.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    current = getattr(torch._C, "_current_graph_task_id", None)  # what torch.utils.checkpoint itself asks
    return current is not None and current() != -1

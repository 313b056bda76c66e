"""Several data sets on one axis, in exact integer ratios, invertible in closed form.

Nominal time is cut into blocks; each block holds exactly `weight` samples of each source, in an order permuted by a key
of the block. A source keeps a timeline of its own, of its own shuffled sweeps, and the mixture shows it from one end
to the other: what a source shows next depends on (seed, its name) alone, not on weights, stages or other sources.
`docs/order.md` section 5 specifies it exactly. What does not belong here: opening data sets, reading samples.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from functools import cached_property
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minibatch import rng
from minibatch.arguments import checked_integer
from minibatch.kernels import mix
from minibatch.timeline import MAX_TIME, Stretch

VERSION = 1
MAX_BLOCK = 2**16  # a single place costs a whole block: 0.2 ms at this size; ratios are exact to 1.5e-5 then
SHORT_GAP = 2048  # a call costs as much as this many places (measured 2026-11)
PLACES_AT_ONCE = 1 << 16


class RowOrder(Protocol):
    """An endless order of the rows of one data set: `minibatch.order.Order`, or anything else with these members."""

    @property
    def rows(self) -> int:
        """How many rows a sweep has."""

    def fill(self, start: int, out: NDArray[np.int64]) -> None:
        """Write the rows at the times start, start + 1, … to `out`."""

    def time_of(self, row: int, sweep: int) -> int:
        """The time at which sweep `sweep` shows `row`."""

    def describe(self) -> Any:
        """What a checkpoint says of it."""


@dataclass(frozen=True)
class Mixture:
    """Several data sets on one axis: what `MinibatchSource` takes in place of a data set.

    `data` names the sources and has the folder or `Dataset` of each. `weights` are integers: every block of
    sum(weights) nominal times holds exactly that many samples of each source. {"a": 3, "b": 1} and {"a": 6, "b": 2} are
    the same ratio in blocks of four and of eight. `stages` are (nominal time, weights) pairs that change the weights
    from that time on, where a new block begins. `max_sweeps` are how often a source is shown at most; one that has been
    drops out and the others keep their ratio; when none is left, the axis ends.

    Raises `TypeError` for weights that are not integers, `ValueError` for negative ones, for names that are unknown or
    missing, stages out of order, and a time at which nothing is left to show though a later stage would have something.

    >>> mixture = Mixture({"wiki": "data/wiki", "code": "data/code"}, weights={"wiki": 3, "code": 1})
    >>> mixture.names
    ('wiki', 'code')
    """

    data: Mapping[str, Any]
    _: KW_ONLY
    weights: Mapping[str, int]
    stages: Sequence[tuple[int, Mapping[str, int]]] = ()
    max_sweeps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping) or not self.data:
            raise TypeError(f'a Mixture takes its sources by name, {{"wiki": "data/wiki", …}}, got {self.data!r}')
        for name in self.data:
            if not isinstance(name, str) or not name:
                raise TypeError(f"the name of a source must be a text, got {name!r}")
        if isinstance(self.stages, Mapping | str) or not isinstance(self.stages, Sequence):
            raise TypeError(f"stages must be a list of (nominal time, weights) pairs, got {self.stages!r}")
        stages: list[tuple[int, dict[str, int]]] = []
        for stage in self.stages:
            if not isinstance(stage, Sequence) or len(stage) != 2:
                raise TypeError(f"stages must be a list of (nominal time, weights) pairs, got {stage!r} in it")
            least = stages[-1][0] + 1 if stages else 1
            begin = checked_integer(stage[0], f"the nominal time of stage {len(stages)}", least=least)
            stages.append((begin, checked_weights(stage[1], self.names, f"stages[{len(stages)}]")))
        if not isinstance(self.max_sweeps, Mapping):
            raise TypeError(f'max_sweeps must be a mapping such as {{"code": 4}}, got {self.max_sweeps!r}')
        unknown = [name for name in self.max_sweeps if name not in self.data]
        if unknown:
            raise ValueError(f"max_sweeps names {unknown}, which are no sources: those are {list(self.names)}")
        for what, value in (
            ("data", dict(self.data)),
            ("weights", checked_weights(self.weights, self.names, "weights")),
            ("stages", tuple(stages)),
            ("max_sweeps", {n: checked_integer(c, f"max_sweeps[{n!r}]", least=1) for n, c in self.max_sweeps.items()}),
        ):
            object.__setattr__(self, what, value)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources, in the order in which their rows are numbered."""
        return tuple(self.data)

    def order(self, make: Callable[[str, int], RowOrder], *, seed: int) -> "MixtureOrder":
        """The order of the mixture under `seed`, where make(name, seed) gives the order of one source by itself.

        The seed that `make` is given belongs to that source: it is hashed from `seed` and the name.

        >>> from minibatch.order import make_order
        >>> sizes = {"a": 10, "b": 4}
        >>> mixture = Mixture({"a": None, "b": None}, weights={"a": 3, "b": 1}, max_sweeps={"b": 2})
        >>> def make(name: str, seed: int) -> RowOrder:
        ...     return make_order(None, rows=sizes[name], chunk_rows=1, seed=seed)
        >>> order = mixture.order(make, seed=7)
        >>> [order.at(t) for t in range(4)]
        [('b', 0), ('a', 0), ('a', 1), ('a', 2)]
        >>> order.rows_at(0, 4).tolist(), order.when("a", 2), order.when("b", 3, sweep=1)
        ([10, 0, 1, 2], 3, 30)
        """
        seed = rng.checked_seed(seed)
        orders = {name: make(name, rng.key(seed, "mixture.source." + name)) for name in self.data}
        order = MixtureOrder(mixture=self, orders=orders, seed=seed)
        order.phases  # noqa: B018 (a stage that leaves a gap is an error here, not at the first minibatch)
        return order


def checked_weights(weights: Any, names: Sequence[str], what: str) -> dict[str, int]:
    """`weights` as a dict in the order of `names`, or the error that says what they may be."""
    if not isinstance(weights, Mapping):
        example = ", ".join(f"{name!r}: 1" for name in names[:2])
        raise TypeError(f"{what} must be a mapping from source to integer, such as {{{example}}}, got {weights!r}")
    unknown, missing = [name for name in weights if name not in names], [name for name in names if name not in weights]
    if unknown or missing:
        raise ValueError(
            f"{what} must name every source: those are {list(names)}"
            + (f", {unknown} are none" if unknown else "")
            + (f", {missing} are missing; write 0 to leave a source out" if missing else "")
        )
    fractional = {n: w for n, w in weights.items() if isinstance(w, float | Fraction) or not isinstance(w, int)}
    fractional = {n: w for n, w in fractional.items() if isinstance(w, Real) and not isinstance(w, np.integer)}
    if fractional:
        name, weight = next(iter(fractional.items()))
        raise TypeError(f"{what}[{name!r}] must be an integer, got {weight!r}: ratios are exact{suggestion(weights)}")
    checked = {name: checked_integer(weights[name], f"{what}[{name!r}]", least=0) for name in names}
    size = sum(checked.values())
    if size == 0:
        raise ValueError(f"{what} must give some source a weight above 0, got {checked}")
    if size > MAX_BLOCK:
        common = math.gcd(*checked.values())
        hint = f"; divided by {common} they are the same ratio" if size // common <= MAX_BLOCK else ""
        raise ValueError(
            f"{what} must add up to at most {MAX_BLOCK:,}, because a block of that many samples is dealt at once; "
            f"they add up to {size:,}{hint}"
        )
    return checked


def suggestion(weights: Mapping[str, Any]) -> str:
    """Integers in the ratio of `weights` that are not, as the end of a sentence; nothing where there are none.

    >>> suggestion({"a": 0.7, "b": 0.3})
    "; write {'a': 7, 'b': 3}"
    """
    try:
        exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    except ValueError:  # not a number, or infinite
        return ""
    for ratios in (exact, {name: weight.limit_denominator(100) for name, weight in exact.items()}):
        common = math.lcm(*(weight.denominator for weight in ratios.values()))
        whole = {name: int(weight * common) for name, weight in ratios.items()}
        divisor = math.gcd(*whole.values())
        if divisor and min(whole.values()) >= 0 and sum(whole.values()) // divisor <= MAX_BLOCK:
            return f"; write { ({name: weight // divisor for name, weight in whole.items()}) }"
    return ""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A run of equal blocks: nominal times [begin, stop), blocks of sum(weights) from `begin` on, the last one cut
    where `stop` cuts it. `counts` says how many samples of each source stand before `begin`."""

    begin: int
    stop: int
    weights: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """The length of a block."""
        return sum(self.weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureOrder:
    """Which row of which source stands at each nominal time; made by `Mixture.order`.

    Rows are numbered through: a source's begin after those of the sources before it (`bases`).
    """

    mixture: Mixture
    orders: Mapping[str, RowOrder]
    seed: int

    @cached_property
    def bases(self) -> NDArray[np.int64]:
        """The number of the first row of each source, and of the row after the last: int64 (sources + 1,)."""
        return np.cumsum([0, *(order.rows for order in self.orders.values())], dtype=np.int64)

    @property
    def rows(self) -> int:
        """How many rows all sources have together."""
        return int(self.bases[-1])

    @cached_property
    def _key(self) -> np.uint64:
        return np.uint64(rng.key(self.seed, "mixture.block"))

    @cached_property
    def _by_name(self) -> list[int]:
        # Blocks are laid out by name, so that a mixture does not depend on the order in which it was written down.
        return sorted(range(len(self.orders)), key=self.mixture.names.__getitem__)

    @cached_property
    def _caps(self) -> tuple[int, ...]:
        names, caps = self.mixture.names, self.mixture.max_sweeps
        return tuple(caps[name] * self.orders[name].rows if name in caps else 2 * MAX_TIME for name in names)

    def _hand(self, weights: Sequence[int]) -> NDArray[np.int32]:
        return np.repeat(np.array(self._by_name, np.int32), [weights[i] for i in self._by_name])

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The axis as runs of equal blocks, ascending and without gaps; the last one ends where the axis does."""
        names = self.mixture.names
        stages = [(0, self.mixture.weights), *self.mixture.stages]
        plan = [(begin, tuple(weights[name] for name in names)) for begin, weights in stages]
        phases: list[Phase] = []
        time, counts = 0, [0] * len(names)
        for (begin, weights), stop in zip(plan, [*(begin for begin, _ in plan[1:]), MAX_TIME], strict=True):
            while time < stop:
                left = [cap - count for cap, count in zip(self._caps, counts, strict=True)]
                # One block gives what is left of a source that has too little; the next one goes without it.
                block = tuple(map(min, weights, left))
                if not any(block):
                    later = [t for t, w in plan if t > begin and any(map(min, w, left))]
                    if later:
                        raise ValueError(
                            f"from nominal time {time} on, every source with a weight in the stage that begins at "
                            f"{begin} has been shown max_sweeps times, but the stage at {later[0]} has more to show: "
                            f"begin it at {time} or before, or raise max_sweeps"
                        )
                    return tuple(phases)
                blocks = min(room // weight for room, weight in zip(left, block, strict=True) if weight)
                end = min(stop, time + blocks * sum(block))
                phases.append(Phase(begin=time, stop=end, weights=block, counts=tuple(counts)))
                counts = self._counts(phases[-1], end)
                time = end
        return tuple(phases)

    def _counts(self, phase: Phase, time: int) -> list[int]:
        whole, rest = divmod(time - phase.begin, phase.size)
        before, taken = np.zeros((2, len(self.orders)), np.int64)
        if rest:
            mix.deal(self._key, self._hand(phase.weights), phase.begin, time, np.empty(0, np.int32), before, taken)
        parts = zip(phase.counts, phase.weights, before.tolist(), strict=True)
        return [count + whole * weight + more for count, weight, more in parts]

    @cached_property
    def _begins(self) -> list[int]:
        return [phase.begin for phase in self.phases]

    @cached_property
    def _hands(self) -> list[NDArray[np.int32]]:
        return [self._hand(phase.weights) for phase in self.phases]

    @property
    def end(self) -> int:
        """The nominal time at which every source has been shown max_sweeps times; 2^62 where that never happens."""
        return self.phases[-1].stop

    def counts_before(self, nominal_time: int) -> dict[str, int]:
        """How many samples each source has in [0, nominal_time), in closed form.

        Divided by the rows of a source, they say in which of its own sweeps it stands.
        """
        time = checked_integer(nominal_time, "nominal_time", least=0, most=self.end)
        phase = self.phases[bisect_right(self._begins, time) - 1]
        return dict(zip(self.orders, self._counts(phase, time), strict=True))

    def fill(self, start: int, out: NDArray[np.int64]) -> None:
        """Write the rows at the nominal times start, start + 1, … to `out`, int64 (count,), contiguous."""
        stop = start + len(out)
        if stop == start:
            return
        if start < 0 or stop > self.end:
            raise ValueError(f"nominal times {start} … {stop - 1}: this mixture has those in 0 … {self.end - 1}")
        labels = np.empty(len(out), np.int32)
        before, taken, _ = scratch = np.zeros((3, len(self.orders)), np.int64)
        first = number = bisect_right(self._begins, start) - 1
        time = start
        while time < stop:  # one phase, but for the few that a stage or a cap begins
            phase = self.phases[number]
            until = min(stop, phase.stop)
            skipped = before if number == first else scratch[2]
            part = labels[time - start : until - start]
            mix.deal(self._key, self._hands[number], phase.begin, time, part, skipped, taken)
            time, number = until, number + 1
        phase = self.phases[first]
        blocks = (start - phase.begin) // phase.size
        rows = np.empty(len(out), np.int64)
        cursors = np.cumsum(taken) - taken
        for i, order in enumerate(self.orders.values()):
            if taken[i]:
                own = phase.counts[i] + blocks * phase.weights[i] + int(before[i])
                order.fill(own, rows[cursors[i] : cursors[i] + taken[i]])
        mix.merge(labels, self.bases, rows, cursors, out)

    def fill_stretch(self, stretch: Stretch, out: NDArray[np.int64]) -> None:
        """Write the rows of all runs of `stretch`, one after another, to `out`, int64 (stretch.samples,)."""
        length, stride, count = stretch.length, stretch.stride, stretch.count
        if count == 1 or length == 0 or stride - length > SHORT_GAP:
            for i, run in enumerate(stretch.runs()):
                self.fill(run.start, out[i * length : (i + 1) * length])
            return
        together = max(1, PLACES_AT_ONCE // stride)  # short gaps are computed too and thrown away
        for i in range(0, count, together):
            runs = min(together, count - i)
            span = np.empty(runs * stride, np.int64)
            self.fill(stretch.start + i * stride, span[: (runs - 1) * stride + length])  # no further: the axis may end
            out[i * length : (i + runs) * length].reshape(runs, length)[:] = span.reshape(runs, stride)[:, :length]

    def rows_at(self, start: int, count: int) -> NDArray[np.int64]:
        """The rows at the nominal times start … start + count - 1: int64 (count,)."""
        out = np.empty(count, np.int64)
        self.fill(start, out)
        return out

    def time_of(self, row: int, sweep: int) -> int:
        """The nominal time at which `row` is shown for the time number `sweep`, counted from 0: in closed form.

        Raises `ValueError` if it never is: its source has dropped out by then, or its weight is 0 from then on.
        """
        if not 0 <= row < self.rows:
            raise ValueError(f"row {row}: this mixture has rows in 0 … {self.rows - 1}")
        source = int(np.searchsorted(self.bases, row, side="right")) - 1
        return self.when(self.mixture.names[source], row - int(self.bases[source]), sweep)

    def at(self, nominal_time: int) -> tuple[str, int]:
        """The source at a nominal time, and the row of its own that stands there."""
        row = int(self.rows_at(checked_integer(nominal_time, "nominal_time", least=0), 1)[0])
        source = int(self.source_of(np.array([row]))[0])
        return self.mixture.names[source], row - int(self.bases[source])

    def when(self, source: str, row: int, sweep: int = 0) -> int:
        """The nominal time at which sweep `sweep` of `source` shows its row `row`: the inverse of `at`.

        Raises `ValueError` if it never does: the source has dropped out by then, or its weight is 0 from then on.
        """
        if source not in self.orders:
            raise ValueError(f"no source {source!r} in this mixture: those are {list(self.orders)}")
        order, i = self.orders[source], self.mixture.names.index(source)
        row = checked_integer(row, f"a row of {source!r}", least=0, most=order.rows - 1)
        sweep = checked_integer(sweep, "sweep", least=0)
        never = f"sweep {sweep} of {source!r} never shows row {row}"
        if sweep >= self.mixture.max_sweeps.get(source, MAX_TIME):
            raise ValueError(f"{never}: it drops out after {self.mixture.max_sweeps[source]} sweeps")
        if (sweep + 1) * order.rows > 2 * MAX_TIME:
            raise ValueError(f"{never}: nominal time ends at 2**62")
        own = order.time_of(row, sweep)
        number = bisect_right([phase.counts[i] for phase in self.phases], own) - 1
        phase = self.phases[number]
        if phase.weights[i]:
            blocks, ordinal = divmod(own - phase.counts[i], phase.weights[i])
            block = phase.begin + blocks * phase.size
            if block < phase.stop:
                place = mix.place_in_block(self._key, self._hands[number], block, i, ordinal)
                if block + place < phase.stop:
                    return int(block + place)
        raise ValueError(f"{never}: it has no weight any more when its turn would come, or the axis ends before")

    def source_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The source of each of the mixture's rows, as an index of `Mixture.names`: int64, shaped like `rows`."""
        found: NDArray[np.int64] = np.searchsorted(self.bases, rows, side="right") - 1
        return found

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of this order, its seed apart: enough to refuse another one."""
        mixture = self.mixture
        return {
            "mixture_version": VERSION,
            "sources": {n: {"rows": o.rows, "order": o.describe()} for n, o in self.orders.items()},
            "stages": [[0, mixture.weights], *([begin, weights] for begin, weights in mixture.stages)],
            "max_sweeps": mixture.max_sweeps,
        }

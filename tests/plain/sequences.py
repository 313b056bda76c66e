"""Plain twin of the ways to count sequences: docs/sequences.md with lists, one sequence or one token at a time.

The specification in code: no blocks, no windows, no kernels. `Axis` says which sequence stands at each place and how
long it is; `Whole`, `Packed` and `Truncated` walk it, each by its own rule, and know nothing but where they stand.

One rule holds for all: an empty sequence comes along with the one before it (those at the very beginning with the
first that has something).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.plain.source import parts

Token = tuple[int, int]  # the place of its sequence, and its position in it


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Sequences at the places 0, 1, 2, …; `length` is by row; None stands for no border and no end."""

    row: Callable[[int], int]
    length: Callable[[int], int]
    sweep: int | None  # places in a sweep
    laid: int | None = None  # places that the order has at all
    end: int | None = None  # places that are shown
    max_samples: int | None = None
    skip: list[tuple[int, int]] = field(default_factory=list)
    skip_rows: frozenset[int] = frozenset()

    def has(self, place: int) -> bool:
        return self.end is None or place < self.end

    def size(self, place: int) -> int:
        return self.length(self.row(place))

    def behind_empty_ones(self, place: int) -> int:
        while self.has(place) and self.size(place) == 0:
            place += 1
        return place

    def is_over(self, time: int) -> bool:
        return self.max_samples is not None and time >= self.max_samples

    def is_hole(self, place: int, time: int) -> bool:
        return any(start <= time < stop for start, stop in self.skip) or self.row(place) in self.skip_rows

    def borders(self, start: int, stop: int) -> int:
        """How many sweeps have their last place in [start, stop)."""
        return 0 if self.sweep is None else sum((place + 1) % self.sweep == 0 for place in range(start, stop))


@dataclass(frozen=True, kw_only=True)
class PlainBatch:
    """A part of a minibatch: its sequences by place, row and time; `tokens` has those of "packed" and "truncated" as
    (segment, position, place), None for padding and holes, in rows of the array."""

    nominal_time: int
    nominal_end: int
    sweeps_ended: int
    places: list[int]
    rows: list[int]
    times: list[int]
    num_samples: int
    tokens: list[list[tuple[int, int, int] | None]] | None = None


def balanced(lengths: list[int], n: int, i: int) -> tuple[int, int]:
    """Part i of n: each cut is where the sum before it is nearest to its share, the earlier of two."""
    marks = [sum(lengths[:j]) for j in range(len(lengths) + 1)]
    cuts = [min(range(len(marks)), key=lambda j: abs(n * marks[j] - marks[-1] * c)) for c in range(1, n)]
    cuts = [0, *cuts, len(lengths)]
    return cuts[i], cuts[i + 1]


@dataclass(kw_only=True)
class Whole:
    """Whole sequences, as many as fit into k, at least one that has something."""

    axis: Axis
    place: int = 0
    time: int = 0

    def next(self, k: int, n: int = 1, i: int = 0) -> PlainBatch:
        axis, taken, total = self.axis, [], 0
        while not axis.is_over(self.time) and axis.has(self.place + len(taken)):
            length = axis.size(self.place + len(taken))
            if length and (axis.is_over(self.time + total) or (total and total + length > k)):
                break
            taken.append(length)
            total += length
        lo, hi = balanced(taken, n, i)
        mine = [(self.place + j, self.time + sum(taken[:j]), taken[j]) for j in range(lo, hi)]
        mine = [(place, time, length) for place, time, length in mine if not axis.is_hole(place, time)]
        batch = PlainBatch(
            nominal_time=self.time,
            nominal_end=self.time + total,
            sweeps_ended=axis.borders(self.place, self.place + len(taken)),
            places=[place for place, _, _ in mine],
            rows=[axis.row(place) for place, _, _ in mine],
            times=[time for _, time, _ in mine],
            num_samples=sum(length for _, _, length in mine),
        )
        self.place += len(taken)
        self.time += total
        return batch

    def seek(self, time: int) -> None:
        """To the first sequence that begins there or later, behind the empty ones that came with the one before."""
        self.place, self.time = 0, 0
        while time > self.time and self.place != self.axis.laid:
            self.time += self.axis.size(self.place)
            self.place += 1
            while self.place != self.axis.laid and self.axis.size(self.place) == 0:
                self.place += 1
        self.time = max(time, self.time)


def begins(axis: Axis, stop: int) -> list[tuple[int, int]]:
    """(place, nominal time) of the sequences that begin at `stop` or before, laid end to end from time 0 on."""
    found, place, time = [], 0, 0
    while time <= stop and axis.has(place):
        found.append((place, time))
        time += axis.size(place)
        place += 1
    return found


def marked(axis: Axis, run: list[tuple[Token, int]]) -> list[tuple[int, int, int] | None]:
    """(segment, position, place) of the tokens of one row of the array, given with their times; None for holes."""
    out: list[tuple[int, int, int] | None] = []
    segment, last = 0, None
    for (place, position), time in run:
        segment += place != last
        last = place
        out.append(None if axis.is_hole(place, time) else (segment, position, place))
    return out


@dataclass(kw_only=True)
class Packed:
    """All tokens end to end, cut every `block` tokens from where the minibatch begins."""

    axis: Axis
    block: int
    time: int = 0

    def next(self, k: int, n: int = 1, i: int = 0) -> PlainBatch:
        axis, begin = self.axis, self.time
        laid = begins(axis, begin + k)
        owner = {time + j: (place, j) for place, time in laid for j in range(axis.size(place))}
        end = begin
        while end < begin + k and end in owner and not axis.is_over(end):
            end += 1
        blocks = [range(at, min(at + self.block, end)) for at in range(begin, end, self.block)]
        mine = parts(blocks, n)[i]
        rows = [marked(axis, [(owner[t], t) for t in run]) for run in mine]
        shown = {entry[2] for row in rows for entry in row if entry}
        if mine:
            start, stop = mine[0].start, mine[-1].stop
            shown |= {
                place
                for place, time in laid
                if axis.size(place) == 0
                and (start < time <= stop or start == time == 0)
                and not axis.is_hole(place, time)
            }
        batch = PlainBatch(
            nominal_time=begin,
            nominal_end=end,
            sweeps_ended=axis.borders(self.place(laid, begin), self.place(laid, end)),
            places=sorted(shown),
            rows=[axis.row(place) for place in sorted(shown)],
            times=[dict(laid)[place] for place in sorted(shown)],
            num_samples=sum(token is not None for row in rows for token in row),
            tokens=[row + [None] * (self.block - len(row)) for row in rows],
        )
        self.time = end
        return batch

    def place(self, laid: list[tuple[int, int]], time: int) -> int:
        """The sequence that the token at `time` is of; the empty ones before it have come with the one before."""
        if time == 0 or not laid:
            return 0
        over = [place for place, begin in laid if begin + self.axis.size(place) <= time]
        return over[-1] + 1 if over else 0

    def seek(self, time: int) -> None:
        self.time = time


@dataclass(kw_only=True)
class Truncated:
    """Sequences side by side: step by step, each lane that is free takes the next sequence, the lowest lane first."""

    axis: Axis
    lanes: int
    time: int = 0
    waiting: int = 0  # the sequence that is begun next
    held: list[Token | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = [None] * self.lanes

    def finished(self) -> int:
        """All sequences before this place are over."""
        return min([self.waiting, *(token[0] for token in self.held if token)])

    def step(self) -> list[Token | None]:
        """What the lanes show at one step; nothing but None at the end of the axis."""
        axis = self.axis
        for lane in range(self.lanes):
            if self.held[lane] is None:
                self.waiting = axis.behind_empty_ones(self.waiting)
                if axis.has(self.waiting):
                    self.held[lane] = (self.waiting, 0)
                    self.waiting = axis.behind_empty_ones(self.waiting + 1)
        shown = list(self.held)
        for lane, token in enumerate(shown):
            if token:
                place, position = token
                self.held[lane] = (place, position + 1) if position + 1 < axis.size(place) else None
        return shown

    def next(self, k: int, n: int = 1, i: int = 0) -> PlainBatch:
        axis, begin, finished = self.axis, self.time, self.finished()
        columns = []
        while self.time < begin + k and not axis.is_over(self.time) and any(column := self.step()):
            columns.append([(token, self.time + lane) for lane, token in enumerate(column)])
            self.time += self.lanes
        mine = [[column[lane] for column in columns] for lane in parts(list(range(self.lanes)), n)[i]]
        first: dict[int, int] = {}  # when each sequence is first seen here
        rows, shown = [], set()
        for lane in mine:
            run = [(token, time) for token, time in lane if token]
            row = marked(axis, run)
            rows.append(row + [None] * (len(columns) - len(row)))
            for ((place, _), time), entry in zip(run, row, strict=True):
                first.setdefault(place, time)
                shown |= {place} if entry else set()
        return PlainBatch(
            nominal_time=begin,
            nominal_end=self.time,
            sweeps_ended=axis.borders(finished, self.finished()),
            places=sorted(shown),
            rows=[axis.row(place) for place in sorted(shown)],
            times=[first[place] for place in sorted(shown)],
            num_samples=sum(token is not None for row in rows for token in row),
            tokens=rows,
        )

    def seek(self, time: int) -> None:
        self.__init__(axis=self.axis, lanes=self.lanes)  # type: ignore[misc]
        while self.time < time and any(self.step()):
            self.time += self.lanes
        self.time = time


Walk = Whole | Packed | Truncated

"""A minibatch: the samples of an interval of nominal time, or one rank's part of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.fetch import Block
from minibatch.ragged import Ragged


class Packed:
    """Where the tokens of a packed minibatch come from; worked out when first asked for.

    `shape` is that of batch["tokens"], and of the three arrays that `make` gives, int32: segment ids number the
    sequences in each row of the array from 1 on, 0 is padding or a hole; positions are where a token stands in its
    sequence, counted from the sequence's first one; places say which of the minibatch's sequences it belongs to, -1 for
    none.

    `skipped`, int64 (sequences,), is how many elements of each sequence stand before those that the minibatch holds.
    `span` says where in the values of a list the tokens are, if they are all there in order.
    """

    __slots__ = ("_arrays", "_make", "shape", "skipped", "span")

    def __init__(
        self,
        shape: tuple[int, ...],
        make: Callable[[], Sequence[NDArray[np.int32]]],
        skipped: NDArray[np.int64],
        span: slice | None = None,
    ) -> None:
        self.shape = shape
        self.skipped = skipped
        self.span = span
        self._make = make
        self._arrays: Sequence[NDArray[np.int32]] | None = None

    @property
    def arrays(self) -> Sequence[NDArray[np.int32]]:
        """Segment ids, positions and places."""
        if self._arrays is None:
            self._arrays = self._make()
        return self._arrays

    def thinned(self, tokens: NDArray[np.bool_], sequences: NDArray[np.bool_]) -> "Packed":
        """Only the given tokens, a mask shaped as the arrays are, all of the given sequences, bool (n,)."""
        ids, positions, places = self.arrays
        number = np.append(np.cumsum(sequences, dtype=np.int32) - np.int32(1), np.int32(-1))  # the last for place -1
        thin = (ids * tokens, positions * tokens, np.where(tokens, number[places], np.int32(-1)))
        return Packed(self.shape, lambda: thin, self.skipped[sequences])

    def lay_out(self, values: Any, name: str) -> NDArray[Any]:
        """A field as an array of this shape: the elements of a list where they belong; a value that a sequence has
        once, for each of its tokens; zeros where there is none, or None among objects."""
        if self.span is not None and isinstance(values, Ragged) and isinstance(values.values, np.ndarray):
            return np.asarray(values.values[self.span].reshape((*self.shape, *values.values.shape[1:])))
        _, positions, places = self.arrays
        inside = places >= 0
        which: NDArray[Any] = places[inside]
        if isinstance(values, Ragged):
            which = (values.offsets[:-1] - self.skipped)[which] + positions[inside]
            values = values.values
        if not isinstance(values, np.ndarray):
            raise SchemaError(
                f"field {name!r} is a {type(values).__name__}, which cannot be laid out by token: leave it out with "
                f"fields=…, or make it a list of numbers"
            )
        out = np.zeros((*self.shape, *values.shape[1:]), values.dtype)
        if values.dtype == object:
            out.fill(None)
        out[inside] = values[which]
        return out


class Batch:
    """The samples at nominal times [nominal_time, nominal_end), or one rank's part of them.

    `batch["x"]` is the array of field x, (num_samples, *shape): a view of memory that is never written again while
    anything of it is held; a `Ragged` for lists, a `Sparse` for sparse vectors. `rows` has the global row id of each
    row, `times` its nominal time (of a sequence, that of its first element), both int64 (num_sequences,).

    `num_samples` is what nominal time counts: rows, or elements of sequences; `num_holes` is how many more there would
    be without what is skipped or was dropped by a transform. `num_sequences` is the number of rows.
    `bool(batch)` is false only at the end of the axis: a part without samples, or a minibatch that is all holes, is not
    the end. `end_of_sweep` says whether the whole minibatch reaches or crosses a border, `sweeps_ended` how many.

    Packed minibatches have arrays (rows, block) and `segment_ids`, `positions` and `cu_seqlens`, None in others.
    """

    __slots__ = (
        "_block",
        "_fields",
        "_hi",
        "_lo",
        "_packed",
        "_source_of",
        "_start",
        "_times",
        "nominal_end",
        "nominal_time",
        "num_holes",
        "num_samples",
        "sweeps_ended",
    )

    def __init__(
        self,
        block: Block,
        lo: int,
        hi: int,
        *,
        start: int,
        nominal_time: int,
        nominal_end: int,
        sweeps_ended: int,
        num_samples: int | None = None,
        num_holes: int = 0,
        times: NDArray[np.int64] | None = None,
        packed: Packed | None = None,
    ) -> None:
        self._block = block
        self._lo = lo
        self._hi = hi
        self._start = start  # nominal time of the first sample of this part
        self._fields: dict[str, Any] = {}
        self._times = times
        self._packed = packed
        self._source_of: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
        self.num_samples = hi - lo if num_samples is None else num_samples
        self.num_holes = num_holes
        self.nominal_time = nominal_time
        self.nominal_end = nominal_end
        self.sweeps_ended = sweeps_ended

    def __getitem__(self, name: str) -> Any:
        values = self._fields.get(name)
        if values is None:
            column = self._block.columns.get(name)
            if column is None:
                raise SchemaError(f"no field {name!r} in this minibatch: it has {list(self.fields)}")
            values = column.view(self._lo, self._hi)
            if self._packed is not None:
                values = self._packed.lay_out(values, name)
            self._fields[name] = values
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._fields or name in self._block.columns

    def __len__(self) -> int:
        return self.num_samples

    def __bool__(self) -> bool:
        return self.nominal_end > self.nominal_time or self._hi > self._lo

    def __repr__(self) -> str:
        interval = f"[{self.nominal_time}, {self.nominal_end})"
        return f"Batch({interval}, num_samples={self.num_samples}, fields={list(self.fields)})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(dict.fromkeys([*self._block.columns, *self._fields]))

    @property
    def num_sequences(self) -> int:
        """The number of rows: of sequences, in part or whole, where rows are those."""
        return self._hi - self._lo

    @property
    def end_of_sweep(self) -> bool:
        """Whether the whole minibatch reaches or crosses the border of a sweep."""
        return self.sweeps_ended > 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """The global row id of each row: int64 (num_sequences,)."""
        return self._block.rows[self._lo : self._hi]

    @property
    def times(self) -> NDArray[np.int64]:
        """The nominal time of each row, of a sequence that of its first element: int64 (num_sequences,)."""
        if self._times is not None:
            return self._times
        if self._block.times is not None:
            return self._block.times[self._lo : self._hi].copy()  # the block finds its samples by its own
        return np.arange(self._start, self._start + self.num_sequences, dtype=np.int64)

    @property
    def sources(self) -> NDArray[np.int64] | None:
        """Which source of a `Mixture` each row is of, as an index of its names: int64 (num_sequences,); None if there
        is one source only."""
        return None if self._source_of is None else self._source_of(self.rows)

    def come_from(self, source_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> "Batch":
        """This minibatch, of a mixture in which `source_of` tells the source of rows."""
        self._source_of = source_of
        return self

    @property
    def packed(self) -> Packed | None:
        """Where the tokens of a packed minibatch come from; None in others."""
        return self._packed

    @property
    def segment_ids(self) -> NDArray[np.int32] | None:
        """Packed: which sequence of its row of the array each token belongs to, from 1; 0 is padding or a hole."""
        return None if self._packed is None else self._packed.arrays[0]

    @property
    def positions(self) -> NDArray[np.int32] | None:
        """Packed: where in its sequence each token stands, counted from the sequence's first token."""
        return None if self._packed is None else self._packed.arrays[1]

    @property
    def cu_seqlens(self) -> NDArray[np.int32] | None:
        """Packed: the bounds of all runs of one segment, rows of the array end to end: int32 (runs + 1,), from 0.

        What variable-length attention takes as `cu_seqlens`; it ends with the number of tokens.
        """
        if self._packed is None:
            return None
        ids = self._packed.arrays[0]
        begins = np.ones(ids.shape, np.bool_)
        begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
        return np.append(np.flatnonzero(begins), ids.size).astype(np.int32)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle has these samples, not the whole block that they lie in.
        block = Block(self._block.stretch, self.rows, {}, None if self._block.times is None else self._block_times())
        interval = (self._start, self.nominal_time, self.nominal_end, self.sweeps_ended)
        marked = None if self._packed is None else self._packed.arrays[:2]
        extent = (self.num_samples, self.num_holes, self._times, marked, self.sources)
        return rebuilt, (block, *interval, {name: self[name] for name in self.fields}, *extent)

    def _block_times(self) -> NDArray[np.int64] | None:
        times = self._block.times
        return None if times is None else times[self._lo : self._hi]


def rebuilt(
    block: Block,
    start: int,
    nominal_time: int,
    nominal_end: int,
    sweeps_ended: int,
    fields: dict[str, Any],
    num_samples: int,
    num_holes: int,
    times: NDArray[np.int64] | None,
    marked: Sequence[NDArray[np.int32]] | None,
    sources: NDArray[np.int64] | None,
) -> Batch:
    """A copied or pickled minibatch: `block` has its samples and no columns, `fields` their values, `marked` the
    segment ids and positions of a packed one."""
    batch = Batch(
        block,
        0,
        len(block.rows),
        start=start,
        nominal_time=nominal_time,
        nominal_end=nominal_end,
        sweeps_ended=sweeps_ended,
        num_samples=num_samples,
        num_holes=num_holes,
        times=times,
        packed=None if marked is None else Packed(marked[0].shape, lambda: marked, np.zeros(0, np.int64)),
    )
    batch._fields = fields
    return batch if sources is None else batch.come_from(lambda rows: sources)

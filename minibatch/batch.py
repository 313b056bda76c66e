"""A minibatch: the samples of an interval of nominal time, or one rank's part of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.fetch import Block


class Batch:
    """The samples at nominal times [nominal_time, nominal_end), or one rank's part of them.

    `batch["x"]` is the array of field x, (num_samples, *shape): a view of memory that is never written again while
    anything of it is held. `rows` has the global row id of each sample, `times` its nominal time, both int64
    (num_samples,).

    `bool(batch)` is false only at the end of the axis: a part without samples, or a minibatch that is all holes, is not
    the end. `end_of_sweep` says whether the whole minibatch reaches or crosses a border, `sweeps_ended` how many.
    """

    __slots__ = (
        "_block",
        "_fields",
        "_hi",
        "_lo",
        "_start",
        "nominal_end",
        "nominal_time",
        "num_samples",
        "sweeps_ended",
    )

    def __init__(
        self, block: Block, lo: int, hi: int, *, start: int, nominal_time: int, nominal_end: int, sweeps_ended: int
    ) -> None:
        self._block = block
        self._lo = lo
        self._hi = hi
        self._start = start  # nominal time of the first sample of this part
        self._fields: dict[str, NDArray[Any]] = {}
        self.num_samples = hi - lo
        self.nominal_time = nominal_time
        self.nominal_end = nominal_end
        self.sweeps_ended = sweeps_ended

    def __getitem__(self, name: str) -> NDArray[Any]:
        values = self._fields.get(name)
        if values is None:
            column = self._block.columns.get(name)
            if column is None:
                raise SchemaError(f"no field {name!r} in this minibatch: it has {list(self.fields)}")
            values = self._fields[name] = column.view(self._lo, self._hi)
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._fields or name in self._block.columns

    def __len__(self) -> int:
        return self.num_samples

    def __bool__(self) -> bool:
        return self.nominal_end > self.nominal_time

    def __repr__(self) -> str:
        interval = f"[{self.nominal_time}, {self.nominal_end})"
        return f"Batch({interval}, num_samples={self.num_samples}, fields={list(self.fields)})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(dict.fromkeys([*self._block.columns, *self._fields]))

    @property
    def num_sequences(self) -> int:
        """The number of rows."""
        return self.num_samples

    @property
    def end_of_sweep(self) -> bool:
        """Whether the whole minibatch reaches or crosses the border of a sweep."""
        return self.sweeps_ended > 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """The global row id of each sample: int64 (num_samples,)."""
        return self._block.rows[self._lo : self._hi]

    @property
    def times(self) -> NDArray[np.int64]:
        """The nominal time of each sample: int64 (num_samples,)."""
        if self._block.times is not None:
            return self._block.times[self._lo : self._hi].copy()  # the block finds its samples by its own
        return np.arange(self._start, self._start + self.num_samples, dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle has these samples, not the whole block that they lie in.
        block = Block(self._block.stretch, self.rows, {}, None if self._block.times is None else self.times)
        interval = (self._start, self.nominal_time, self.nominal_end, self.sweeps_ended)
        return rebuilt, (block, *interval, {name: self[name] for name in self.fields})

    def replace(self, fields: dict[str, NDArray[Any]]) -> None:
        """Set the fields to what transforms made of them; fields they left out are gone."""
        self._block = Block(self._block.stretch, self._block.rows, {}, self._block.times)
        self._fields = fields


def rebuilt(
    block: Block, start: int, nominal_time: int, nominal_end: int, sweeps_ended: int, fields: dict[str, NDArray[Any]]
) -> Batch:
    """A copied or pickled minibatch: `block` has its samples and no columns, `fields` their values."""
    samples = len(block.rows)
    batch = Batch(
        block, 0, samples, start=start, nominal_time=nominal_time, nominal_end=nominal_end, sweeps_ended=sweeps_ended
    )
    batch.replace(fields)
    return batch

"""Where a source stands on the nominal time axis, and what a minibatch is there, when time counts rows."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minibatch import timeline
from minibatch.batch import Batch
from minibatch.readahead import ReadAhead
from minibatch.timeline import MAX_TIME


class Axis(Protocol):
    """A position on one of the axes that can be laid over rows. Each method is called with the reader's lock held."""

    time: int

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """The minibatch, or one part of it, from `time` on; `time` moves behind it unless there is an error."""

    def seek(self, time: int) -> None:
        """Go to a nominal time."""

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """The rows that stand at `count` nominal times."""

    def when(self, row: int, sweep: int) -> int:
        """The nominal time at which sweep `sweep` shows `row`."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the nominal time."""

    def restore(self, time: int, state: Any) -> None:
        """Go to where `state` was taken."""


class RowAxis:
    """Nominal time counts rows: what stands at time t is one row, in closed form."""

    def __init__(self, order: Any, reader: ReadAhead, end: int) -> None:
        self.time = 0
        self._order = order
        self._reader = reader
        self._end = end
        self._border = border(order)

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`."""
        begin = self.time
        stop = max(begin, min(begin + minibatch_size, self._end))
        start, length = begin, stop - begin
        if num_data_partitions != 1:
            offset, length = timeline.part(length, num_data_partitions, partition_index)
            start += offset
        block, lo, hi = self._reader.read(start, length, minibatch_size)
        ended = timeline.sweeps_ended(begin, stop, self._border)
        self.time = stop
        holes = length - (hi - lo)
        return Batch(
            block, lo, hi, start=start, nominal_time=begin, nominal_end=stop, sweeps_ended=ended, num_holes=holes
        )

    def seek(self, time: int) -> None:
        """See `Axis.seek`."""
        self.time = time

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`."""
        return np.asarray(self._order.rows_at(time, count))

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`."""
        return int(self._order.time_of(row, sweep))

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        return {}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        self.time = time


def border(order: Any) -> int:
    """How many places a sweep has; a mixture, whose sources each have their own sweeps, never reaches a border."""
    return int(order.rows) if getattr(order, "end", None) is None else MAX_TIME

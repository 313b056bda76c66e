"""MinibatchSource: the nominal time axis over a data set, read a minibatch at a time."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch import order as orders
from minibatch import rng, timeline
from minibatch import transforms as operations
from minibatch.arguments import checked_integer
from minibatch.batch import Batch
from minibatch.dataset import Dataset
from minibatch.errors import CheckpointError, DatasetError
from minibatch.fetch import Fetcher
from minibatch.memory import Pool
from minibatch.order import Window
from minibatch.readahead import ReadAhead
from minibatch.timeline import MAX_TIME, SkipRows

STATE_VERSION = 1
SEQUENCES = ("whole", "rows")


class MinibatchSource:
    """The infinite axis of shuffled sweeps over a data set; `next_minibatch(k)` gives the samples of the next k times.

    `data` is the folder of a data set or a `Dataset`. `shuffle` is "full", a `Window(rows=…)` or None. `max_samples`
    and `max_sweeps` end the axis, counted from 0. `fields` picks fields. `transforms` are applied in order. `skip`
    has (start, stop) intervals of nominal time and `SkipRows`, which give no sample while time counts on.

    What a minibatch holds is a function of (data, seed, nominal time, k), never of earlier calls, threads or restarts.
    Threads that share a source take turns: each minibatch goes to one of them. A copy, also one pickled into another
    process, opens the data set again and goes on from the same time. Close it, use it as a context manager, or just
    drop it.

    >>> import tempfile
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10)})
    >>> source = MinibatchSource(folder, seed=7)
    >>> source.next_minibatch(4)["x"].tolist()
    [7, 3, 6, 5]
    >>> state = source.get_checkpoint_state()
    >>> source.next_minibatch(8)["x"].tolist()      # crosses into the second sweep
    [8, 1, 0, 2, 4, 9, 6, 2]
    >>> source.restore_from_checkpoint(state)
    >>> source.next_minibatch(2)["x"].tolist()
    [8, 1]
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Dataset,
        seed: int = 0,
        shuffle: Literal["full"] | Window | None = "full",
        sequences: str = "whole",
        max_samples: int | None = None,
        max_sweeps: int | None = None,
        fields: Sequence[str] | None = None,
        transforms: Iterable[operations.Transform] = (),
        skip: Iterable[Any] = (),
    ) -> None:
        if sequences not in SEQUENCES:
            raise ValueError(f"sequences must be one of {SEQUENCES}, got {sequences!r}")
        self.dataset = Dataset.open(data)
        if len(self.dataset) == 0:
            raise DatasetError(f"{self.dataset.folder} has no rows: there is nothing to lay on the axis")
        self.seed = rng.checked_seed(seed)
        rows = len(self.dataset)
        self.order = orders.make_order(shuffle, rows=rows, chunk_rows=self.dataset.manifest.chunk_rows, seed=self.seed)
        self._rows = rows
        self._end = timeline.end_of_axis(rows, max_samples, max_sweeps)
        self._operations = operations.name_operations(transforms)
        self._time = 0
        self._closed = False
        chosen, holes = self.dataset.select(fields), timeline.holes_of(skip, rows)
        fetcher = Fetcher(dataset=self.dataset, fields=chosen, order=self.order, holes=holes, pool=Pool())
        self._reader = ReadAhead(fetcher, fetcher.sample_bytes, self._end)
        self._arguments = {
            "seed": self.seed,
            "shuffle": shuffle,
            "sequences": sequences,
            "max_samples": max_samples,
            "max_sweeps": max_sweeps,
            "fields": [field.name for field in chosen],
            "transforms": [transform for _, transform in self._operations],
            "skip": [*zip(holes.starts.tolist(), holes.stops.tolist(), strict=True), SkipRows(holes.rows.tolist())],
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """What this source was opened with, the data apart: a new source of the same data is equal with the same."""
        return dict(self._arguments)

    @property
    def nominal_time(self) -> int:
        """Where the next minibatch begins."""
        return self._time

    def next_minibatch(self, minibatch_size: int, num_data_partitions: int = 1, partition_index: int = 0) -> Batch:
        """The samples at the next `minibatch_size` nominal times, or part `partition_index` of `num_data_partitions`
        of them.

        Parts are contiguous and differ in size by at most one; their union is the minibatch. Short only at the end of
        the axis, then empty (falsy) for ever. Time moves on by the whole minibatch. Raises `TypeError` or
        `ValueError` for sizes that are not positive integers, `DamagedDatasetError` when a shard turns out to be
        damaged; time then stays.
        """
        if type(minibatch_size) is not int or minibatch_size < 1:
            minibatch_size = checked_integer(minibatch_size, "minibatch_size", least=1)
        whole = type(num_data_partitions) is int and type(partition_index) is int
        if not whole or num_data_partitions != 1 or partition_index != 0:
            whole = False
            num_data_partitions = checked_integer(num_data_partitions, "num_data_partitions", least=1)
            partition_index = checked_integer(partition_index, "partition_index", least=0, most=num_data_partitions - 1)
        with self._reader.lock:
            if self._closed:
                raise ValueError("this source is closed: open a new one and restore its state")
            begin = self._time
            stop = max(begin, min(begin + minibatch_size, self._end))
            start, length = begin, stop - begin
            if not whole:
                offset, length = timeline.part(length, num_data_partitions, partition_index)
                start += offset
            block, lo, hi = self._reader.read(start, length, minibatch_size)
            ended = timeline.sweeps_ended(begin, stop, self._rows)
            batch = Batch(block, lo, hi, start=start, nominal_time=begin, nominal_end=stop, sweeps_ended=ended)
            if self._operations:
                self._apply_to(batch)
            self._time = stop
        return batch

    def _apply_to(self, batch: Batch) -> None:
        fields = {name: batch[name] for name in batch.fields}
        try:
            batch.replace(operations.apply(self._operations, fields, self.seed, batch.times))
            self._time = batch.nominal_end
        except BaseException:
            self._reader.forget()  # a transform may have written into the block before it failed
            raise

    def minibatches(
        self, minibatch_size: int, num_data_partitions: int = 1, partition_index: int = 0
    ) -> Iterator[Batch]:
        """Minibatches until the end of the axis; without `max_samples` or `max_sweeps`, for ever."""
        while batch := self.next_minibatch(minibatch_size, num_data_partitions, partition_index):
            yield batch

    def seek(self, nominal_time: int) -> None:
        """Go to any nominal time, in O(1); beyond the end of the axis minibatches are empty."""
        time = checked_integer(nominal_time, "nominal_time", least=0)
        with self._reader.lock:
            self._reader.forget()
            self._time = time

    def at(self, nominal_time: int, count: int = 1) -> NDArray[np.int64]:
        """The rows that stand at `count` nominal times from `nominal_time` on: int64 (count,). Moves nothing.

        Limits and holes do not matter here: this is the axis itself.
        """
        start = checked_integer(nominal_time, "nominal_time", least=0)
        return self.order.rows_at(start, checked_integer(count, "count", least=0, most=MAX_TIME - start))

    def when(self, row: int, sweep: int = 0) -> int:
        """The nominal time at which sweep `sweep` shows `row`: the inverse of `at`, in closed form."""
        wanted = checked_integer(row, "row", least=0, most=self._rows - 1)
        return self.order.time_of(wanted, checked_integer(sweep, "sweep", least=0, most=MAX_TIME // self._rows - 1))

    def get_checkpoint_state(self) -> dict[str, Any]:
        """All there is to a checkpoint of the source, ready for JSON; equal whatever was read ahead."""
        return {
            "state_version": STATE_VERSION,
            "nominal_time": self._time,
            "seed": self.seed,
            "order": self.order.describe(),
            "order_version": orders.VERSION,
            "fingerprint": self.dataset.fingerprint,
            "rows": self._rows,
        }

    def restore_from_checkpoint(self, state: Mapping[str, Any], override: Sequence[str] = ()) -> None:
        """Go to the nominal time of `state`, in O(1).

        Raises `CheckpointError`, naming both sides, if the state is of other data ("fingerprint"), another "seed" or
        another "order"; the parts named in `override` may differ, and this source's own then go on from that time.
        """
        mine = self.get_checkpoint_state()
        if not isinstance(state, Mapping) or not mine.keys() <= state.keys():
            missing = sorted(mine.keys() - state.keys()) if isinstance(state, Mapping) else type(state).__name__
            raise CheckpointError(f"not the state of a MinibatchSource: missing {missing}; expected {sorted(mine)}")
        unknown = set(override) - {"fingerprint", "seed", "order"}
        if isinstance(override, str) or unknown:
            raise ValueError(f'override takes names among "fingerprint", "seed" and "order", got {override!r}')
        if state["state_version"] != STATE_VERSION:
            raise CheckpointError(
                f"the state has version {state['state_version']!r}, this release reads {STATE_VERSION}: update it"
            )
        sides = {"fingerprint": "data", "seed": "seed", "order": "order"}
        for part, what in sides.items():
            names = ("order", "order_version") if part == "order" else (part,)
            if part not in override and any(state[name] != mine[name] for name in names):
                theirs, ours = ({name: side[name] for name in names} for side in (state, mine))
                raise CheckpointError(
                    f"the checkpoint was made with another {what}: it says {theirs}, this source of "
                    f"{self.dataset.folder} has {ours}; open the source it was made with, or pass "
                    f"override=[{part!r}] to go on from its nominal time"
                )
        try:
            self.seek(state["nominal_time"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is damaged: {error}") from None

    state_dict = get_checkpoint_state
    load_state_dict = restore_from_checkpoint

    def close(self) -> None:
        """Stop reading ahead. Minibatches already given stay valid."""
        with self._reader.lock:
            self._closed = True
            self._reader.close()

    def __enter__(self) -> "MinibatchSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (os.path.abspath(self.dataset.folder), self._arguments, self.get_checkpoint_state())

    def __repr__(self) -> str:
        return f"MinibatchSource({str(self.dataset.folder)!r}, seed={self.seed}, nominal_time={self._time})"


def reopened(folder: str, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> MinibatchSource:
    """A source like the one that was copied or pickled, at the same nominal time; of the same data, or an error."""
    source = MinibatchSource(folder, **arguments)
    source.restore_from_checkpoint(state)
    return source

"""MinibatchSource: the nominal time axis over a data set, read a minibatch at a time."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch import laying, rng, timeline
from minibatch import order as orders
from minibatch import transforms as operations
from minibatch.arguments import checked_integer
from minibatch.batch import Batch
from minibatch.buffers import Nulls
from minibatch.dataset import Dataset
from minibatch.errors import CheckpointError, DatasetError
from minibatch.fetch import Fetcher
from minibatch.length_groups import LengthGroups
from minibatch.memory import Pool
from minibatch.mixture import Mixture
from minibatch.order import Window
from minibatch.readahead import ReadAhead
from minibatch.timeline import MAX_TIME, SkipRows

STATE_VERSION = 1


class MinibatchSource:
    """The infinite axis of shuffled sweeps over a data set; `next_minibatch(k)` gives the samples of the next k times.

    `data` is the folder of a data set, a `Dataset` (views too), or a `Mixture` of several. `shuffle` is "full", a
    `Window(rows=…)`, `LengthGroups(…)` or None. `max_samples` and `max_sweeps` end the axis, counted from 0. `fields`
    picks fields, `nulls` says what nulls of a field read as. `transforms` are applied in order, while reading ahead.
    `skip` has (start, stop) intervals of nominal time and `SkipRows`, which give no sample while time counts on.

    `sequences` says what time counts where rows are sequences (where some field is a list):

    - "whole": elements of whole sequences, of which a minibatch takes as many as fit, at least one (CNTK's rule);
    - "rows": rows, whatever their lengths;
    - "packed": tokens of sequences laid end to end, cut every `block` tokens: arrays (size / block, block);
    - "truncated": tokens of sequences on `lanes` side by side, for recurrent nets: arrays (lanes, size / lanes).

    The length of a sequence is that of its longest list, or of `length_field`; `docs/sequences.md` has the rules.
    `threads` read ahead, one or two; `pool` is where they get memory for what they read.

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
        data: str | os.PathLike[str] | Dataset | Mixture,
        seed: int = 0,
        shuffle: Literal["full"] | Window | LengthGroups | None = "full",
        sequences: Literal["whole", "rows", "packed", "truncated"] = "whole",
        max_samples: int | None = None,
        max_sweeps: int | None = None,
        fields: Sequence[str] | None = None,
        transforms: Iterable[operations.Transform] = (),
        skip: Iterable[Any] = (),
        *,
        block: int | None = None,
        lanes: int | None = None,
        length_field: str | None = None,
        nulls: Nulls | None = None,
        threads: int = 1,
        pool: Pool | None = None,
    ) -> None:
        if sequences not in laying.SEQUENCES:
            raise ValueError(f"sequences must be one of {laying.SEQUENCES}, got {sequences!r}")
        self.seed = rng.checked_seed(seed)
        self.dataset, self.sources = laying.open_data(data, fields, nulls)
        if len(self.dataset) == 0:
            raise DatasetError(f"{self.dataset.name} has no rows: there is nothing to lay on the axis")
        rows = len(self.dataset)
        lengths = laying.length_fields(self.dataset, length_field)
        self.order = laying.lay_order(data, self.dataset, self.sources, shuffle, lengths, self.seed)
        self._rows = rows
        self._mode = "rows" if sequences == "whole" and not lengths else sequences
        self._length_field = length_field
        end = laying.end_of_rows(self._mode, self.order, max_samples, max_sweeps)
        self._operations = operations.name_operations(transforms)
        self._closed = False
        chosen, holes = self.dataset.select(fields), timeline.holes_of(skip, rows)
        fetcher = Fetcher(
            dataset=self.dataset,
            names=chosen,
            order=self.order,
            holes=holes if self._mode == "rows" else timeline.holes_of([]),
            pool=pool or Pool(),
            operations=self._operations,
            seed=self.seed,
        )
        threads = checked_integer(threads, "threads", least=1, most=16)
        self._reader = ReadAhead(fetcher, fetcher.sample_bytes, end, threads, fetcher.prepare)
        self._axis = laying.lay_axis(
            self._mode, fetcher, self._reader, holes, lengths, end, max_samples, block=block, lanes=lanes
        )
        self._arguments = {
            "seed": self.seed,
            "shuffle": shuffle,
            "sequences": sequences,
            "max_samples": max_samples,
            "max_sweeps": max_sweeps,
            "fields": chosen,
            "transforms": [transform for _, transform in self._operations],
            "skip": [*zip(holes.starts.tolist(), holes.stops.tolist(), strict=True), SkipRows(holes.rows.tolist())],
            "block": block,
            "lanes": lanes,
            "length_field": length_field,
            "threads": threads,
        }
        # What a copy is made from: data sets know how to open themselves again.
        self._data = replace(data, data=self.sources) if isinstance(data, Mixture) else self.dataset

    @property
    def arguments(self) -> dict[str, Any]:
        """What this source was opened with, the data apart: a new source of the same data is equal with the same."""
        return dict(self._arguments)

    @property
    def sequences(self) -> str:
        """What nominal time counts: "rows", or elements of sequences that are "whole", "packed" or "truncated".

        Where no field is a list, "whole" sequences are rows.
        """
        return self._mode

    @property
    def nominal_time(self) -> int:
        """Where the next minibatch begins."""
        return self._axis.time

    def next_minibatch(self, minibatch_size: int, num_data_partitions: int = 1, partition_index: int = 0) -> Batch:
        """The samples at the next `minibatch_size` nominal times, or part `partition_index` of `num_data_partitions`
        of them.

        Parts are contiguous and differ in size by at most one (whole sequences: as little as they allow, "packed" in
        blocks, "truncated" in lanes); their union is the minibatch. Short, sequences apart, only at the end of
        the axis, then empty (falsy) for ever. Time moves on by the whole minibatch. Raises `TypeError` or
        `ValueError` for sizes that are not positive integers, `DamagedDatasetError` when a shard turns out to be
        damaged; time then stays.
        """
        if type(minibatch_size) is not int or minibatch_size < 1:
            minibatch_size = checked_integer(minibatch_size, "minibatch_size", least=1)
        if not (type(num_data_partitions) is int and type(partition_index) is int) or num_data_partitions != 1:
            num_data_partitions = checked_integer(num_data_partitions, "num_data_partitions", least=1)
            partition_index = checked_integer(partition_index, "partition_index", least=0, most=num_data_partitions - 1)
        elif partition_index != 0:
            partition_index = checked_integer(partition_index, "partition_index", least=0, most=0)
        with self._reader.lock:
            if self._closed:
                raise ValueError("this source is closed: open a new one and restore its state")
            batch = self._axis.next(minibatch_size, num_data_partitions, partition_index)
        return batch.come_from(self.order.source_of) if self.sources else batch

    def minibatches(
        self, minibatch_size: int, num_data_partitions: int = 1, partition_index: int = 0
    ) -> Iterator[Batch]:
        """Minibatches until the end of the axis; without `max_samples` or `max_sweeps`, for ever."""
        while batch := self.next_minibatch(minibatch_size, num_data_partitions, partition_index):
            yield batch

    def seek(self, nominal_time: int) -> None:
        """Go to any nominal time; beyond the end of the axis minibatches are empty.

        In O(1) where time counts rows; else lengths are added up from the beginning of the sweep, which a restored
        state spares. Whole sequences: a time inside one is that of the next.
        """
        time = checked_integer(nominal_time, "nominal_time", least=0)
        with self._reader.lock:
            self._reader.forget()
            self._axis.seek(time)

    def at(self, nominal_time: int, count: int = 1) -> NDArray[np.int64]:
        """The rows that stand at `count` nominal times from `nominal_time` on: int64 (count,). Moves nothing.

        Limits and holes do not matter here: this is the axis itself.
        """
        start = checked_integer(nominal_time, "nominal_time", least=0)
        return self._axis.at(start, checked_integer(count, "count", least=0, most=MAX_TIME - start))

    def when(self, row: int, sweep: int = 0) -> int:
        """The nominal time at which sweep `sweep` shows `row`: the inverse of `at`, in closed form."""
        wanted = checked_integer(row, "row", least=0, most=self._rows - 1)
        return self._axis.when(wanted, checked_integer(sweep, "sweep", least=0, most=MAX_TIME // self._rows - 1))

    def get_checkpoint_state(self) -> dict[str, Any]:
        """All there is to a checkpoint of the source, ready for JSON; equal whatever was read ahead."""
        with self._reader.lock:
            return self._own_state() | self._counting()

    def _own_state(self) -> dict[str, Any]:
        return {
            "state_version": STATE_VERSION,
            "nominal_time": self._axis.time,
            "seed": self.seed,
            "order": self.order.describe(),
            "order_version": orders.VERSION,
            "fingerprint": self.dataset.fingerprint,
            "rows": self._rows,
        }

    def _counting(self) -> dict[str, Any]:
        """What a state says of how time counts: nothing where it counts rows."""
        if self._mode == "rows":
            return {}
        return {"sequences": self._mode, "length_field": self._length_field, **self._axis.state()}

    def restore_from_checkpoint(self, state: Mapping[str, Any], override: Sequence[str] = ()) -> None:
        """Go to the nominal time of `state`, in O(1).

        Raises `CheckpointError`, naming both sides, if the state is of other data ("fingerprint"), another "seed",
        another "order", or counts time otherwise ("sequences"); the parts named in `override` may differ, and this
        source's own then go on from that time.
        """
        mine = self._own_state()
        if not isinstance(state, Mapping) or not mine.keys() <= state.keys():
            missing = sorted(mine.keys() - state.keys()) if isinstance(state, Mapping) else type(state).__name__
            raise CheckpointError(f"not the state of a MinibatchSource: missing {missing}; expected {sorted(mine)}")
        sides = {"fingerprint": "data", "seed": "seed", "order": "order", "sequences": "way of counting"}
        if isinstance(override, str) or set(override) - set(sides):
            raise ValueError(f"override takes names among {list(sides)}, got {override!r}")
        if state["state_version"] != STATE_VERSION:
            raise CheckpointError(
                f"the state has version {state['state_version']!r}, this release reads {STATE_VERSION}: update it"
            )
        mine |= self._counting()
        together = {"order": ("order", "order_version"), "sequences": ("sequences", "length_field")}
        for part, what in sides.items():
            names = together.get(part, (part,))
            if part not in override and any(state.get(name) != mine.get(name) for name in names):
                theirs, ours = ({name: side.get(name) for name in names} for side in (state, mine))
                raise CheckpointError(
                    f"the checkpoint was made with another {what}: it says {theirs}, this source of "
                    f"{self.dataset.name} has {ours}; open the source it was made with, or pass "
                    f"override=[{part!r}] to go on from its nominal time"
                )
        try:
            time = checked_integer(state["nominal_time"], "nominal_time", least=0)
            if override:
                self.seek(time)  # what else the state says is of the other source
            else:
                with self._reader.lock:
                    self._reader.forget()
                    self._axis.restore(time, state)
        except (TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
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
        return reopened, (self._data, self._arguments, self.get_checkpoint_state())

    def __repr__(self) -> str:
        return f"MinibatchSource({self.dataset.name!r}, seed={self.seed}, nominal_time={self.nominal_time})"


def reopened(data: Dataset | Mixture, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> MinibatchSource:
    """A source like the one that was copied or pickled, at the same nominal time; of the same data, or an error."""
    source = MinibatchSource(data, **arguments)
    source.restore_from_checkpoint(state)
    return source

"""A source as an `IterableDataset`, for whoever insists on `torch.utils.data.DataLoader` or one of its kin."""

import os
from collections.abc import Iterator, Mapping
from multiprocessing.context import get_spawning_popen
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from minibatch import timeline
from minibatch.axis import border
from minibatch.batch import Batch
from minibatch.dataset import Dataset
from minibatch.errors import CheckpointError
from minibatch.mixture import Mixture
from minibatch.source import MinibatchSource
from minibatch.torch.epochs import Epochs, epochs_of, mode_of
from minibatch.torch.passes import Passes
from minibatch.torch.ranks import partition, refuse_splitting_twice
from minibatch.torch.tensors import TensorForm, Tensors, to_tensors

# What loaders call what belongs to the source, and what to write instead.
MISNAMED = {
    "batch_size": "minibatch_size",
    "sampler": "shuffle= of the source: the order is a function of nominal time",
    "batch_sampler": "shuffle= of the source: the order is a function of nominal time",
    "collate_fn": "transforms= of the source, or form=TensorForm(…)",
    "drop_last": "nothing: minibatches are never short but at the end of the axis",
    "generator": "seed= of the source",
    "worker_init_fn": "nothing: every random number is a function of nominal time",
    "rank": "partition_index",
    "world_size": "num_data_partitions",
    "num_ranks": "num_data_partitions",
}


def source_of(
    data: str | os.PathLike[str] | Dataset | Mixture | MinibatchSource, options: Mapping[str, Any]
) -> MinibatchSource:
    """`data` if it is a source, or else the source that `MinibatchSource(data, **options)` is."""
    for name, instead in MISNAMED.items():
        if name in options:
            raise TypeError(f"{name}= has no meaning here; write {instead}")
    if not isinstance(data, MinibatchSource):
        return MinibatchSource(data, **options)
    if options:
        raise TypeError(f"{sorted(options)} belong to the source: give them to MinibatchSource, or a path here")
    return data


def refuse_sequences(source: MinibatchSource) -> None:
    """Raise ValueError where the minibatches of several workers cannot be read one without the other."""
    mode = mode_of(source)
    if mode in ("whole", "truncated"):
        raise ValueError(
            f"sequences={mode!r}: where a minibatch begins depends on those before it, so that workers would all read "
            f'everything: write num_workers=0 (the source reads ahead by itself), or sequences="rows" or "packed"'
        )


class TimelineDataset(IterableDataset[Tensors]):
    """Whole minibatches of a source, as `Tensors`, for `DataLoader(dataset, batch_size=None)`.

    `data` is a `MinibatchSource`, or what one is made of together with `options`. The other arguments are those of
    `Loader`, which is simpler, and faster without workers; this class is for loaders that want to make the loop.

    With `num_workers` each worker reads every so-many-th minibatch, and the union, in the order in which `DataLoader`
    gives them, is exactly the axis. A pass with workers that is broken off is over: the next one begins at the next
    epoch, because nobody tells a data set what was used of what was read ahead. For the same reason its state is
    refused then, unless you say which minibatch was the last: `state_dict(after=batch)`. torchdata's
    `StatefulDataLoader` keeps the books itself.

    >>> import tempfile
    >>> import numpy as np
    >>> from torch.utils.data import DataLoader
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10)})
    >>> dataset = TimelineDataset(folder, 4, seed=7)
    >>> [batch["x"].tolist() for batch in DataLoader(dataset, batch_size=None)]
    [[7, 3, 6, 5], [8, 1, 0, 2], [4, 9, 6, 2]]
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Dataset | Mixture | MinibatchSource,
        minibatch_size: int,
        *,
        steps_per_epoch: int | str = "sweep",
        num_data_partitions: int | None = None,
        partition_index: int | None = None,
        form: TensorForm | None = None,
        **options: Any,
    ) -> None:
        if "device" in options:
            raise TypeError("a data set gives CPU tensors: device= belongs to minibatch.torch.Loader")
        self.source = source_of(data, options)
        self.epochs: Epochs = epochs_of(self.source, minibatch_size, steps_per_epoch)
        self.form = form
        self._given = num_data_partitions, partition_index
        if num_data_partitions is not None or partition_index is not None:
            partition(num_data_partitions, partition_index)
        self._passes = Passes()
        self._worker: tuple[int, int, int] | None = None  # in a worker: where its pass began, its next minibatch, stop
        self._resumed: tuple[int, int] | None = None
        self._start: int | None = None  # in a worker: where the source stood when the worker was started

    def __len__(self) -> int:
        """The number of minibatches in the epoch that the source stands in."""
        return self.epochs.length(self._time())

    def __iter__(self) -> Iterator[Tensors]:
        info = get_worker_info()
        parts = self._parts()
        if info is None:
            self._leave_workers()
            return self._minibatches(parts)
        return self._share(info.id, info.num_workers, parts)

    def _parts(self) -> tuple[int, int]:
        refuse_splitting_twice(self._given[0])
        return partition(*self._given)

    def _time(self) -> int:
        """Where the pass begins that is under way or comes next, as far as this process knows."""
        begun = self._passes.begun
        base = self._passes.base
        return self.epochs.after(self.source.nominal_time if base is None else base, max(0, begun - 1))

    def _leave_workers(self) -> None:
        """Go to where the last pass of workers ended: this process reads by itself from now on."""
        begun, base = self._passes.begun, self._passes.base
        if begun or base is not None:
            self.source.seek(self.epochs.after(self.source.nominal_time if base is None else base, begun))
            self._passes.restart(None)

    def _minibatches(self, parts: tuple[int, int]) -> Iterator[Tensors]:
        stop = self.epochs.stop(self.source.nominal_time)
        last: Tensors | None = None
        while not self.epochs.over(last, self.source.nominal_time, stop):
            batch = self.source.next_minibatch(self.epochs.minibatch_size, *parts)
            if not batch:
                return
            last = to_tensors(batch, form=self.form)
            yield last

    def _share(self, worker: int, workers: int, parts: tuple[int, int]) -> Iterator[Tensors]:
        """Begin a pass of one worker, of its every `workers`-th minibatch."""
        refuse_sequences(self.source)
        before = self._passes.count(worker, workers)
        if self._resumed is not None:
            (begin, index), self._resumed = self._resumed, None
        else:
            base = self._passes.base
            if self._start is None:
                self._start = self.source.nominal_time
            begin = self.epochs.after(self._start if base is None else base, before)
            index = worker
        self._worker = begin, index, workers
        return self._every(begin, index, workers, parts)

    def _every(self, begin: int, index: int, workers: int, parts: tuple[int, int]) -> Iterator[Tensors]:
        size, stop = self.epochs.minibatch_size, self.epochs.stop(begin)
        while begin + index * size < stop:
            batch, start, end = self._minibatch(begin, index, workers, parts)
            index += workers
            self._worker = begin, index, workers
            tensors = to_tensors(batch, form=self.form)
            tensors.nominal_time, tensors.nominal_end = start, end
            tensors.sweeps_ended = self._sweeps_ended(batch, start, end)
            yield tensors

    def _sweeps_ended(self, batch: Batch, start: int, end: int) -> int | None:
        if (batch.nominal_time, batch.nominal_end) == (start, end):
            return batch.sweeps_ended
        if border(self.source.order) != len(self.source.dataset):
            return 0  # a mixture has the sweeps of its sources, and none of its own
        return None if self.epochs.sweep is None else timeline.sweeps_ended(start, end, self.epochs.sweep)

    def _minibatch(self, begin: int, index: int, workers: int, parts: tuple[int, int]) -> tuple[Batch, int, int]:
        """Minibatch `index` of the pass from `begin`, with its interval.

        A worker's minibatches are one part each of larger ones, as those of a rank are: read so, they are read ahead.
        """
        size = self.epochs.minibatch_size
        start = begin + index * size
        end = min(start + size, self.epochs.end)
        round_start = start - index % workers * size
        count, rank = parts
        unit = self.source.arguments["block"] or 1  # parts consist of whole blocks
        if size // unit % count == 0 and round_start + workers * size <= self.epochs.end:
            if self.source.nominal_time != round_start:
                self.source.seek(round_start)
            part = index % workers * count + rank
            return self.source.next_minibatch(workers * size, workers * count, part), start, end
        self.source.seek(start)
        return self.source.next_minibatch(size, count, rank), start, end

    def set_epoch(self, epoch: int) -> None:
        """Nothing, unless the source stands at time 0: then go to where `epoch` begins.

        A source that has been read or restored stands where it belongs, whatever others count. One at the very
        beginning is told an epoch by whoever resumes a run without our state, as Hugging Face's Trainer does.
        """
        if self.source.nominal_time == 0 and not self._passes.begun and self._passes.base is None:
            self.source.seek(self.epochs.begin(epoch))

    def state_dict(self, after: Tensors | None = None) -> dict[str, Any]:
        """The state of the source; with `after`, the one behind that minibatch, whatever was read ahead of it.

        Raises RuntimeError where workers have read and nobody says how far their minibatches were used.
        """
        state = self.source.state_dict()
        if after is not None:
            end = getattr(after, "nominal_end", None)
            if end is None:
                raise TypeError("after= takes a minibatch as the data set gave it; this is a copy without nominal_end")
            state["nominal_time"] = end
            return state
        info = get_worker_info()
        if info is not None and self._worker is not None:
            begin, index, workers = self._worker
            size = self.epochs.minibatch_size
            state["nominal_time"] = begin
            state["pass"] = {"index": index, "worker": info.id, "workers": workers, "minibatch_size": size}
        elif self._passes.begun:
            raise RuntimeError(
                "worker processes read ahead of what you were given, so the data set cannot know where you are: use "
                "minibatch.torch.Loader(…, num_workers=…) or torchdata's StatefulDataLoader, whose state is exact, or "
                "name the last minibatch: dataset.state_dict(after=batch)"
            )
        elif self._passes.base is not None:
            state["nominal_time"] = self._passes.base
        return state

    def load_state_dict(self, state: Mapping[str, Any], override: tuple[str, ...] = ()) -> None:
        """Go to where `state` says; see `MinibatchSource.restore_from_checkpoint`."""
        share = state.get("pass")
        info = get_worker_info()
        if share is not None:
            worker = (share["worker"], share["workers"], share["minibatch_size"])
            here = (info.id, info.num_workers, self.epochs.minibatch_size) if info is not None else (None, 0, None)
            if worker != here:
                raise CheckpointError(
                    f"the state is of worker {worker[0]} of {worker[1]} with minibatch_size {worker[2]}, this is "
                    f"worker {here[0]} of {here[1]} with {here[2]}: only Loader can change these"
                )
        self.source.restore_from_checkpoint(state, override)
        if info is None:
            self._passes.restart(None)
            return
        begin = self.source.nominal_time
        self._passes.restart(begin, info.id)
        self._resumed = None if share is None else (begin, share["index"])

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if get_spawning_popen() is not None:
            # A spawned worker knows nothing of this process's ranks; a forked one remembers them.
            state["_given"] = self._parts()
        return state

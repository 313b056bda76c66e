"""A loader for any training loop, whose state is that of what it has handed out."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from minibatch.arguments import checked_integer
from minibatch.dataset import Dataset
from minibatch.memory import Pool
from minibatch.mixture import Mixture
from minibatch.source import MinibatchSource
from minibatch.torch.dataset import TimelineDataset, refuse_sequences, source_of
from minibatch.torch.device import Lane, lane_to
from minibatch.torch.epochs import epochs_of, mode_of
from minibatch.torch.pinned import PinnedPool
from minibatch.torch.ranks import partition
from minibatch.torch.resident import Resident
from minibatch.torch.tensors import Device, TensorForm, Tensors, refuse_forked, to_tensors

State = dict[str, Any] | None
AHEAD = 2  # minibatches on their way to a device; one is enough where every step takes as long as its copy


class Loader:
    """Minibatches of a source as `Tensors` on a device, an epoch with each `for`; see `minibatch.torch`.

    `data` is a `MinibatchSource`, or what one is made of together with `options` (seed, shuffle, transforms …).
    `minibatch_size` counts over all ranks. `steps_per_epoch` is a number of minibatches, "sweep" (the default: as
    many as show one sweep's worth) or "axis" (all to the end of the axis). `form` says how fields become tensors.

    `ahead` minibatches are on their way to `device` while you use one. `cache="device"` keeps all rows there, if
    they fit. `num_workers` processes read for you, of use where transforms are slow Python; `multiprocessing_context`
    and `prefetch_factor` are those of `DataLoader`.

    The source's nominal time is that behind the last minibatch handed out, whatever was read ahead: it is the state of
    the loader, and to move the source is to move the loader. Not for several threads at once.

    >>> import tempfile
    >>> import numpy as np
    >>> from minibatch import DatasetWriter, MinibatchSource
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10)})
    >>> source = MinibatchSource(folder, seed=7)
    >>> loader = Loader(source, 4, steps_per_epoch=2, ahead=3)
    >>> [batch["x"].tolist() for batch in loader], source.nominal_time
    ([[7, 3, 6, 5], [8, 1, 0, 2]], 8)
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Dataset | Mixture | MinibatchSource,
        minibatch_size: int,
        *,
        device: Device = None,
        steps_per_epoch: int | str = "sweep",
        num_data_partitions: int | None = None,
        partition_index: int | None = None,
        form: TensorForm | None = None,
        ahead: int | None = None,
        cache: str | None = None,
        num_workers: int = 0,
        multiprocessing_context: Any = None,
        prefetch_factor: int = 2,
        **options: Any,
    ) -> None:
        self.source = source_of(data, options)
        self.device = None if device is None else torch.device(device)
        self._minibatch_size = checked_integer(minibatch_size, "minibatch_size", least=1)
        self._epochs = epochs_of(self.source, minibatch_size, steps_per_epoch)
        self._given = num_data_partitions, partition_index
        if num_data_partitions is not None or partition_index is not None:
            partition(num_data_partitions, partition_index)
        self._form = form
        self._workers = checked_integer(num_workers, "num_workers", least=0)
        if self._workers:
            refuse_sequences(self.source)
        self._rows = mode_of(self.source) == "rows"
        self._worker_options = {
            "multiprocessing_context": multiprocessing_context,
            "prefetch_factor": checked_integer(prefetch_factor, "prefetch_factor", least=1),
        }
        refuse_forked(self.device)
        away = self.device is not None and self.device.type != "cpu"
        self._ahead = checked_integer((AHEAD if away else 0) if ahead is None else ahead, "ahead", least=0)
        self._lane: Lane = lane_to(self.device)
        self._resident: Resident | None = None
        if cache not in (None, "device"):
            raise ValueError(f'cache must be "device" or None, got {cache!r}')
        if cache == "device":
            if self._workers:
                raise ValueError('cache="device" reads nothing while training: num_workers must be 0')
            self._resident = Resident(self.source, self.device or torch.device("cpu"))
        self._reading: Iterator[tuple[Tensors, State]] | None = None
        self._coming: deque[tuple[Any, int, State]] = deque()  # what was sent, and where the source is behind it
        self._expected = -1  # where the source stands if nobody but this loader has moved it
        self._parts = (1, 0)

    def __len__(self) -> int:
        """The number of minibatches in the epoch that the source stands in, of which a restored pass gives the rest."""
        return self._epochs.length(self.source.nominal_time)

    def __iter__(self) -> Iterator[Tensors]:
        parts = partition(*self._given)
        stop = self._epochs.stop(self.source.nominal_time)
        tensors: Tensors | None = None
        while not self._epochs.over(tensors, self.source.nominal_time, stop):
            tensors = self._next(parts)
            if tensors is None:
                return
            yield tensors

    def _next(self, parts: tuple[int, int]) -> Tensors | None:
        """The minibatch at the source's nominal time, which moves behind it; None at the end of the axis."""
        time = self.source.nominal_time
        if self._resident is not None:
            stop = min(time + self._minibatch_size, self._epochs.end)
            tensors = self._resident.minibatch(time, stop, parts, self._form)
            self.source.seek(stop)
            return tensors
        idle = self._reading is None and not self._coming
        if idle or time != self._expected or parts != self._parts:
            self._start(time, parts)
        self._fill()
        if not self._coming:
            return None
        sent, end, state = self._coming.popleft()
        tensors = self._lane.receive(sent)
        if state is not None:
            self.source.restore_from_checkpoint(state)
        elif self.source.nominal_time != end:
            self.source.seek(end)
        self._expected = end
        return tensors

    def _fill(self) -> None:
        """Have `ahead` minibatches on their way besides the next one."""
        while self._reading is not None and len(self._coming) <= self._ahead:
            try:
                found = next(self._reading, None)
                if found is None:
                    return
                tensors, state = found
                sent = self._lane.send(tensors)
            except Exception:
                self._reading = None  # what could not be read is tried again, and fails again, when its turn comes
                if self._coming:
                    return
                raise
            assert tensors.nominal_end is not None
            self._coming.append((sent, tensors.nominal_end, state))

    def _start(self, time: int, parts: tuple[int, int]) -> None:
        """Read from `time` on."""
        self._stop()
        self._parts, self._expected = parts, time
        self._reading = self._read(parts)

    def _stop(self) -> None:
        self._coming.clear()
        reading, self._reading = self._reading, None
        close = getattr(reading, "close", None)
        if close is not None:
            close()

    def _read(self, parts: tuple[int, int]) -> Iterator[tuple[Tensors, State]]:
        """Minibatches from where the source stands to the end of the axis, read by whoever reads for this loader."""
        if not self._workers and not self._ahead:
            return self._minibatches(self.source, parts, with_state=False)
        on_gpu = self.device is not None and self.device.type == "cuda"
        source = twin_of(self.source, PinnedPool() if on_gpu and not self._workers else None)
        if not self._workers:
            # Behind sequences a source is found again at once by its state, and by the time alone not always.
            return self._minibatches(source, parts, with_state=not self._rows)
        count, index = parts
        dataset = TimelineDataset(
            source,
            self._minibatch_size,
            steps_per_epoch="axis",
            num_data_partitions=count,
            partition_index=index,
            form=self._form,
        )
        loader = DataLoader(dataset, batch_size=None, num_workers=self._workers, **self._worker_options)
        return ((tensors, None) for tensors in loader)

    def _minibatches(
        self, source: MinibatchSource, parts: tuple[int, int], with_state: bool
    ) -> Iterator[tuple[Tensors, State]]:
        for batch in source.minibatches(self._minibatch_size, *parts):
            yield to_tensors(batch, form=self._form), source.state_dict() if with_state else None

    def set_epoch(self, epoch: int) -> None:
        """Nothing, unless the source stands at time 0: then go to where `epoch` begins.

        A source that has been read or restored stands where it belongs, whatever others count. One at the very
        beginning is told an epoch by whoever resumes a run without our state.
        """
        if self.source.nominal_time == 0:
            self.source.seek(self._epochs.begin(epoch))

    def state_dict(self) -> dict[str, Any]:
        """The state of the source, behind the last minibatch that was handed out."""
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], override: tuple[str, ...] = ()) -> None:
        """Go on from `state`, also with other sizes, ranks or workers; errors as for the source."""
        self._stop()
        self.source.restore_from_checkpoint(state, override)

    def close(self) -> None:
        """Stop reading ahead and end the workers; the loader can be used again."""
        self._stop()

    def __repr__(self) -> str:
        return f"Loader({self.source!r}, minibatch_size={self._minibatch_size}, device={self.device})"


def twin_of(source: MinibatchSource, pool: Pool | None) -> MinibatchSource:
    """Another source of the same data, where this one stands, that reads into memory of `pool`."""
    _, (data, arguments, state) = source.__reduce__()
    twin = MinibatchSource(data, **arguments, pool=pool)
    twin.restore_from_checkpoint(state)
    return twin

"""A minibatch as the model and the losses see it: fields as tensors on a device, converted when first asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minibatch.batch import Batch
from minibatch.ragged import Ragged
from minibatch.torch import tensors

BESIDE = ("segment_ids", "positions", "token_mask")  # fields of packed sequences that are in no data set
Inputs = str | Sequence[str] | Callable[[nn.Module, "TensorBatch"], Any]


class Samples:
    """Samples from elsewhere, in the shape of a `Batch`: fields (n, …) that take n places of nominal time from `time`.

    times, rows, places: of the samples, where they are some of a minibatch. Raises ValueError if the fields have
    different numbers of samples.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        *,
        time: int,
        times: NDArray[np.int64] | None = None,
        rows: NDArray[np.int64] | None = None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        counts = {name: len(values) for name, values in fields.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"the fields of a minibatch need one number of samples, got {counts}")
        self._values = fields
        self.num_samples = next(iter(counts.values()))
        self.fields = tuple(fields)
        self.num_sequences = self.num_samples
        self.nominal_time, self.nominal_end = time, time + self.num_samples
        self.times = np.arange(time, self.nominal_end, dtype=np.int64) if times is None else times
        self.rows = np.full(self.num_samples, -1, dtype=np.int64) if rows is None else rows
        self.places = self.times if places is None else places

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values


class TensorBatch(Mapping[str, Any]):
    """A minibatch, or a stretch of one: `batch["label"]` is a tensor (n, …) on `device` (None: the CPU).

    Numeric fields become tensors that share memory with the arrays on the CPU, so nothing may be written into them;
    other fields (texts, bytes) stay NumPy arrays of objects.

    Lists come padded with zeros to the longest of the whole minibatch, (n, longest, …), and beside the field "tokens"
    there are "tokens_mask", bool (n, longest), and "tokens_lengths", int64 (n,). Of packed sequences n counts the rows
    of the arrays (n, block), and beside the fields there are "segment_ids", "positions" and "token_mask", (n, block).

    >>> batch = TensorBatch(Samples({"x": np.arange(4), "label": np.array([1, 0, 1, 0])}, time=0))
    >>> batch.part(1, 3)["x"]
    tensor([1, 2])
    """

    __slots__ = ("_batch", "_stretch", "_tensors", "_whole", "device", "num_samples")

    def __init__(
        self,
        batch: Batch | Samples,
        *,
        device: torch.device | None = None,
        stretch: slice | None = None,
        whole: "TensorBatch | None" = None,
    ) -> None:
        self._batch = batch
        self._stretch = stretch
        self._whole = whole  # what `stretch` was cut from
        self._tensors: dict[str, Any] = {}
        self.device = device
        if stretch is not None:
            self.num_samples = stretch.stop - stretch.start
        elif (packed := packed_shape(batch)) is not None:
            self.num_samples = packed[0]
        else:
            self.num_samples = len(batch.rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The global row of every sample: int64 (n,); -1 for samples of no data set; of packed ones the first of n."""
        rows = self._batch.rows
        if isinstance(self._batch, Batch) and (packed := self._batch.packed) is not None:
            first = packed.arrays[2][:, 0]
            rows = np.where(first >= 0, rows[first], -1) if len(rows) else np.full(len(first), -1)
        return rows if self._stretch is None else rows[self._stretch]

    @property
    def times(self) -> NDArray[np.int64]:
        """The nominal time of every sample, of packed ones that of the first of their tokens: int64 (n,)."""
        times = self._batch.times
        if (packed := packed_shape(self._batch)) is not None:
            times = self._batch.nominal_time + packed[1] * np.arange(packed[0], dtype=np.int64)
        return times if self._stretch is None else times[self._stretch]

    @property
    def places(self) -> NDArray[np.int64]:
        """Where every sample stands on the axis, counted in samples: `times`, or in rows of packed arrays."""
        if isinstance(self._batch, Samples):
            return self._batch.places if self._stretch is None else self._batch.places[self._stretch]
        packed = packed_shape(self._batch)
        return self.times if packed is None else self.times // packed[1]

    def part(self, start: int, stop: int) -> "TensorBatch":
        """The samples [start, stop) of a whole minibatch, without a copy on the CPU."""
        assert self._stretch is None, "parts are cut from whole minibatches"
        return TensorBatch(self._batch, device=self.device, stretch=slice(start, stop), whole=self)

    def thinned(self, keep: NDArray[np.bool_]) -> "TensorBatch":
        """Only the samples where `keep`, bool (n,), is true; the others are holes."""
        fields = {name: self[name][keep] for name in self}
        samples = Samples(
            fields,
            time=self._batch.nominal_time,
            times=self.times[keep],
            rows=self.rows[keep],
            places=self.places[keep],
        )
        return TensorBatch(samples, device=self.device)

    def on(self, device: torch.device) -> "TensorBatch":
        """The same samples, with their tensors on `device`."""
        return TensorBatch(self._batch, device=device)

    def __getitem__(self, name: str) -> Any:
        tensor = self._tensors.get(name)
        if tensor is None:
            try:
                values = self._values(name)
            except (KeyError, ValueError):
                raise KeyError(f"field {name!r} is not in the minibatch; it has {', '.join(self)}") from None
            tensor = as_tensor(values if self._stretch is None else values[self._stretch], self.device)
            self._tensors[name] = tensor
        return tensor

    def _values(self, name: str) -> Any:
        """A field of the whole minibatch, as one array."""
        if self._whole is not None:
            return self._whole._values(name)
        if name in self._batch:
            values = self._batch[name]
            return self._laid_out(name) if isinstance(values, Ragged) else values
        if name in BESIDE and isinstance(self._batch, Batch) and (ids := self._batch.segment_ids) is not None:
            return {"segment_ids": ids, "positions": self._batch.positions, "token_mask": ids > 0}[name]
        field, _, what = name.rpartition("_")
        if what in ("mask", "lengths") and field in self._batch and isinstance(self._batch[field], Ragged):
            return self._laid_out(field, what)
        raise KeyError(name)

    def _laid_out(self, field: str, what: str = "padded") -> Any:
        """A list field as arrays: padded once for all parts."""
        key = f"{field} {what}"
        if key not in self._tensors:
            ragged = self._batch[field]
            if what == "lengths":
                self._tensors[key] = ragged.lengths
            elif what == "mask":
                self._tensors[key] = ragged.mask()
            else:
                self._tensors[key] = ragged.padded("" if ragged.dtype == object else 0)
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        for field in self._batch.fields:
            yield field
            if isinstance(self._batch[field], Ragged):
                yield from (f"{field}_mask", f"{field}_lengths")
        if packed_shape(self._batch) is not None:
            yield from BESIDE

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def times_tensor(self) -> Tensor:
        """The nominal times of the samples on the device: int64 (n,)."""
        tensor: Tensor = as_tensor(self.times, self.device)
        return tensor


def packed_shape(batch: "Batch | Samples") -> tuple[int, int] | None:
    """Rows and tokens per row of a minibatch of packed sequences; None for others."""
    packed = batch.packed if isinstance(batch, Batch) else None
    return None if packed is None else (packed.shape[0], packed.shape[1])


def as_tensor(values: Any, device: torch.device | None = None) -> Any:
    """A numeric array as a tensor on `device` (None: the CPU), without a copy if possible; anything else as it is."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "OUSV":
            return values
        values = tensors.as_tensor(values)  # of pinned memory, torch then knows that a copy of it may be under way
    if device is not None and isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    return values


def forward_function(inputs: Inputs) -> Callable[[nn.Module, TensorBatch], Any]:
    """How to call the model: with one field, with several in order, or by a function (model, batch) of the user's.

    >>> call = forward_function("x")
    >>> call(nn.Identity(), TensorBatch(Samples({"x": np.ones(2)}, time=0)))
    tensor([1., 1.], dtype=torch.float64)
    """
    if isinstance(inputs, str):
        name = inputs
        return lambda model, batch: model(batch[name])
    if callable(inputs):
        return inputs
    names = tuple(inputs)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"inputs={inputs!r}: expected a field's name, a sequence of names, or a function (model, batch) -> outputs"
        )
    return lambda model, batch: model(*[batch[name] for name in names])


def shapes_of(value: Any) -> str:
    """Shapes and dtypes of everything in an output or a batch, for error messages.

    >>> shapes_of({"logits": torch.zeros(2, 3)})
    '{logits: float32 (2, 3)}'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {shapes_of(value[name])}" for name in value) + "}"
    if isinstance(value, tuple | list) and len(value) <= 16:
        return "(" + ", ".join(shapes_of(item) for item in value) + ")"
    return type(value).__name__

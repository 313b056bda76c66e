"""A data set that lives on the device: minibatches are rows picked there, and only their numbers travel."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch import timeline
from minibatch.axis import border
from minibatch.errors import SchemaError
from minibatch.source import MinibatchSource
from minibatch.torch.epochs import mode_of
from minibatch.torch.tensors import TensorForm, Tensors, as_tensor

LOADED_BYTES = 64 << 20  # read from the shards at a time, so that loading takes little memory here
# Devices lack operations on the wide unsigned types; the bits are the same.
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Resident:
    """All rows of the source's fields on `device`, and any interval of the axis picked from them.

    The same bits as the source gives. Raises `SchemaError` for fields without a fixed shape, ValueError where the
    source has transforms (they run on the host), MemoryError where the fields do not fit.
    """

    def __init__(self, source: MinibatchSource, device: torch.device) -> None:
        arguments = source.arguments
        if arguments["transforms"]:
            raise ValueError(
                'cache="device" leaves out what runs on the host, and this source has transforms: write them as '
                "operations on the tensors, or leave out the cache"
            )
        fields = [source.dataset.fields[name] for name in source.dataset.select(arguments["fields"])]
        if mode_of(source) != "rows":
            raise ValueError(
                f'cache="device" with sequences={arguments["sequences"]!r}: only rows of fixed size are picked on the '
                f'device; write sequences="rows" and name fields without lists'
            )
        for field in fields:
            if field.varies:
                raise SchemaError(
                    f'cache="device": field {field.name!r} ({field.arrow_type}) has rows of varying size, which are '
                    f"not picked on the device: name others with fields=[…]"
                )
        self._source = source
        self._device = device
        self._rows = len(source.dataset)
        self._holes = timeline.holes_of(arguments["skip"], self._rows)
        row_bytes = sum(field.row_bytes for field in fields)
        refuse_too_much(self._rows * row_bytes, device)
        self._fields = {
            field.name: torch.empty(
                (self._rows, *field.shape), dtype=as_tensor(np.empty(0, field.dtype)).dtype, device=device
            )
            for field in fields
        }
        step = max(1, LOADED_BYTES // max(1, row_bytes))
        for first in range(0, self._rows, step):
            rows = np.arange(first, min(first + step, self._rows))
            for name, values in source.dataset.read(rows, list(self._fields)).items():
                self._fields[name][first : first + len(rows)].copy_(as_tensor(values, name))

    def minibatch(self, time: int, stop: int, parts: tuple[int, int], form: TensorForm | None) -> Tensors:
        """One rank's part of the samples at nominal times [time, stop)."""
        offset, length = timeline.part(stop - time, *parts)
        rows = self._source.at(time + offset, length)
        times = np.arange(time + offset, time + offset + length, dtype=np.int64)
        if self._holes:
            keep = self._holes.kept(times, rows)
            rows, times = rows[keep], times[keep]
        wanted = self._sent(rows)
        fields: dict[str, Any] = {name: picked(values, wanted) for name, values in self._fields.items()}
        for name in (form.include if form is not None else None) or ():
            if name not in ("rows", "times") or name in fields:
                raise SchemaError(f'TensorForm(include=[{name!r}]) with cache="device": only "rows" and "times"')
            fields[name] = wanted if name == "rows" else self._sent(times)
        return Tensors(
            fields,
            nominal_time=time,
            nominal_end=stop,
            num_samples=len(rows),
            sweeps_ended=timeline.sweeps_ended(time, stop, border(self._source.order)),
        )

    def _sent(self, numbers: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(numbers)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        # From ordinary memory the copy would wait for all that the device still has to do.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def picked(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor: (n, *shape), of its own dtype."""
    signed = SIGNED.get(values.dtype)
    if signed is None:
        return values.index_select(0, rows)
    return values.view(signed).index_select(0, rows).view(values.dtype)


def refuse_too_much(size: int, device: torch.device) -> None:
    """Raise MemoryError unless so many bytes are free on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size > free:
            raise MemoryError(
                f'cache="device": the fields take {size:,} bytes, {device} has {free:,} free: name fewer with '
                f"fields=[…], or leave out the cache"
            )

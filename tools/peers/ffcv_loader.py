"""FFCV: its own file, read through Numba kernels that each process compiles anew; full random order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minibatch.tools.bench_data import CROP_SIDE, LONGEST, Data

FILE = "data.beton"


class Rows:
    """The rows as FFCV's writer asks for them; sequences are padded to the longest there may be, for want of lists."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.rows

    def __getitem__(self, number: int) -> tuple[Any, int]:
        kind = self.data.workload.kind
        if kind == "arrays":
            return np.ascontiguousarray(self.data.values[number]), number
        row = self.data.row(number)
        if kind == "images":
            from simplejpeg import decode_jpeg

            return decode_jpeg(row), number
        return np.pad(row, (0, LONGEST - len(row))), number


def prepare(data: Data, folder: Path) -> None:
    """The rows as one .beton file."""
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    workload = data.workload
    if workload.kind == "images":
        x: Any = RGBImageField(write_mode="jpg")
    else:
        shape = (data.values.shape[1],) if workload.kind == "arrays" else (LONGEST,)
        x = NDArrayField(dtype=np.dtype(workload.dtype), shape=shape)
    writer = DatasetWriter(str(folder / FILE), {"x": x, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Rows(data))


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of tensors. Its crop decodes the whole image and resizes: there is no plain random crop."""
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    images = data.workload.kind == "images"
    decoder: list[Any] = [NDArrayDecoder()]
    if images:
        decoder = [RandomResizedCropRGBImageDecoder((CROP_SIDE, CROP_SIDE)), RandomHorizontalFlip()]
    loader: Any = Loader(
        str(folder / FILE),
        batch_size=data.workload.k,
        num_workers=2 if images else 1,
        order=OrderOption.RANDOM,
        seed=seed,
        drop_last=True,
        os_cache=True,
        pipelines={"x": [*decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    while True:
        for x, label in loader:
            yield {"x": x, "label": label.reshape(-1)}

"""The data of the benchmarks' workloads, made once: plain files that anybody can read, and the same rows as a data set.

Every value is a function of the row's number (`minibatch.rng`), so the data are alike on every machine, and a minibatch
of any reader can be checked: its `label` is the number of the row.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import Dataset, DatasetWriter, rng
from minibatch.errors import require
from minibatch.storage import MANIFEST

VERSION = 1  # of what is written here: another number makes other folders
JPEG_SIDE, CROP_SIDE = 256, 224
LONGEST = 2_000  # a sequence is never longer
MEAN_LENGTH = 120
BLOCK_BYTES = 32 << 20  # written at a time


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is read: `rows` samples, `k` of them a minibatch; `kind` is "arrays", "images" or "sequences".

    For arrays `shape` and `dtype` are those of a row; images come out as (224, 224, 3) uint8, sequences padded.
    """

    name: str
    rows: int
    k: int
    dtype: str = "uint8"
    shape: tuple[int, ...] = ()
    kind: str = "arrays"

    @property
    def width(self) -> int:
        """Elements in a row of an array."""
        return math.prod(self.shape)

    @property
    def described(self) -> str:
        """The workload in a few words.

        >>> WORKLOADS["W1"].described
        '1,000,000 × 784 uint8, k 256'
        """
        what = {
            "arrays": f"{'×'.join(map(str, self.shape))} {self.dtype}",
            "images": f"JPEG {JPEG_SIDE}×{JPEG_SIDE}, decode + crop {CROP_SIDE} + flip",
            "sequences": f"{self.dtype} sequences, mean {MEAN_LENGTH}, padded",
        }[self.kind]
        return f"{self.rows:,} × {what}, k {self.k}"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(name="W1", rows=1_000_000, shape=(784,), dtype="uint8", k=256),
        Workload(name="W2", rows=2_000_000, shape=(32,), dtype="float32", k=1024),
        Workload(name="W3", rows=200_000, shape=(2048,), dtype="uint16", k=16),
        Workload(name="W4", rows=6_000, shape=(224, 224, 3), dtype="uint8", k=64),
        Workload(name="W5", rows=4_000, kind="images", k=64),
        Workload(name="W6", rows=500_000, kind="sequences", dtype="int32", k=64),
    )
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """A workload's data in `folder`: `dataset/`, and plain files: `values` and, but for arrays, `offsets`."""

    workload: Workload
    folder: Path
    rows: int

    @property
    def dataset(self) -> Dataset:
        """The rows as a data set: fields "x" and "label"."""
        return Dataset.open(self.folder / "dataset")

    @cached_property
    def values(self) -> NDArray[Any]:
        """The plain file, mapped: (rows, width) of arrays; encoded images and sequences end to end, 1-D."""
        values = np.memmap(self.folder / "values.raw", self.workload.dtype, "r")
        return values.reshape(self.rows, -1) if self.workload.kind == "arrays" else values

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each image or sequence begins in `values`: int64 (rows + 1,)."""
        offsets: NDArray[np.int64] = np.load(self.folder / "offsets.npy")
        return offsets

    def row(self, number: int) -> NDArray[Any]:
        """Image or sequence `number`, as it is stored."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]


def scaled(name: str, scale: float = 1.0) -> Workload:
    """Workload `name` with a fraction `scale` of its rows, but some minibatches at least, for trials."""
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}: expected one of {', '.join(WORKLOADS)}")
    workload = WORKLOADS[name]
    rows = min(workload.rows, max(4 * workload.k, round(workload.rows * scale)))
    return Workload(**{**vars(workload), "rows": rows})


def default_cache() -> Path:
    """Where the data are kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "minibatch-timeline" / "bench"


def make(workload: Workload, cache: Path) -> Data:
    """The workload's data, written now unless they are there already.

    Raises `OSError` if the file system has no room for them.
    """
    folder = cache / f"{workload.name}-{workload.rows}-v{VERSION}"
    data = Data(workload=workload, folder=folder, rows=workload.rows)
    if (folder / "done.json").exists() and (folder / "dataset" / MANIFEST).exists():
        return data
    cache.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * estimated_bytes(workload), shutil.disk_usage(cache).free
    if needed > free:
        raise OSError(
            f"{workload.name} needs {needed / 1e9:.1f} GB in {cache}, which has {free / 1e9:.1f} GB left: "
            f"give another folder with --cache"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pieces = MAKERS[workload.kind](workload)
    write_files(data, pieces)
    (folder / "done.json").write_text(json.dumps({"rows": workload.rows, "version": VERSION}))
    return data


def estimated_bytes(workload: Workload) -> int:
    """About how many bytes the rows are."""
    row = {"arrays": workload.width * np.dtype(workload.dtype).itemsize, "images": 30_000, "sequences": 500}
    return workload.rows * row[workload.kind]


def write_files(data: Data, pieces: Iterator[Any]) -> None:
    """Write the pieces, arrays (n, width) or lists of 1-D arrays, to the plain files and to the data set."""
    workload, start, offsets = data.workload, 0, [np.zeros(1, np.int64)]
    name = f"benchmark {workload.name}"
    with DatasetWriter(data.folder / "dataset", source=name) as writer, open(data.folder / "values.raw", "wb") as file:
        for piece in pieces:
            rows = np.arange(start, start + len(piece))
            if workload.kind == "arrays":
                assert piece.dtype == workload.dtype
                file.write(piece.data)
                writer.write({"x": piece.reshape(-1, *workload.shape), "label": rows})
            else:
                file.writelines(row.data for row in piece)
                offsets.append(np.cumsum([len(row) for row in piece]) + offsets[-1][-1])
                stored = [row.tobytes() for row in piece] if workload.kind == "images" else piece
                writer.write({"x": stored, "label": rows})
            start += len(piece)
    if workload.kind != "arrays":
        np.save(data.folder / "offsets.npy", np.concatenate(offsets))


def arrays(workload: Workload) -> Iterator[NDArray[Any]]:
    """Rows of random bits, or of numbers in [0, 1) for floating-point workloads."""
    dtype = np.dtype(workload.dtype)
    words = -(-workload.width * dtype.itemsize // 8)
    step = max(1, BLOCK_BYTES // (8 * words))
    for start in range(0, workload.rows, step):
        draws = rng.Draws(0, "benchmark", np.arange(start, min(workload.rows, start + step)))
        bits = draws.bits((words,))
        if dtype.kind == "f":
            yield (bits.view(np.uint32)[:, : workload.width] >> 8).astype(dtype) * dtype.type(2**-24)
        else:
            yield np.ascontiguousarray(bits.view(dtype)[:, : workload.width])


def sequences(workload: Workload) -> Iterator[list[NDArray[Any]]]:
    """Sequences of token numbers below 50,000; their lengths are geometric, so the longest of 64 has about 570."""
    step = 10_000
    for start in range(0, workload.rows, step):
        draws = rng.Draws(0, "benchmark", np.arange(start, min(workload.rows, start + step)))
        lengths = np.minimum(LONGEST, 1 - np.log1p(-draws.uniform()) * (MEAN_LENGTH - 0.5)).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        key = rng.key(0, "benchmark tokens", start)
        tokens = rng.integers(key, np.arange(offsets[-1]), 50_000).astype(workload.dtype)
        yield np.split(tokens, offsets[1:-1])


def images(workload: Workload) -> Iterator[list[NDArray[Any]]]:
    """Encoded JPEG images of smooth colours and a little noise: about 20 kB each at quality 85, as photographs are."""
    require("PIL", "convert", "encoding the images of the benchmark")
    from PIL import Image

    step, coarse = 100, 8
    for start in range(0, workload.rows, step):
        draws = rng.Draws(0, "benchmark", np.arange(start, min(workload.rows, start + step)))
        corners = draws.integers(256, (coarse, coarse, 3)).astype(np.uint8)
        noise = draws.bits((JPEG_SIDE, JPEG_SIDE // 8)).view(np.int8).reshape(-1, JPEG_SIDE, JPEG_SIDE, 1) // 12
        piece = []
        for corner, grain in zip(corners, noise, strict=True):
            smooth = Image.fromarray(corner).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC)
            pixels = np.clip(np.asarray(smooth, np.int16) + grain, 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=85)
            piece.append(np.frombuffer(file.getvalue(), np.uint8))
        yield piece


MAKERS: dict[str, Callable[[Workload], Iterator[Any]]] = {"arrays": arrays, "sequences": sequences, "images": images}

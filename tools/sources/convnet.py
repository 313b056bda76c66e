"""Data batches of cuda-convnet and cuda-convnet2: a folder of pickles data_batch_N, with batches.meta beside them.

Two layouts. Those of its make-data.py have a folder per batch, whose pickles data_batch_N.0, .1, … hold encoded
pictures and a number or a list of numbers as labels. Those of its CIFAR-10 example hold pixels, a column per picture,
one colour plane after the other. Fields: `image` (the encoded bytes, or uint8 (size, size, colours)) and `label`
(int64; a list where the pictures of the first file do not have one each).

`--subset` chooses batches as cuda-convnet does, by their first and last number: 0-417. Where there are numbers from
1000 on, which its ImageNet batches have for validation, `train` and `test` say the same. The names of the classes and
the principal components of the colours go into the schema; the mean image does not. Pickles are read without running
anything they ask for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minibatch.tools.sources import Options, Piece
from minibatch.tools.sources.cifar import is_file, read_pickle, whole_numbers
from minibatch.tools.sources.records import Kind, Record, pieces

BATCH = re.compile(r"data_batch_(\d+)$")
VALIDATION = 1000  # make-data.py numbers the validation batches from the next thousand on


def recognises(text: str) -> bool:
    """Whether the folder `text` has batches as folders, or as pickles beside a mean image."""
    if not os.path.isdir(text):
        return False
    if any(BATCH.match(name) and os.path.isdir(os.path.join(text, name)) for name in os.listdir(text)):
        return True
    return is_file(text, "batches.meta") and "data_mean" in read_pickle(os.path.join(text, "batches.meta"))


def open_source(text: str, options: Options) -> ConvnetSource:
    """The batches of the folder `text`, those of `--subset`, in the order of their numbers."""
    numbers = chosen(text, options.subset)
    files = [path for number in numbers for path in files_of(text, number)]
    meta = read_pickle(os.path.join(text, "batches.meta")) if is_file(text, "batches.meta") else {}
    first = checked(read_pickle(files[0]), files[0])
    if isinstance(first["data"], list):
        kinds = {"image": Kind(dtype=bytes), "label": label_kind(first["labels"])}
    else:
        shape = image_shape(meta, first["data"], files[0])
        kinds = {"image": Kind(dtype=np.dtype(np.uint8), shape=shape), "label": Kind(dtype=np.dtype(np.int64))}
    return ConvnetSource(folder=text, numbers=numbers, files=files, meta=noted(meta), kinds=kinds, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvnetSource:
    """The pictures of some data batches and their labels."""

    folder: str
    numbers: Sequence[int]
    files: Sequence[str]
    meta: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, Kind]
    options: Options

    @property
    def rows(self) -> None:
        """Not known before the pickles are read."""

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return self.meta

    def describe(self) -> str:
        fields = ", ".join(f"{name} {kind}" for name, kind in self.kinds.items())
        return f"cuda-convnet batches {spans(self.numbers)} in {len(self.files):,} files: {fields}"

    def units(self) -> Iterator[ConvnetSource]:
        for file in self.files:
            yield dataclasses.replace(self, files=[file])

    def batches(self) -> Iterator[Piece]:
        for file in self.files:
            yield from pieces(self.records(file), self.kinds, self.options.bad)

    def records(self, file: str) -> Iterator[Record]:
        """The pictures of one pickle."""
        batch = checked(read_pickle(file), file)
        data, labels = batch["data"], batch["labels"]
        if isinstance(data, np.ndarray):
            shape = self.kinds["image"].shape
            if not self.kinds["image"].shape or len(data) != math.prod(shape):
                raise ValueError(f"{file!r} has 'data' of shape {data.shape}, expected {math.prod(shape):,} rows")
            planes = np.ascontiguousarray(data.T).reshape(-1, shape[2], *shape[:2])
            images: Any = planes.transpose(0, 2, 3, 1)
            labels = whole_numbers(labels, data.shape[1], f"{file!r}: 'labels'")
        else:
            images = data
        for place, (image, label) in enumerate(zip(images, labels, strict=True)):
            if not isinstance(image, np.ndarray):
                label = label_value(label, self.kinds["label"])
            yield Record(file=file, where=f"record {place:,}", fields={"image": image, "label": label})


def chosen(folder: str, subset: str | None) -> list[int]:
    """The numbers of the batches that `subset` says."""
    numbers = sorted(int(found[1]) for name in os.listdir(folder) if (found := BATCH.match(name)))
    if not numbers:
        raise ValueError(f"{folder!r} holds no batches data_batch_0, data_batch_1, …")
    sets = {"train": [n for n in numbers if n < VALIDATION], "test": [n for n in numbers if n >= VALIDATION]}
    span = re.fullmatch(r"(\d+)-(\d+)|(\d+)", subset or "")
    if span:
        first, last = int(span[1] or span[3]), int(span[2] or span[3])
        taken = [number for number in numbers if first <= number <= last]
    elif subset is None and len(numbers) == 1:
        taken = numbers
    elif subset in sets and all(sets.values()):
        taken = sets[subset]
    else:
        words = " (or train, test)" if all(sets.values()) else ""
        raise ValueError(
            f"{folder!r} holds the batches {spans(numbers)}, some of which may be for testing: choose with --subset "
            f"FIRST-LAST{words}, got {subset!r}"
        )
    if not taken:
        raise ValueError(f"{folder!r} holds no batches {subset}; there are {spans(numbers)}")
    return taken


def files_of(folder: str, number: int) -> list[str]:
    """The pickles of one batch in order: itself, or those in the folder of its name."""
    path = os.path.join(folder, f"data_batch_{number}")
    if os.path.isfile(path):
        return [path]
    pattern = re.compile(rf"data_batch_{number}\.(\d+)$")
    parts = sorted(int(found[1]) for name in os.listdir(path) if (found := pattern.match(name)))
    if parts != list(range(len(parts))) or not parts:
        there = ", ".join(map(str, parts)) or "none"
        raise ValueError(f"{path!r} should hold data_batch_{number}.0, .1, … without a gap; there are {there}")
    return [os.path.join(path, f"data_batch_{number}.{part}") for part in parts]


def checked(batch: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    """`batch`, if it has data and as many labels."""
    data, labels = batch.get("data"), batch.get("labels")
    pixels = isinstance(data, np.ndarray) and data.ndim == 2 and data.dtype == np.uint8
    if not pixels and not isinstance(data, list):
        raise ValueError(
            f"{file!r} has {type(data).__name__} as 'data', expected a list of encoded pictures or uint8 (values, n)"
        )
    if not isinstance(labels, list | np.ndarray):
        raise ValueError(f"{file!r} has {type(labels).__name__} as 'labels', expected a list")
    count = data.shape[1] if isinstance(data, np.ndarray) else len(data or ())
    if np.size(labels) != count if pixels else len(labels) != count:
        raise ValueError(f"{file!r} has {count:,} pictures and {len(labels):,} labels: these should be equally many")
    return batch


def label_kind(labels: Sequence[Any]) -> Kind:
    """What the labels of encoded pictures are: one number each, or lists.

    >>> str(label_kind([3, [4]])), str(label_kind([[3, 4], []]))
    ('int64', 'lists of int64')
    """
    single = all(not isinstance(label, list | tuple | np.ndarray) or len(label) == 1 for label in labels)
    return Kind(dtype=np.dtype(np.int64), is_list=not single)


def label_value(label: Any, kind: Kind) -> Any:
    """A label as its field wants it; what cannot be is left for `pieces` to refuse."""
    array = np.asarray(label)
    if array.dtype.kind not in "iu" and array.size:
        return label
    array = array.reshape(-1).astype(np.int64)
    return array if kind.is_list or len(array) != 1 else array[0]


def image_shape(meta: Mapping[str, Any], data: np.ndarray[Any, Any], file: str) -> tuple[int, int, int]:
    """Height, width and colours of pictures given as columns of `data`."""
    colours = int(meta.get("num_colors", 3))
    size = int(meta.get("img_size", math.isqrt(len(data) // max(1, colours))))
    if size * size * colours != len(data) or not len(data):
        raise ValueError(
            f"{file!r} has 'data' of shape {data.shape}, expected {size} × {size} × {colours} rows and a column per "
            "picture"
        )
    return size, size, colours


def noted(meta: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What batches.meta says that a schema can note."""
    found: dict[str, dict[str, str]] = {}
    if isinstance(meta.get("label_names"), list):
        found["label"] = {"classes": json.dumps([str(name) for name in meta["label_names"]], ensure_ascii=False)}
    if meta.get("label_offset"):
        found.setdefault("label", {})["offset"] = str(meta["label_offset"])
    components = meta.get("color_pca")
    if isinstance(components, tuple | list) and len(components) == 2:
        deviations, vectors = (np.asarray(each, np.float64) for each in components)
        told = {"deviations": deviations.reshape(-1).tolist(), "vectors": vectors.tolist()}
        found["image"] = {"color_pca": json.dumps(told)}
    return found


def spans(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as spans.

    >>> spans([0, 1, 2, 1000, 1002])
    '0-2, 1000, 1002'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)

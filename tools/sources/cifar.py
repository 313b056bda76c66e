"""CIFAR-10 and CIFAR-100, binary or pickled (https://www.cs.toronto.edu/~kriz/cifar.html), as folder or single batch.

Fields: `image` uint8 (32, 32, 3) — the files hold one colour plane after the other —, `label` int64 (of CIFAR-100 the
fine one, with `coarse_label` beside it), and `file` where the pickles name the pictures. The names of the classes go
into the schema. Pickles are read without running anything they ask for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minibatch.tools.sources import BadRecord, Options, Piece, rows_per_piece
from minibatch.tools.sources import safe_pickle as pickles

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
BATCH = re.compile(r"(data_batch_\d+|test_batch|train|test)(\.bin)?$")
# Where the labels of a record stand, in bytes before the pixels; what the pickles call them; what the names are called.
LABELS = {
    10: {"label": ("labels", "label_names", "batches.meta.txt")},
    100: {
        "coarse_label": ("coarse_labels", "coarse_label_names", "coarse_label_names.txt"),
        "label": ("fine_labels", "fine_label_names", "fine_label_names.txt"),
    },
}
CLASSES = {(10, "label"): 10, (100, "label"): 100, (100, "coarse_label"): 20}


def recognises(text: str) -> bool:
    """Whether the folder `text` has the files of CIFAR, or the file `text` is one of its batches."""
    if os.path.isfile(text):
        return BATCH.match(os.path.basename(text)) is not None
    return bool(batches_of(text)) and (flavour_of(text) == 10 or is_file(text, "meta") or is_file(text, "train.bin"))


def open_source(text: str, options: Options) -> CifarSource:
    """The batches of one subset of the folder `text`, or the one batch `text`."""
    if os.path.isfile(text):
        if options.subset is not None:
            raise ValueError(f"--subset means nothing to a single batch, {text!r}: leave it out")
        folder, names = os.path.dirname(text) or ".", [os.path.basename(text)]
    else:
        folder, names = text, chosen(text, options.subset)
    flavour = flavour_of(folder)
    if names[0].endswith(".bin"):
        for name in names:
            refuse_other_size(os.path.join(folder, name), PIXELS + len(LABELS[flavour]))
    return CifarSource(
        folder=folder, files=names, flavour=flavour, classes=class_names(folder, flavour), options=options
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarSource:
    """Batches of CIFAR-10 or CIFAR-100, one after another."""

    folder: str
    files: Sequence[str]
    flavour: int
    classes: Mapping[str, Sequence[str]]
    options: Options

    @property
    def rows(self) -> int | None:
        if not self.files[0].endswith(".bin"):
            return None
        sizes = sum(os.path.getsize(os.path.join(self.folder, name)) for name in self.files)
        return sizes // (PIXELS + len(LABELS[self.flavour]))

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {field: {"classes": json.dumps(names)} for field, names in self.classes.items()}

    def describe(self) -> str:
        kind = "binary" if self.files[0].endswith(".bin") else "pickled"
        return f"CIFAR-{self.flavour}, {kind}: {', '.join(self.files)}"

    def units(self) -> Iterator[CifarSource]:
        for name in self.files:
            yield dataclasses.replace(self, files=[name])

    def batches(self) -> Iterator[Piece]:
        for name in self.files:
            path = os.path.join(self.folder, name)
            yield from self.binary(path) if name.endswith(".bin") else self.pickled(path)

    def binary(self, path: str) -> Iterator[Piece]:
        """The records of one binary batch: a byte per label, and the pixels."""
        labels = list(LABELS[self.flavour])
        size = len(labels) + PIXELS
        step = rows_per_piece(size)
        with open(path, "rb") as file:
            start = 0
            while block := file.read(step * size):
                records = np.frombuffer(block, np.uint8).reshape(-1, size)
                found = {field: records[:, place].astype(np.int64) for place, field in enumerate(labels)}
                good = self.checked(path, start, found, lambda row: f", byte {row * size:,}")
                columns: dict[str, Any] = {"image": records[:, len(labels) :], **found}
                yield self.piece({field: values[good] for field, values in columns.items()})
                start += len(records)

    def pickled(self, path: str) -> Iterator[Piece]:
        """The records of one pickled batch: data uint8 (n, 3072), and a list of labels of each kind."""
        batch = read_pickle(path)
        data = batch.get("data")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
            what = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise ValueError(f"{path!r} has as 'data' {what}, expected uint8 (n, {PIXELS}): a row per picture")
        columns: dict[str, Any] = {"image": data}
        for field, (key, _, _) in LABELS[self.flavour].items():
            columns[field] = whole_numbers(batch.get(key), len(data), f"{path!r}: {key!r}")
        files = batch.get("filenames")
        if isinstance(files, list) and len(files) == len(data):
            columns["file"] = np.asarray(files, object)
        good = self.checked(path, 0, {field: columns[field] for field in LABELS[self.flavour]}, lambda row: "")
        step = rows_per_piece(PIXELS)
        for start in range(0, len(data), step):
            part = good[start : start + step]
            yield self.piece({field: values[start : start + step][part] for field, values in columns.items()})

    def checked(self, path: str, start: int, labels: Mapping[str, Any], at: Any) -> np.ndarray[Any, Any]:
        """Which records have labels of existing classes; the others are reported."""
        good = np.ones(len(next(iter(labels.values()))), np.bool_)
        for field, values in labels.items():
            most = CLASSES[self.flavour, field]
            for row in np.flatnonzero(good & ((values < 0) | (values >= most))).tolist():
                reason = f"{field} is {values[row]}, expected 0 to {most - 1}"
                self.options.bad(BadRecord(path, f"record {start + row:,}{at(start + row)}", reason))
                good[row] = False
        return good

    def piece(self, columns: Mapping[str, Any]) -> Piece:
        """Columns as fields: pixels in rows of three colours, names as a list."""
        image = columns["image"].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
        order = ["image", "label", *(["coarse_label"] if "coarse_label" in columns else [])]
        piece: Piece = {**{field: columns[field] for field in order}, "image": np.ascontiguousarray(image)}
        if "file" in columns:
            piece["file"] = columns["file"].tolist()
        return piece


def batches_of(folder: str) -> list[str]:
    """The batches in `folder`, in the order of their numbers, binary or pickled but not both: the binary ones count."""
    names = [name for name in os.listdir(folder) if BATCH.match(name) and is_file(folder, name)]
    names = [name for name in names if name.endswith(".bin")] or names
    return sorted(names, key=lambda name: (len(name), name))


def chosen(folder: str, subset: str | None) -> list[str]:
    """The batches of `subset`, which must be given where the folder has both."""
    names = batches_of(folder)
    sets = {"train": [name for name in names if not name.startswith("test")]}
    sets["test"] = [name for name in names if name.startswith("test")]
    there = [name for name, batches in sets.items() if batches]
    if not there:
        raise ValueError(f"{folder!r} holds no CIFAR batches, such as data_batch_1 or test_batch.bin")
    if subset is None and len(there) > 1:
        raise ValueError(f"{folder!r} holds the subsets train and test: choose one, such as --subset train")
    if subset is not None and subset not in there:
        raise ValueError(f"{folder!r} holds no subset {subset!r}; there is {' and '.join(there)}")
    return sets[subset or there[0]]


def flavour_of(folder: str) -> int:
    """10 or 100, told by the files that have the names of the classes, and by those of the batches."""
    if is_file(folder, "fine_label_names.txt") or is_file(folder, "meta"):
        return 100
    return 100 if any(name in ("train", "test", "train.bin", "test.bin") for name in batches_of(folder)) else 10


def class_names(folder: str, flavour: int) -> dict[str, list[str]]:
    """The names of the classes by field, as far as they lie beside the batches."""
    meta: dict[str, Any] = {}
    for name in ("batches.meta", "meta"):
        if is_file(folder, name):
            meta = read_pickle(os.path.join(folder, name))
    classes = {}
    for field, (_, key, listed) in LABELS[flavour].items():
        if is_file(folder, listed):
            path = os.path.join(folder, listed)
            try:
                with open(path, encoding="utf-8") as file:
                    classes[field] = [line.strip() for line in file if line.strip()]
            except UnicodeDecodeError as error:
                raise ValueError(f"{path!r} is not UTF-8 text ({error}): it should name a class per line") from error
        elif isinstance(meta.get(key), list):
            classes[field] = meta[key]
    return classes


def read_pickle(path: str) -> dict[str, Any]:
    """The dict in the pickle at `path`."""
    with open(path, "rb") as file:
        batch = pickles.plain(pickles.load(file, repr(path)))
    if not isinstance(batch, dict):
        raise ValueError(f"{path!r} holds a {type(batch).__name__}, expected a dict as in CIFAR's batches")
    return batch


def whole_numbers(values: Any, count: int, where: str) -> np.ndarray[Any, Any]:
    """`values` as int64 (count,)."""
    array = np.asarray(values).reshape(-1) if isinstance(values, list | np.ndarray) else np.zeros(0)
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and (array == np.floor(array)).all())
    if len(array) != count or not whole:
        raise ValueError(f"{where} is {values!r:.60}, expected {count:,} whole numbers")
    return array.astype(np.int64)


def refuse_other_size(path: str, record: int) -> None:
    """Raise ValueError unless the file consists of whole records."""
    size = os.path.getsize(path)
    if size % record or not size:
        raise ValueError(
            f"{path!r} has {size:,} bytes, which are no whole records of {record:,}: it was truncated, or is no CIFAR"
        )


def is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))

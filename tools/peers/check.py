"""Whether a loader's minibatches are what they should be: right values, no row twice in a sweep, really shuffled."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.tools.bench_data import CROP_SIDE, Data
from minibatch.tools.peers.work import MARGIN

VALUES_CHECKED = 3  # minibatches whose every value is compared
LABELS_CHECKED = 50  # minibatches whose rows are compared
JPEG_NOISE = 8.0  # mean difference of pixels between two decoders; a wrong window of our images differs by 20 and more


def check_minibatches(
    batches: Iterator[Mapping[str, Any]], data: Data, *, shuffle: str = "rows", resizes: bool = False
) -> str:
    """What was checked, in a few words; `ValueError` says what is wrong with the first minibatch that is wrong.

    `batches` begins with a sweep. `shuffle` and `resizes` are those of the `Peer`.
    """
    k, seen = data.workload.k, []
    most = min(LABELS_CHECKED, data.rows // k)
    for number in range(most):
        batch = next(batches)
        label = np.asarray(batch["label"]).reshape(-1)
        if label.shape != (k,) or label.min() < 0 or label.max() >= data.rows:
            raise ValueError(f"minibatch {number} has labels {label.shape}, expected {k} numbers of rows")
        if number < VALUES_CHECKED:
            check_values(np.asarray(batch["x"]), label, data, where=f"minibatch {number}", resizes=resizes)
        seen.append(label)
    labels = np.concatenate(seen)
    if len(np.unique(labels)) != len(labels):
        raise ValueError(f"{len(labels) - len(np.unique(labels))} of {len(labels)} rows came twice in one sweep")
    check_shuffled(labels if shuffle == "rows" else labels[::k], data.rows)
    part = "a whole sweep" if most == data.rows // k else f"{most} minibatches"
    return f"no row twice in {part}"


def check_shuffled(labels: NDArray[np.int64], rows: int) -> None:
    """Raise unless neighbours are as far apart as in a random order: a third of all rows, on average."""
    if len(labels) < 32:
        return
    apart = float(np.abs(np.diff(labels.astype(np.int64))).mean()) / rows
    if not 0.2 < apart < 0.45:
        raise ValueError(
            f"rows are not shuffled: neighbours are {apart:.2f} of the data set apart, expected about 0.33"
        )


def check_values(x: NDArray[Any], label: NDArray[Any], data: Data, *, where: str, resizes: bool) -> None:
    """Raise unless `x` holds the rows `label`."""
    workload = data.workload
    if workload.kind == "images":
        if x.shape != (len(label), CROP_SIDE, CROP_SIDE, 3) or x.dtype != np.uint8:
            raise ValueError(f"{where}: x is {x.dtype} {x.shape}, expected uint8 (k, {CROP_SIDE}, {CROP_SIDE}, 3)")
        if not resizes:
            for image, number in list(zip(x, label.tolist(), strict=True))[:2]:
                check_window(image, number, data, where)
    elif workload.kind == "sequences":
        for line, number in zip(x, label.tolist(), strict=True):
            row = data.row(number)
            if not np.array_equal(line[: len(row)], row) or line[len(row) :].any():
                raise ValueError(f"{where}: row {number} is not sequence {number}, padded with zeros")
    else:
        wrong = (x.reshape(len(label), -1) != data.values[label.astype(np.int64)]).any(1)
        if wrong.any():
            raise ValueError(f"{where}: row {label[wrong][0]} has not the values that were written")


def check_window(image: NDArray[np.uint8], number: int, data: Data, where: str) -> None:
    """Raise unless `image` is a window of image `number`, mirrored or not; other decoders may round otherwise."""
    from PIL import Image

    whole = np.asarray(Image.open(io.BytesIO(data.row(number).tobytes())), np.int16)
    best = np.inf
    for seen in (image[::8, ::8].astype(np.int16), image[::8, ::-1][:, ::8].astype(np.int16)):
        for top in range(MARGIN):
            for left in range(MARGIN):
                window = whole[top : top + CROP_SIDE : 8, left : left + CROP_SIDE : 8]
                best = min(best, float(np.abs(window - seen).mean()))
    if best > JPEG_NOISE:
        raise ValueError(
            f"{where}: image {number} is no {CROP_SIDE}×{CROP_SIDE} window of what was written ({best:.1f})"
        )

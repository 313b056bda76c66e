"""What the peers' own functions do for them: orders, gathers of whole minibatches, decoding, padding, with NumPy alone.

A user of these libraries writes such lines by hand; they are as quick as NumPy and simplejpeg let them be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.order import make_order
from minibatch.tools.bench_data import CROP_SIDE, JPEG_SIDE, Data

MARGIN = JPEG_SIDE - CROP_SIDE + 1


def row_numbers(data: Data, seed: int) -> Iterator[NDArray[np.int64]]:
    """The rows of each minibatch for ever, for loaders that leave the order to their user: int64 (k,)."""
    k = data.workload.k
    order = make_order("full", rows=data.rows, chunk_rows=1, seed=seed)
    sweep = 0
    while True:
        rows = order.rows_at(sweep * data.rows, data.rows)
        for start in range(0, data.rows - k + 1, k):
            yield rows[start : start + k]
        sweep += 1


def gathered(data: Data, rows: Any) -> dict[str, NDArray[Any]]:
    """The minibatch of the given rows from the plain files: "x" and "label"."""
    numbers = np.asarray(rows, np.int64)
    if data.workload.kind == "images":
        return {"x": decoded([data.row(number) for number in numbers], numbers), "label": numbers}
    if data.workload.kind == "sequences":
        return {"x": padded([data.row(number) for number in numbers]), "label": numbers}
    return {"x": data.values[numbers], "label": numbers}


def padded(sequences: list[Any]) -> NDArray[Any]:
    """Sequences as one array (n, longest), zeros behind their ends."""
    out = np.zeros((len(sequences), max(map(len, sequences))), np.int32)
    for line, sequence in zip(out, sequences, strict=True):
        line[: len(sequence)] = sequence
    return out


def decode_whole(image: Any) -> NDArray[np.uint8]:
    """One encoded JPEG image: uint8 (height, width, 3)."""
    from simplejpeg import decode_jpeg

    pixels: NDArray[np.uint8] = decode_jpeg(image)
    return pixels


def decoded(images: list[Any], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Encoded images as (n, 224, 224, 3): cropped, and every other one mirrored, somewhere that the row's number says.

    A real transform draws; what it draws costs nothing beside the decoding.
    """
    out = np.empty((len(images), CROP_SIDE, CROP_SIDE, 3), np.uint8)
    for place, image, number in zip(out, images, numbers.tolist(), strict=True):
        mixed = number * 2654435761 >> 7  # Knuth's multiplicative hash
        top, left = mixed % MARGIN, mixed // MARGIN % MARGIN
        crop = decode_whole(image)[top : top + CROP_SIDE, left : left + CROP_SIDE]
        place[:] = crop[:, ::-1] if number % 2 else crop
    return out

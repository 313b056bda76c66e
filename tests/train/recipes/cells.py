"""A small data set in Pascal VOC's format: discs of three kinds on grey, as blood cells are, converted for recipes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from minibatch import rng
from tests.tools.samples import converted, write_files

HEIGHT, WIDTH = 96, 128
KINDS = {"Platelets": (8, (90, 60, 160)), "RBC": (13, (210, 120, 120)), "WBC": (19, (60, 40, 200))}  # radius, colour


def photograph(number: int) -> tuple[bytes, bytes]:
    """An image of 96 × 128 pixels as JPEG with one to five discs that do not touch, and its annotation."""
    words = iter(rng.integers(rng.key(1, "cells", number), np.arange(60), 1 << 20).tolist())
    pixels = 200 + 20 * rng.normal(rng.key(2, "cells", number), np.arange(HEIGHT * WIDTH * 3)).reshape(HEIGHT, WIDTH, 3)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    discs: list[tuple[str, int, int, int]] = []
    for _ in range(1 + next(words) % 5):
        kind = list(KINDS)[next(words) % 3]
        radius, colour = KINDS[kind]
        x, y = radius + next(words) % (WIDTH - 2 * radius), radius + next(words) % (HEIGHT - 2 * radius)
        if all((x - other[1]) ** 2 + (y - other[2]) ** 2 > (radius + other[3]) ** 2 for other in discs):
            discs.append((kind, x, y, radius))
            pixels[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = colour
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    corner = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    objects = "".join(
        f"<object><name>{kind}</name><bndbox>{corner.format(x - r + 1, y - r + 1, x + r, y + r)}</bndbox></object>"
        for kind, x, y, r in discs
    )
    return file.getvalue(), f"<annotation>{objects}</annotation>".encode()


def write_data(folder: Path, *, train: int, valid: int) -> Path:
    """The data sets `folder`/train and `folder`/valid, by `minibatch convert`."""
    files: dict[str, bytes] = {}
    for number in range(train + valid):
        name = f"{number:04}"
        files[f"JPEGImages/{name}.jpg"], files[f"Annotations/{name}.xml"] = photograph(number)
    for subset, numbers in (("trainval", range(train)), ("test", range(train, train + valid))):
        files[f"ImageSets/Main/{subset}.txt"] = "".join(f"{number:04}\n" for number in numbers).encode()
    source = write_files(folder / "voc", files)
    for subset, name in (("trainval", "train"), ("test", "valid")):
        converted(source, folder / name, "--subset", subset)
    return folder

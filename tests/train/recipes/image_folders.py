"""Small folders of JPEG images, as an image data set comes: for the recipes of cuda-convnet2's networks."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.tools.samples import converted

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_folders(folder: Path, *, train: int, valid: int, sizes: tuple[int, int]) -> Path:
    """`folder`/train/CLASS/N.jpg and `folder`/test/…: images of three colours under noise, sides from `sizes`."""
    draw = np.random.default_rng(2)
    for subset, count in (("train", train), ("test", valid)):
        for name, colour in COLOURS.items():
            (folder / subset / name).mkdir(parents=True)
            for number in range(count):
                height, width = draw.integers(sizes[0], sizes[1] + 1, 2)
                # The colour of the class, weakly, in noise of blocks: no single pixel says it.
                blocks = draw.normal(128, 40, (height // 4 + 1, width // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)
                pixels = 0.7 * blocks[:height, :width] + 0.3 * np.array(colour)
                path = folder / subset / name / f"{number:03}.jpg"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def write_data(folder: Path, *options: str, **shape: object) -> Path:
    """The data sets `folder`/data/train and `folder`/data/valid, by `minibatch convert` with `options`."""
    images = write_folders(folder / "images", **shape)  # type: ignore[arg-type]
    for subset, name in (("train", "train"), ("test", "valid")):
        (folder / "data").mkdir(exist_ok=True)
        converted(images, folder / "data" / name, "--subset", subset, *options)
    return folder / "data"

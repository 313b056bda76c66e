"""Tiny raw data under the names that docs/coming-from.md uses, and what makes its commands of training short."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from minibatch import rng
from tests.tools.binary_samples import python2
from tests.tools.samples import pack, write_files

FEW = ("validate_every=256", "save_every=256", "log_every=2")
# What is added to `minibatch train RECIPE`, so that it takes a second: few samples, and small networks.
SHORTER: dict[str, tuple[str, ...]] = {
    "autoencoder": (*FEW, "maps=[4,4,2]", "minibatch_size=16", "max_samples=64", "threads=1"),
    "cifar10": (*FEW, "validation_size=100", "minibatch_size=64", "max_samples=384", "threads=1"),
    "digits": (*FEW, "max_samples=640"),
    "imagenet": (
        *(*FEW, "classes=10", "size=48", "shorter_side=52", "widths=[4,4,4,4,4]", "hidden=16"),
        *("minibatch_size=64", "max_samples=384", "threads=1"),
    ),
    "joint": (*FEW, "hidden=8", "size=8", "minibatch_size=16", "max_samples=64", "threads=1"),
    "multitask": (*FEW, "hidden=8", "minibatch_size=16", "max_samples=64", "threads=1"),
    "step_by_step": (*FEW, "max_samples=640"),
    "weighted": (*FEW, "max_samples=640"),
}
RESUMED = 512  # max_samples of a run that is resumed


def shorter(arguments: Sequence[str]) -> list[str]:
    """The options that are added to the command `minibatch ARGUMENTS`."""
    if arguments[0] != "train":
        return []
    given = list(SHORTER.get(arguments[1], ()))
    if "--resume" in arguments:
        given.append(f"max_samples={RESUMED}")
    return [word for option in given for word in ("--set", option)]


def prepare_raw_data(system: str, folder: Path) -> None:
    """What the commands of a system convert, in `folder`."""
    if system == "cuda-convnet2":
        _encoded_batches(folder / "ilsvrc-2012-batches", {0: 40, 417: 20, 1000: 20})
        _batches_of_pixels(folder / "cifar-10-py-colmajor", dict.fromkeys(range(1, 7), 20))
    if system == "CNTK":
        classes = ("airplane", "cat", "truck")
        names = [(part, f"{part}/{c}/{n}.jpg") for part in ("train", "test") for c in classes for n in range(14)]
        pack(folder / "cifar10-jpg.tar.gz", [(name, _jpeg(32, 32, place)) for place, (_, name) in enumerate(names)])
        for part, count in (("train", 40), ("test", 20)):
            (folder / f"atis.{part}.ctf").write_text("".join(_query(number) for number in range(count)))
            words = [_word(number) for number in range(count)]
            (folder / f"cmudict.{part}").write_text("".join(f"{word}  {' '.join(word)}\n" for word in words))


def _query(number: int) -> str:
    """A sentence of three to six words in CNTK's text format: its intent beside the first word, a slot beside each."""
    words = _noise(number, 1, 3 + number % 4)
    lines = [f"{number}\t|S0 {word}:1\t|S2 {word % 129}:1\n" for word in words]
    return "".join([lines[0].replace("\t|S2", f"\t|S1 {number % 26}:1\t|S2"), *lines[1:]])


def _word(number: int) -> str:
    """A word of letters that are names of phones, too."""
    return "".join("BDFGKLMNPRSTVWYZ"[letter % 16] for letter in _noise(number, 2, 8))


def _encoded_batches(folder: Path, sizes: dict[int, int]) -> None:
    """Data batches as make-data.py writes them for ImageNet: folders of pickles with encoded pictures."""
    files = {"batches.meta": python2({"label_names": [f"class {number}" for number in range(10)], "num_vis": 64 * 64})}
    for number, size in sizes.items():
        batch = {
            "data": [_jpeg(60, 64, 1000 * number + place) for place in range(size)],
            "labels": [[place % 10] for place in range(size)],
        }
        files[f"data_batch_{number}/data_batch_{number}.0"] = python2(batch)
    write_files(folder, files)


def _batches_of_pixels(folder: Path, sizes: dict[int, int]) -> None:
    """Data batches as the CIFAR-10 example has them: a column of pixels for every picture."""
    names = [f"class {number}" for number in range(10)]
    meta = {"label_names": names, "num_vis": 3072, "data_mean": np.zeros((3072, 1), np.float32)}
    files = {"batches.meta": python2(meta)}
    for number, size in sizes.items():
        pixels = _noise(number, 0, 3072 * size).reshape(3072, size)
        files[f"data_batch_{number}"] = python2({"data": pixels, "labels": [place % 10 for place in range(size)]})
    write_files(folder, files)


def _jpeg(height: int, width: int, number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_noise(number, 3, height * width * 3).reshape(height, width, 3)).save(file, "JPEG")
    return file.getvalue()


def _noise(number: int, use: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return rng.integers(rng.key(number, "coming_from", use), np.arange(size), 256).astype(np.uint8)

"""Small finished runs to travel in: by hand, with everything a step can have, and the recipe `demo` on the digits."""

import shutil
from functools import partial
from pathlib import Path

from minibatch.train.running import run_recipe
from minibatch.train.travel import Past
from tests.train.small import make_source, make_trainer, write

STEPS = 40
SIZE = 9


def made(data, folder, *, source=None, **options):
    """The Trainer of a small run in `folder`, with a source of its own."""
    return make_trainer(make_source(data, **(source or {})), folder=folder, log_every=5, **options)


def hand_made(path: Path, *, steps=STEPS, save_every=100, data=None, trainer=made, **options) -> Past:
    """A finished small run, steps of 9 samples, checkpoints at about every 100 samples; and how to make it anew."""
    data = data or write(path / "data")
    make = partial(trainer, data, **options)
    with make(path / "run") as running:
        running.save_checkpoint()
        running.fit(max_samples=steps * SIZE, save_every=save_every)
        running.source.close()
    return Past(path / "run", make=make)


def digits(path: Path, *, data=None, **options) -> Past:
    """A finished run of the recipe: 40 steps of 16 samples, checkpoints after every 160."""
    chosen = {
        "max_samples": 640,
        "minibatch_size": 16,
        "save_every": 160,
        "validate_every": 320,
        "keep_last": None,
        "log_every": 10,
        **options,
    }
    run_recipe("demo", path, options=chosen, data=data, say=lambda text: None)
    return Past(path, data=data)


def resumed(folder: Path, **options) -> Past:
    """The run gone on with, after changes of its options."""
    run_recipe("demo", folder, options=options, resume=True, say=lambda text: None)
    return Past(folder)


def three_pieces(folder: Path) -> Past:
    """A run of 20, 10 and 20 steps, with another max_samples and so other rates in each; one checkpoint is left."""
    digits(folder, max_samples=320, keep_last=1)
    resumed(folder, max_samples=480)
    past = resumed(folder, max_samples=800)
    for saved in past.checkpoints()[:-1]:
        shutil.rmtree(saved.path)  # also the first one, if it is kept
    return past


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, its lock apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }

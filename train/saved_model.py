"""The model of a run with the weights of one of its checkpoints, for testing and features: nothing is trained, nothing
in the run's folder is changed, and a run that goes on meanwhile is not disturbed.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from minibatch.errors import CheckpointError
from minibatch.storage import MANIFEST
from minibatch.train import checkpoint, foreign, running, state, user_code
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.device import placed
from minibatch.train.history import as_validation
from minibatch.train.progress import announce
from minibatch.train.saving import AVERAGED


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A run's configuration and model, as the checkpoint at `path` has it: after `step` steps, at `nominal_time`."""

    config: RunConfig
    model: nn.Module
    path: Path
    step: int
    nominal_time: int


def load_model(
    folder: str | os.PathLike[str],
    *,
    which: str | int | os.PathLike[str] = "newest",
    averaged: bool | None = None,
    say: Callable[[str], None] = announce,
) -> SavedModel:
    """The model of the run in `folder`, in eval mode, on the CPU or where its recipe puts it.

    which: "newest" (complete checkpoint), "best" (that of the best validation, as the run's `watch` and `mode` say), a
    nominal time that has a checkpoint, or the path of one. averaged: whether to take the moving average of the weights
    instead of the weights; None: as the run's own validations do, where it has one. Raises CheckpointError where there
    is no such run, checkpoint or average.
    """
    folder = Path(folder)
    config = running.load_config(folder, say)
    path = chosen_checkpoint(folder, config, which)
    content = checkpoint.read(path)
    with user_code.places_noted():
        model = placed(foreign.first_model(config.model, config.seed), config.device)
    foreign.check_noise(model, config.foreign_noise)
    state.check_model(model, content.model)
    model.load_state_dict(dict(content.model))
    if averaged or (averaged is None and config.averaging is not None and content.state.get("averaging") is not None):
        _put_average(model, config, content, path)
    return SavedModel(
        config=config,
        model=model.eval(),
        path=path,
        step=content.state["step"],
        nominal_time=content.state["nominal_time"],
    )


def chosen_checkpoint(folder: Path, config: RunConfig, which: str | int | os.PathLike[str]) -> Path:
    """The path of the checkpoint that `which` says, see `load_model`."""
    inside = folder / "checkpoints"
    times = [checkpoint.time_of(path) for path in checkpoint.checkpoints_in(inside)]
    if which == "newest":
        newest = checkpoint.newest_complete(inside)
        if newest.path is None:
            why = "; ".join(map(str, newest.skipped)) or "there is none"
            raise CheckpointError(f"no complete checkpoint in {inside}: {why}")
        return newest.path
    if which == "best":
        which = best_time(folder, config)
    if isinstance(which, int) or (isinstance(which, str) and which.isdecimal()):
        path = checkpoint.place(inside, int(which))
        if int(which) not in times:
            there = ", ".join(f"{time:,}" for time in times) or "none"
            raise CheckpointError(f"{folder} has no checkpoint at nominal time {int(which):,}; it has {there}")
        return path
    path = Path(which)
    return path if path.is_dir() or not (inside / path).is_dir() else inside / path


def best_time(folder: Path, config: RunConfig) -> int:
    """The nominal time of the best validation of a run so far."""
    file = folder / "validation.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    history = [as_validation(json.loads(line)) for line in lines if line.endswith("\n")]
    found = running.watch_of(config).best(history)
    if found is None:
        raise CheckpointError(f"{folder} has no best checkpoint: nothing was measured on validation data in {file}")
    return found.nominal_time


def prepared_data(saved: RunConfig, folder: Path, data: Path | None) -> Prepared:
    """Where the data sets of a run lie: in `data`, by default in folder/data; ValueError if there are none."""
    place = folder / "data" if data is None else data
    if not place.exists():
        raise ValueError(
            f"the data sets of the run {folder} are not in {place}: say with --data in which folder they lie"
        )
    return saved.data(place)


@contextmanager
def held_out(saved: SavedModel, folder: Path, data: Path | None) -> Iterator[Any]:
    """What to measure on: the data set `data` if it is one, else the validation data of the run in folder `data`."""
    if data is not None and (data / MANIFEST).is_file():
        yield data
        return
    prepared = prepared_data(saved.config, folder, data)
    with running.opened_validation(saved.config, prepared) as source:
        if source is None:
            raise ValueError(f"the recipe {saved.config.recipe} has no validation data: name a data set with --data")
        yield source


def _put_average(model: nn.Module, config: RunConfig, content: checkpoint.Content, path: Path) -> None:
    """The moving average of the weights in place of the weights, for good."""
    if config.averaging is None:
        raise CheckpointError(f"{path} has no averaged weights: the run was not told to average them (averaging=)")
    if content.state.get("averaging") is None:
        raise CheckpointError(f"{path} has no averaged weights yet: they begin at {config.averaging.start:,}")
    # Which tensors were averaged is told by the checkpoint: the optimizers had frozen some, or all of a body.
    averages = {name[len(AVERAGED) :]: t for name, t in content.optimizer.items() if name.startswith(AVERAGED)}
    own = model.state_dict()
    if strange := [name for name, tensor in averages.items() if name not in own or own[name].shape != tensor.shape]:
        raise CheckpointError(f"{path}: the averages of {', '.join(strange[:6])} do not fit the model")
    model.load_state_dict({**own, **averages})

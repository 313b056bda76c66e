"""What a call of `train` is given, opened: data of every kind, and the folder that the call saves into."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch import Dataset, MinibatchSource, rng, split
from minibatch.train import checkpoint
from minibatch.train.arrays import Calls, as_columns, as_dataset, field_names, is_calls, written
from minibatch.train.experiment.run import RunData
from minibatch.train.experiment.settings import Settings

MODEL = "model"  # of a call that has ended, in its folder
CALL = "train-{}"  # the folder of a call, where save_progress does not say where its number goes


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the columns of the data are to a network.

    names: inputs, then targets if it learns any. weighted: whether a column of weights may follow. flat: columns in
    which (n,) stands for (n, 1). check: called with arrays before they are written, to refuse what cannot be learnt.
    unlabelled: whether inputs alone are used; whatever else the data have is ignored.
    """

    names: tuple[str, ...]
    weighted: bool = False
    flat: tuple[str, ...] = ()
    check: Callable[[Mapping[str, Any]], None] = lambda columns: None
    unlabelled: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that there must be."""
        return self.names[:1] if self.unlabelled else self.names

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that there may be, behind those needed."""
        return (*self.names[len(self.needed) :], *(("weight",) if self.weighted else ()))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Data ready for one run or several, each with a seed of its own.

    train: what to train on. valid: what to validate on. fields: inputs, targets, weights, as far as there are any.
    """

    train: Dataset | MinibatchSource | Calls
    valid: Dataset | MinibatchSource
    fields: tuple[str, ...]

    def run_data(self, seed: int) -> RunData:
        """The data of a run: a source over a data set begins at nominal time 0, in an order of `seed`."""
        if isinstance(self.train, Dataset):
            source = MinibatchSource(self.train, seed=seed, fields=self.fields)
            return RunData(train=source, valid=self.valid, fields=self.fields, opened=True)
        return RunData(train=self.train, valid=self.valid, fields=self.fields)


def open_data(train: Any, valid: Any, roles: Roles, settings: Settings, *, seed: int) -> Opened:
    """Open training and validation data; without the latter, a part of the former, or all of it, takes its place."""
    if valid is not None and settings.valid_fraction:
        raise ValueError("valid_fraction= holds out a part of the training data, but valid_data is given, too")
    opened = _open(train, roles, settings)
    if settings.valid_fraction:
        if not isinstance(opened, Dataset):
            raise ValueError(f"valid_fraction= needs arrays or a data set, got {type(train).__name__}: pass valid_data")
        share = settings.valid_fraction
        # By a key of the network alone, so that no later call trains on what an earlier one has held out.
        sides = split(opened, {"train": 1.0 - share, "valid": share}, seed=rng.key(seed, "held out"))
        for side, dataset in sides.items():
            if not len(dataset):
                raise ValueError(f"valid_fraction={share}: of {len(opened)} samples none is left in {side!r}")
        opened = sides["train"]
        measured: Dataset | MinibatchSource = sides["valid"]
    elif valid is not None:
        given = _open(valid, roles, settings)
        measured = given.ahead(given.iteration_size) if isinstance(given, Calls) else given
    else:
        measured = opened.ahead(opened.iteration_size) if isinstance(opened, Calls) else opened
    fields = fields_of(opened, roles, settings)
    if fields_of(measured, roles, settings) != fields:
        raise ValueError(
            f"the training data have the fields {', '.join(fields)}, the validation data "
            f"{', '.join(fields_of(measured, roles, settings))}: they must have the same ones, weights included"
        )
    return Opened(train=opened, valid=measured, fields=fields)


def fields_of(data: Dataset | MinibatchSource | Calls, roles: Roles, settings: Settings) -> tuple[str, ...]:
    """The names of the fields that are inputs, targets and weights."""
    if isinstance(data, Calls):
        return data.names if roles.unlabelled else (*data.names, *data.found)
    dataset = data.dataset if isinstance(data, MinibatchSource) else data
    if roles.unlabelled:
        there = tuple(dataset.fields)
        first = settings.fields or (there if len(there) == len(roles.names) and roles.names[0] not in there else None)
        return field_names(dataset, roles.needed, None if first is None else first[:1])
    usual = roles.names
    weighted = roles.weighted and len(dataset.fields if settings.fields is None else settings.fields) > len(usual)
    if weighted and (settings.fields is not None or "weight" in dataset.fields):
        usual = (*usual, "weight")
    return field_names(dataset, usual, settings.fields)


def _open(data: Any, roles: Roles, settings: Settings) -> Dataset | MinibatchSource | Calls:
    if isinstance(data, MinibatchSource):
        return data
    if is_calls(data):
        return Calls(
            data,
            roles.needed,
            optional=roles.optional,
            flat=roles.flat,
            check=roles.check,
            iteration_size=settings.iteration_size,
        )
    if isinstance(data, Dataset | str | os.PathLike):
        return as_dataset(data, roles.needed)
    columns = as_columns(data, roles.needed, optional=roles.optional, flat=roles.flat)
    roles.check(columns)
    return written([columns])


def folder_of_call(save_progress: str | None, call: int) -> Path | None:
    """The folder of a call: the number takes the place of "{}", or is a subfolder.

    >>> folder_of_call("runs/digits", 1).as_posix(), folder_of_call("runs/digits-{}", 2).as_posix()
    ('runs/digits/train-1', 'runs/digits-2')
    """
    if save_progress is None:
        return None
    if "{}" in save_progress:
        return Path(save_progress.replace("{}", str(call)))
    return Path(save_progress) / CALL.format(call)


def newest_model(save_progress: str) -> Path | None:
    """The weights of the last call that has saved any below `save_progress`; None without one.

    Those a call has ended with, or else those of its newest complete checkpoint.
    """
    found: Path | None = None
    call = 1
    while (folder := folder_of_call(save_progress, call)) is not None and folder.is_dir():
        ended = folder / MODEL
        if checkpoint.newest_complete(folder / "checkpoints").path is not None:
            found = checkpoint.newest_complete(folder / "checkpoints").path
        if ended.is_dir():
            found = ended
        call += 1
    return found


def model_in(path: str | os.PathLike[str]) -> Path:
    """Where the weights lie that `path` means: a saved model, a checkpoint, or a folder of progress."""
    folder = Path(path)
    if (folder / checkpoint.MANIFEST).exists():
        return folder
    for inner in (folder / MODEL, newest_model(str(folder)), checkpoint.newest_complete(folder / "checkpoints").path):
        if inner is not None and inner.is_dir():
            return inner
    raise FileNotFoundError(2, "no saved model, checkpoint or progress of training", str(path))


def names_of(fields: Sequence[str]) -> tuple[str, str | None, str | None]:
    """(inputs, targets or None, weights or None) of the fields of a run."""
    padded = [*fields, None, None]
    inputs = padded[0]
    assert inputs is not None
    return inputs, padded[1], padded[2]

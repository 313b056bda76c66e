"""What a call of `train` is given, opened: data of every kind, and the folder that the call saves into."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minibatch import Dataset, MinibatchSource, rng, split
from minibatch.train import checkpoint
from minibatch.train.arrays import Calls, as_columns, field_names, is_calls, written
from minibatch.train.experiment.run import RunData
from minibatch.train.experiment.settings import Settings

MODEL = "model"  # of a call that has ended, in its folder
CALL = "train-{}"  # the folder of a call, where save_progress does not say where its number goes


def _accept(column: Any) -> None:
    """Any targets will do."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the columns of the data are to a network.

    names: inputs, then targets if it learns any. weight: the name of the weights that may follow, None where there are
    none. flat: whether targets (n,) stand for (n, 1). check: called with the targets of arrays before anything is
    written, to refuse what cannot be learnt. unlabelled: whether inputs alone are used, and all else is ignored.
    """

    names: tuple[str, ...]
    weight: str | None = None
    flat: bool = False
    check: Callable[[Any], None] = _accept
    unlabelled: bool = False

    def called(self, fields: Sequence[str]) -> "Roles":
        """The same roles under the names of the fields of a data set."""
        names = (*fields[: len(self.names)], *self.names[len(fields) :])
        weight = fields[len(self.names)] if len(fields) > len(self.names) else self.weight
        return replace(self, names=names, weight=weight)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that there must be."""
        return self.names[:1] if self.unlabelled else self.names

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that there may be, behind those needed."""
        return (*self.names[len(self.needed) :], *(() if self.weight is None else (self.weight,)))

    def columns(self, data: Any) -> dict[str, Any]:
        """Arrays by name, checked."""
        flat = self.names[1:] if self.flat else ()
        columns = as_columns(data, self.needed, optional=self.optional, flat=flat)
        if not self.unlabelled:
            for target in self.names[1:]:
                self.check(columns[target])
        return columns


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
    for data in (train, valid):
        if _has_names(data):  # arrays beside a data set take the names of its fields
            named = _open(data, roles, settings)
            assert isinstance(named, Dataset | MinibatchSource)
            roles = roles.called(fields_of(named, roles, settings))
            settings = replace(settings, fields=None)
            break
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
        return roles.needed if roles.unlabelled else (*roles.needed, *data.found)
    dataset = data.dataset if isinstance(data, MinibatchSource) else data
    there, given = tuple(dataset.fields), settings.fields
    if roles.unlabelled:
        if given is None and roles.names[0] not in there and len(there) == len(roles.names):
            given = there
        return field_names(dataset, roles.needed, None if given is None else given[:1])
    weighted = roles.weight is not None and (roles.weight in there if given is None else len(given) > len(roles.names))
    usual = (*roles.names, roles.weight) if weighted and roles.weight is not None else roles.names
    return field_names(dataset, usual, given)


def _has_names(data: Any) -> bool:
    return isinstance(data, MinibatchSource | Dataset | str | os.PathLike)


def _open(data: Any, roles: Roles, settings: Settings) -> Dataset | MinibatchSource | Calls:
    if isinstance(data, MinibatchSource):
        return data
    if _has_names(data):
        return Dataset.open(data)
    if is_calls(data):
        return Calls(data, roles.columns, optional=roles.optional, iteration_size=settings.iteration_size)
    return written([roles.columns(data)])


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

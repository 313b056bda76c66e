"""The complete configuration of a run: a frozen value that a recipe returns, saved as JSON beside the checkpoints.

Whatever has to be made anew in every process (the model, the optimizers, the data sets) is in it as a function to be
called with the arguments it will get; everything else is plain values, terms, schedules and regularizers.
"""

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from minibatch import rng
from minibatch.arguments import checked_integer
from minibatch.storage import write_atomically
from minibatch.train import batch_statistics, watching
from minibatch.train.averaging import EMA
from minibatch.train.batches import Inputs
from minibatch.train.checks import Promise
from minibatch.train.clipping import Clip
from minibatch.train.every import Every, Minutes, Samples, Steps, Sweeps
from minibatch.train.finished import Report
from minibatch.train.foreign import ForeignNoise
from minibatch.train.guard import Policy
from minibatch.train.metrics import Measured
from minibatch.train.multiview import MultiView
from minibatch.train.patience import Mode
from minibatch.train.precision import PrecisionName
from minibatch.train.regularizers import Regularizer
from minibatch.train.schedules import Schedule
from minibatch.train.skips import Skip
from minibatch.train.spikes import Spikes
from minibatch.train.terms import Term
from minibatch.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where the data sets of a run lie, ready to be opened."""

    train: Path
    valid: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes: times and sizes are in samples of nominal time.

    model: called with `seed=`, 64 bits for the first weights, returns the module. optimizers: called with the model,
    returns one or a list. schedules: one per optimizer, None where the rate stays as it was made. data: called with the
    folder the data sets go to; it makes them if they are not there yet. transforms: of the training source. source:
    called with (Prepared, seed) where a run needs another source than one data set with transforms, such as a
    JointSource; validation_source: likewise where it is measured on something else than all of `Prepared.valid` in its
    own order, of several streams a mapping from their names.

    start: called with (model, Prepared, seed) before the first step of a run that begins, to give it first weights that
    come from elsewhere: another run, pretraining. A run that is resumed or looked at has them from its checkpoints.

    validate_every, validate_first, save_every, patience, min_improvement, absolute, watch, mode, restore_best: as in
    `Trainer.fit`. threads: that torch computes with during the run (the last bits depend on them), None for as many as
    it has. deterministic: whether torch must choose algorithms that give the same bits each time. device: "auto" (the
    first GPU, the CPU without one), "cpu", "cuda:1" …, where the model is moved to; None leaves it where `model` has
    made it. multiview: how `minibatch test --multiview recipe` shows samples. report: what is done with the finished
    run, see finished.py. Everything else: as in `Trainer`.

    recipe, options, set, recipe_digest: which function made this, called with what; what of it was chosen by hand; and
    the digest of its file if that is not a part of this package. `recipes.configure` fills them in.
    """

    recipe: str = ""
    recipe_digest: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[..., nn.Module]
    inputs: Inputs | Mapping[str, Inputs]
    terms: Sequence[Term]
    optimizers: Callable[[nn.Module], Optimizer | Sequence[Optimizer]]
    data: Callable[[Path], Prepared]
    minibatch_size: int | Schedule
    max_samples: int
    seed: int
    metrics: Sequence[Measured] = ()
    validation_size: int | None = None
    transforms: Sequence[Transform] = ()
    source: Callable[[Prepared, int], Any] | None = None
    validation_source: Callable[[Prepared, int], Any] | None = None
    start: Callable[[nn.Module, Prepared, int], None] | None = None
    schedules: Sequence[Schedule | None] | None = None
    regularizers: Sequence[Regularizer] = ()
    microbatch_size: int | None = None
    clip: Clip | Sequence[Clip] = ()
    clip_grad_norm: float | None = None
    averaging: EMA | None = None
    promise: Promise = "math"
    leaf_size: int = 32
    batch_norm: batch_statistics.Policy | None = None
    precision: PrecisionName | None = None
    compile: bool | Mapping[str, Any] = False
    foreign_noise: ForeignNoise = "refuse"
    on_nonfinite: Policy = "stop"
    spikes: Spikes | None = None
    skips: Sequence[Skip] = ()
    check_unreached: bool = True
    validate_every: Every | None = None
    validate_first: bool = False
    save_every: Every | Sequence[Every] | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    absolute: bool = False
    watch: str | None = None
    mode: Mode = "min"
    restore_best: bool = False
    keep_last: int | None = 3
    log_every: int = 50
    threads: int | None = None
    deterministic: bool = False
    device: str | None = None
    multiview: MultiView | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        """What cannot work whatever the data are is refused here, before a run has made its folder."""
        rng.checked_seed(self.seed)
        for name in ("max_samples", "log_every", "leaf_size"):
            checked_integer(getattr(self, name), name, least=1)
        if not callable(self.minibatch_size):
            checked_integer(self.minibatch_size, "minibatch_size", least=1)
        for name in ("microbatch_size", "keep_last", "threads"):
            if getattr(self, name) is not None:
                checked_integer(getattr(self, name), name, least=1)
        for name in ("validate_every", "save_every"):
            value = getattr(self, name)
            for one in value if isinstance(value, tuple | list) else (value,):
                if one is not None and not isinstance(one, Samples | Steps | Sweeps | Minutes):
                    checked_integer(one, name, least=1)
        watching.check_validations(self.validate_every, patience=self.patience, restore_best=self.restore_best)
        watching.check_measured(self.watch, f"watch={self.watch!r}", self.terms, self.metrics)
        several = self.schedules if isinstance(self.schedules, Sequence) else (self.schedules,)
        rates = [(f"schedules.{number}", schedule) for number, schedule in enumerate(several)]
        for place, name in watching.reacting([("minibatch_size", self.minibatch_size), *rates]):
            what = f"{place} watches {name!r}, which"
            watching.check_measured(name, what, self.terms, self.metrics)
            if self.validate_every is None and not self.validate_first:
                raise ValueError(f"{what} nothing measures: it needs validate_every=")


def described(value: Any) -> Any:
    """`value` in JSON: dataclasses by name and fields, functions by where they are found, plain values as they are.

    >>> from minibatch.train.schedules import Cosine
    >>> described(Cosine(0.1, samples=1000))
    {'kind': 'minibatch.train.schedules.curves:Cosine', 'rate': 0.1, 'samples': 1000, 'last': 0.0}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": _place(type(value)), **fields}
    if isinstance(value, functools.partial):
        called = {"call": _place(value.func)}
        if value.args:
            called["args"] = described(value.args)
        return {**called, **{name: described(option) for name, option in value.keywords.items()}}
    if isinstance(value, Mapping):
        return {str(name): described(item) for name, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [described(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if callable(value):
        return _place(value)
    return repr(value)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two JSON documents, one line each: `lr: 0.1 → 0.01`.

    >>> differences({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}, "d": 0})
    ['b.c[1]: 2 → 3', 'd: not set → 0']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for name in dict.fromkeys([*before, *after]):
            inner = f"{path}.{name}" if path else str(name)
            if name not in before or name not in after:
                old, new = (json.dumps(side[name]) if name in side else "not set" for side in (before, after))
                lines.append(f"{inner}: {old} → {new}")
            else:
                lines += differences(before[name], after[name], inner)
        return lines
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (old, new) in pairs for line in differences(old, new, f"{path}[{i}]")]
    return [] if before == after else [f"{path}: {json.dumps(before)} → {json.dumps(after)}"]


def save_config(path: Path, config: RunConfig) -> None:
    """Write the complete configuration as JSON, atomically."""
    write_atomically(path, (json.dumps(described(config), indent=1, ensure_ascii=False) + "\n").encode())


def _place(function: Any) -> str:
    """Where a function or class is found, "module:name"; for one without a name of its own, file and line."""
    name = getattr(function, "__qualname__", None)
    if name is None:  # an object that can be called
        return f"{type(function).__module__}:{type(function).__qualname__}"
    if "<lambda>" in name:
        code = inspect.unwrap(function).__code__
        return f"{function.__module__}:<lambda> at {Path(code.co_filename).name}:{code.co_firstlineno}"
    return f"{function.__module__}:{name}"

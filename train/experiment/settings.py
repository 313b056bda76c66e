"""The options of one call of `train` or `itertrain`, under the names that theanets gives them."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from minibatch.arguments import checked_integer
from minibatch.train import every
from minibatch.train.checks import Promise
from minibatch.train.every import Every
from minibatch.train.precision import PrecisionName
from minibatch.train.presets import Preset
from minibatch.train.presets import preset as preset_of
from minibatch.train.schedules import Schedule

TRAINERS = ("sample", "layerwise", "pretrain")  # that are no optimizers
# Other names of the same, in theanets' documents and in ours.
ALIASES = {"algorithm": "algo", "lr": "learning_rate", "max_updates": "max_iterations"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. Everything that is a strength, a rate or a deviation is off at 0.

    algo: an optimizer's name (see optimizers/named.py), or "sample", "layerwise" or "pretrain", which use `subalgo`.
    preset: a system, or a `Preset`, whose conventions hold for all of it: what losses are divided by, their options,
    the optimizer, regularizers, clipping, dropout, and defaults of algo, subalgo and batch_size; see presets/. What the
    system does not have is refused. learning_rate: a number, or a schedule over samples; None for 1e-4 (1 for
    adadelta), with a preset for what that has. momentum: of any optimizer that has one. optimizer: further options of
    it.

    batch_size: samples per step. iteration_size: minibatches in an iteration; None for one pass over the data (of a
    function: its len(), or 100). max_iterations: of this call, None for as long as patience lasts. validate_every: so
    many iterations, or `every.Samples(n)`. patience: so many validations in a row without improvement are tolerated.
    min_improvement: the share of the best loss so far that an improvement must exceed. valid_fraction: of the training
    data, held out where no validation data are given; without either, validation is on the training data.

    weight_l2, weight_l1, hidden_l1, contractive: coefficients, see regularizers/. input_noise, hidden_noise: standard
    deviations. input_dropout, hidden_dropout: probabilities. max_gradient_norm: of each parameter, with a preset the
    limit of its own form of clipping; max_gradient_elem: of each element.

    save_progress: a folder for this call; "{}" in its name stands for the number of the call, without it that is the
    name of a subfolder. save_every: iterations, or minutes as a float or a negative number.
    monitors: {"hid1:out": (0.1, 0.9)} for the share of units below each level, or a function of the layer's output.
    monitor_gradients: whether the squared 2-norm of each parameter's gradient is reported. fields: of a data set, that
    are inputs, targets and perhaps weights. microbatch_size, promise, precision, compile: as in `Trainer`.
    """

    algo: str = "rmsprop"
    subalgo: str = "rmsprop"
    preset: str | Preset | None = None
    learning_rate: float | Schedule | None = None
    momentum: float = 0.0
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    iteration_size: int | None = None
    max_iterations: int | None = None
    validate_every: int | Every = 10
    patience: int = 5
    min_improvement: float = 0.0
    valid_fraction: float = 0.0
    weight_l2: float = 0.0
    weight_l1: float = 0.0
    hidden_l1: float = 0.0
    contractive: float = 0.0
    input_noise: float = 0.0
    hidden_noise: float = 0.0
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    max_gradient_norm: float = 0.0
    max_gradient_elem: float = 0.0
    save_progress: str | None = None
    save_every: int | float = 1
    monitors: Mapping[str, Any] = field(default_factory=dict)
    monitor_gradients: bool = False
    fields: Sequence[str] | None = None
    microbatch_size: int | None = None
    promise: Promise = "math"
    precision: PrecisionName | None = None
    compile: bool = False
    on_nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        """Refuse wrong numbers before anything is written or trained."""
        checked_integer(self.batch_size, "batch_size", least=1)
        for name in ("iteration_size", "max_iterations", "microbatch_size"):
            if getattr(self, name) is not None:
                checked_integer(getattr(self, name), name, least=1)
        checked_integer(self.patience, "patience", least=0)
        if isinstance(self.validate_every, int):
            checked_integer(self.validate_every, "validate_every", least=1)
        else:
            every.due(self.validate_every, "validate_every", 1, minutes=False)
        for name in ("weight_l2", "weight_l1", "hidden_l1", "contractive", "input_noise", "hidden_noise"):
            _number(self, name, math.inf, "a finite number ≥ 0")
        for name in ("max_gradient_norm", "max_gradient_elem"):
            _number(self, name, math.inf, "a finite number ≥ 0, 0 for no limit")
        for name in ("input_dropout", "hidden_dropout", "valid_fraction", "momentum"):
            _number(self, name, 1.0, "0 ≤ p < 1")
        if self.system is not None and self.system.dropout == "test" and (self.input_dropout or self.hidden_dropout):
            raise ValueError(
                'dropout="test" of the preset scales units in eval mode, and the trained network is one without '
                'dropout: use dropout="train" or "never"'
            )
        if isinstance(self.save_every, bool) or self.save_every == 0 or not math.isfinite(self.save_every):
            raise ValueError(f"save_every={self.save_every!r}: expected iterations, or minutes as a float")

    @property
    def system(self) -> Preset | None:
        """The conventions to follow; None for those of this package."""
        return preset_of(self.preset) if isinstance(self.preset, str) else self.preset

    @property
    def save_minutes(self) -> float | None:
        """Minutes between two saves, None where iterations count."""
        if isinstance(self.save_every, int) and self.save_every > 0:
            return None
        return abs(float(self.save_every))


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The settings that options of `train` make; those that Settings does not have are the optimizer's.

    Raises ValueError with the nearest name for one that looks like a misspelt setting.

    >>> settings_of({"algorithm": "nag", "momentum": 0.9, "hidden_l1": 0.1}).algo
    'nag'
    >>> settings_of({"hiden_l1": 0.1})
    Traceback (most recent call last):
    ValueError: train has no option 'hiden_l1'; did you mean 'hidden_l1'?
    """
    known = {one.name for one in fields(Settings)}
    ours: dict[str, Any] = {}
    others: dict[str, Any] = dict(options.get("optimizer", {}))
    for name, value in options.items():
        name = ALIASES.get(name, name)
        if name in ours:
            raise ValueError(f"{name!r} is given twice, also under another name: {', '.join(options)}")
        if name in known:
            ours[name] = value
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            raise ValueError(f"train has no option {name!r}; did you mean {near[0]!r}?")
        others[name] = value
    usual = _usual(ours.get("preset"))
    return Settings(**{**usual, **ours, "optimizer": others})


def _usual(preset: str | Preset | None) -> dict[str, Any]:
    """The system's own defaults, where it has any."""
    system = preset_of(preset) if isinstance(preset, str) else preset
    if system is None:
        return {}
    size = {} if system.batch_size is None else {"batch_size": system.batch_size}
    return {"algo": system.algorithm, "subalgo": system.algorithm, **size}


def _number(settings: Settings, name: str, limit: float, expected: str) -> None:
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < limit:
        raise ValueError(f"{name}={value!r}: expected {expected}")

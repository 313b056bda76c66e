"""Labels as vectors of probabilities, and numbers in another type."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError
from minibatch.rng import Draws
from minibatch.transforms.operations import Fields, checked_number, named


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """Class numbers (n,) as vectors (n, classes) of zeros and a one, of any dtype.

    >>> OneHot(classes=3)({"label": np.array([2, 0])}, Draws(0, "one", np.arange(2)))["label"].tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    classes: int
    dtype: DTypeLike = "float32"
    field: str = "label"

    def __post_init__(self) -> None:
        checked_integer(self.classes, "OneHot(classes=…)", least=1)
        np.dtype(self.dtype)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        labels = class_numbers(f"OneHot: field {self.field!r}", named(self.field, fields), self.classes, draws)
        out = np.zeros((len(labels), self.classes), self.dtype)
        out[np.arange(len(labels)), labels] = 1
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """Labels as float32 (n, classes), moved by `epsilon` towards all classes alike: (1 - ε)·y + ε / classes.

    From class numbers (n,), or from vectors (n, classes), as `OneHot`, `MixUp` and `CutMix` give them (Szegedy et al.
    2016, section 7).

    >>> smooth = LabelSmoothing(classes=4, epsilon=0.2)
    >>> smooth({"label": np.array([1])}, Draws(0, "smooth", np.arange(1)))["label"].round(3).tolist()
    [[0.05, 0.85, 0.05, 0.05]]
    """

    classes: int
    epsilon: float = 0.1
    field: str = "label"

    def __post_init__(self) -> None:
        checked_integer(self.classes, "LabelSmoothing(classes=…)", least=1)
        checked_number(self.epsilon, "LabelSmoothing(epsilon=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        labels = as_vectors(f"LabelSmoothing: field {self.field!r}", named(self.field, fields), self.classes, draws)
        smoothed = labels * np.float32(1.0 - self.epsilon) + np.float32(self.epsilon / self.classes)
        return {**fields, self.field: smoothed}


@dataclass(frozen=True, kw_only=True)
class Cast:
    """x·scale + shift in another dtype: a number field of any shape, floats to integers to the nearest (ties to even).

    Integers wrap nowhere: what the dtype cannot hold is cut to its least or largest number; NaN is an error. Computed
    in the dtype itself if that is float32 or float64, otherwise in float64.

    >>> cast = Cast(field="image", dtype="float32", scale=1 / 255)
    >>> cast({"image": np.array([[0, 255]], np.uint8)}, Draws(0, "cast", np.arange(1)))["image"].tolist()
    [[0.0, 1.0]]
    """

    field: str
    dtype: DTypeLike
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).kind not in "iuf":
            raise ValueError(f"Cast(dtype=…) must be an integer or floating-point type, got {self.dtype!r}")
        for name in ("scale", "shift"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"Cast({name}=…) must be finite, got {getattr(self, name)!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        values = named(self.field, fields)
        if values.dtype.kind not in "iufb":
            raise SchemaError(f"Cast: field {self.field!r} has dtype {values.dtype}, expected numbers")
        kind = np.dtype(self.dtype)
        if kind.kind in "iu" and values.dtype.kind in "iub" and self.scale == 1 and self.shift == 0:
            # exactly, where float64 would round numbers of 64 bits
            low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
            if values.dtype.kind != "b":
                own = np.iinfo(values.dtype)
                values = np.clip(values, max(low, int(own.min)), min(high, int(own.max)))
            return {**fields, self.field: values.astype(kind)}
        step: type[np.floating[Any]] = np.float32 if kind == np.float32 else np.float64
        scaled = values.astype(step)
        scaled *= step(self.scale)
        scaled += step(self.shift)
        if kind.kind == "f":
            return {**fields, self.field: scaled.astype(kind, copy=False)}
        if np.isnan(scaled).any():
            raise SchemaError(f"Cast: field {self.field!r} has NaN, which no {kind} is")
        return {**fields, self.field: rounded(scaled, kind)}


def rounded(values: NDArray[np.float64], kind: np.dtype[Any]) -> NDArray[Any]:
    """The nearest integers of dtype `kind`, cut to what it holds."""
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    nearest = np.rint(values)
    # 2^63 - 1 is no float64: numbers from 2^63 on are replaced after the conversion, not clipped before it.
    above, below = nearest >= high, nearest <= low
    out = np.where(above | below, 0.0, nearest).astype(kind)
    out[above], out[below] = high, low
    return out


def class_numbers(who: str, labels: NDArray[Any], classes: int, draws: Draws) -> NDArray[np.int64]:
    """Class numbers int64 (n,) in 0 … classes - 1, or the error that names `who` and the first that is none."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise SchemaError(f"{who} has shape {labels.shape} and dtype {labels.dtype}, expected class numbers (n,)")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        at = int(wrong[0])
        row = "" if draws.rows is None else f"row {draws.rows[at]}, "
        raise SchemaError(
            f"{who} has the class {labels[at]} ({row}nominal time {draws.times[at]}), expected 0 … {classes - 1}"
        )
    return labels.astype(np.int64)


def as_vectors(who: str, labels: NDArray[Any], classes: int, draws: Draws) -> NDArray[np.float32]:
    """Labels as float32 (n, classes): class numbers as one-hot vectors, vectors as they are."""
    if labels.ndim == 2 and labels.dtype.kind == "f":
        if labels.shape[1] != classes:
            raise SchemaError(f"{who} has {labels.shape[1]} classes, expected {classes}")
        return labels.astype(np.float32)
    numbers = class_numbers(who, labels, classes, draws)
    out = np.zeros((len(numbers), classes), np.float32)
    out[np.arange(len(numbers)), numbers] = 1
    return out

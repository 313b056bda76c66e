"""The validations of a run so far: what schedules, early stopping and the best weights are functions of."""

from collections.abc import Mapping, Sequence
from typing import Any

from minibatch.train.schedules import ValuesByName
from minibatch.train.validation import Validation


def values_of(history: Sequence[Validation]) -> ValuesByName:
    """By name of a term or metric, (nominal time, value) of every validation that measured it, in their order.

    >>> first = Validation(pairs={"error": (1.0, 4.0)}, samples=4, nominal_time=100)
    >>> values_of([first])
    {'error': ((100, 0.25),)}
    """
    names = dict.fromkeys(name for validation in history for name in validation)
    return {
        name: tuple(
            (validation.nominal_time, value)
            for validation in history
            if name in validation and (value := validation[name]) is not None
        )
        for name in names
    }


def as_document(validation: Validation) -> dict[str, Any]:
    """A validation for JSON; `as_validation` makes it again."""
    return {
        "step": validation.step,
        "t": validation.nominal_time,
        "samples": validation.samples,
        "pairs": {name: list(pair) for name, pair in validation.pairs.items()},
    }


def as_validation(document: Mapping[str, Any]) -> Validation:
    """What `as_document` was made of.

    >>> as_validation(as_document(Validation(pairs={"error": (1.0, 4.0)}, samples=4)))["error"]
    0.25
    """
    return Validation(
        pairs={name: (float(n), float(d)) for name, (n, d) in document["pairs"].items()},
        samples=document["samples"],
        nominal_time=document["t"],
        step=document["step"],
    )

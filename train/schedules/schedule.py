"""What a schedule is and how it is called: a function of nominal time, so that nothing of it has to be saved.

Some schedules react to measured values. Such a one has an attribute `watches`, the name of a term or metric, and gets
its validations so far as a second argument: it is a pure function of both, and as replayable as the others.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from minibatch.arguments import checked_integer

Schedule = Callable[..., float]  # (t: int) -> value, or (t, values) -> value if it has `watches`
Values = Sequence[tuple[int, float | None]]  # (nominal time, value) of all validations so far; None: nothing to measure
ValuesByName = Mapping[str, Sequence[tuple[int, float]]]  # of every term and metric that has been measured


def value_at(schedule: float | Schedule, t: int, values: Values = ()) -> float:
    """The value at nominal time `t` (samples) of a schedule, or of a number, which is the same for ever.

    values: what the schedule watches, if it watches something.

    >>> value_at(0.1, 5), value_at(lambda t: t / 10, 5)
    (0.1, 0.5)
    """
    if not callable(schedule):
        return schedule
    return schedule(t) if watched(schedule) is None else schedule(t, values)


def watched(schedule: object) -> str | None:
    """The name of the term or metric that `schedule` reacts to, None for a function of time alone."""
    name: str | None = getattr(schedule, "watches", None)
    return name


def watched_by_any(owner: str, parts: Iterable[object]) -> str:
    """The one name that some of `parts` watch; raises AttributeError if none does, which is how `hasattr` says no."""
    names = {name for name in map(watched, parts) if name is not None}
    if not names:
        raise AttributeError(f"{owner} watches nothing: it is a function of nominal time alone")
    return names.pop()


def checked_parts(owner: str, parts: Iterable[Any]) -> tuple[Any, ...]:
    """The parts, each a finite Python number or callable, all that watch something watching the same; or the error."""
    checked = tuple(
        part if callable(part) else checked_number(part, f"{owner}: part {place}") for place, part in enumerate(parts)
    )
    names = {name for name in map(watched, checked) if name is not None}
    if len(names) > 1:
        raise ValueError(f"{owner}: its parts watch {' and '.join(sorted(map(repr, names)))}; they can watch only one")
    return checked


def checked_number(
    value: Any, what: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> Any:
    """`value` as a finite Python int or float in [least, most] and > above, or the error that names `what`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what} must be a number, got {value!r} of type {type(value).__name__}")
    plain = int(value) if isinstance(value, Integral) else float(value)
    if not math.isfinite(plain):
        raise ValueError(f"{what} must be finite, got {value!r}")
    if not (least <= plain <= most and plain > above):
        wanted = [f"> {above}"] if above > -math.inf else [f"≥ {least}"] if least > -math.inf else []
        wanted += [f"≤ {most}"] if most < math.inf else []
        raise ValueError(f"{what} must be {' and '.join(wanted)}, got {value!r}")
    return plain


def checked_samples(value: Any, what: str, *, least: int = 0) -> int:
    """A stretch of nominal time: an integer number of samples, ≥ least."""
    if isinstance(value, float) and value.is_integer():  # 1e6 is how people write a million
        value = int(value)
    return checked_integer(value, f"{what} (in samples)", least=least)


def settle(value: object, **fields: object) -> None:
    """Set checked fields of a frozen dataclass, from its __post_init__."""
    for name, content in fields.items():
        object.__setattr__(value, name, content)

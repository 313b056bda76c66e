"""Validations, and who reacts to what they measure: all of it is checked before the first step, names included."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minibatch.train import every
from minibatch.train.every import Every
from minibatch.train.metrics import Collected, Measured
from minibatch.train.schedules import watched
from minibatch.train.terms import Term

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


def check_measured(name: str | None, what: str, terms: Sequence[Term], metrics: Sequence[Measured]) -> None:
    """Raise ValueError, with the names there are, if no validation of these terms and metrics will have `name`.

    what: the beginning of the error. Results of a `Collected` may also be called name/0 or name/key: which of them
    there are is known when it has been computed.

    >>> check_measured("los", "watch='los'", [Term("loss", len)], [])
    Traceback (most recent call last):
    ValueError: watch='los' is neither a term nor a metric of the validation, which has loss
    """
    names = [each.name for each in (*terms, *metrics)]
    parts = tuple(f"{metric.name}/" for metric in metrics if isinstance(metric, Collected))
    if name is not None and name not in names and not (parts and name.startswith(parts)):
        there = ", ".join(names) or "nothing"
        raise ValueError(f"{what} is neither a term nor a metric of the validation, which has {there}")


def reacting(schedules: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Of (place, schedule) the places of those that react to validations, and the name that each of them watches.

    >>> from minibatch.train.schedules import Constant, Plateau
    >>> list(reacting([("schedules[0]", Constant(0.1)), ("schedules[1]", Plateau(rate=0.1, watches="loss"))]))
    [('schedules[1]', 'loss')]
    """
    for place, schedule in schedules:
        if callable(schedule) and (name := watched(schedule)) is not None:
            yield place, name


def schedules_of(trainer: "Trainer") -> Iterator[tuple[str, Any]]:
    """Every schedule of a Trainer that may react to validations, and its place for an error."""
    yield "minibatch_size", trainer.minibatch_size
    for number, schedule in enumerate(trainer.schedules):
        yield f"schedules[{number}]", schedule
    for number, optimizer in enumerate(trainer.optimizers):
        for group in optimizer.param_groups:
            for entry, schedule in (group.get("schedules") or {}).items():
                yield f"optimizers[{number}], the schedule of {entry!r} of a group,", schedule


def check_plan(
    trainer: "Trainer",
    *,
    validate_every: Every | None,
    validate_first: bool,
    save_every: Every | Sequence[Every] | None,
    patience: int | None,
    restore_best: bool,
    watch: str | None,
) -> None:
    """Raise ValueError for arguments of `fit` that this Trainer cannot follow: nothing has been done then."""
    if trainer.validation is None:
        wanted = {"validate_every": validate_every, "validate_first": validate_first, "patience": patience}
        for name, value in {**wanted, "restore_best": restore_best}.items():
            if value is not None and value is not False:
                raise ValueError(f"{name}= needs something to validate on: pass validation= to Trainer")
    check_validations(validate_every, patience=patience, restore_best=restore_best)
    if save_every is not None and not trainer.has_folder:
        raise ValueError("save_every= needs a folder to save into: pass folder= to Trainer")
    check_measured(watch, f"watch={watch!r}", trainer.terms, trainer.metrics)
    for place, name in reacting(schedules_of(trainer)):
        what = f"{place} watches {name!r}, which"
        check_measured(name, what, trainer.terms, trainer.metrics)
        if trainer.validation is None and not trainer.history:
            raise ValueError(f"{what} nothing measures: pass validation= to Trainer, and validate_every= to fit")
        if validate_every is None and not validate_first and not trainer.history:
            trainer.announce(f"{what} is not measured unless somebody calls validate(): pass validate_every=")


def check_validations(validate_every: Every | None, *, patience: int | None, restore_best: bool) -> None:
    """Raise ValueError where validations are to come by the clock, or are needed and will not come."""
    every.due(validate_every, "validate_every", 1, minutes=False)
    if (patience is not None or restore_best) and validate_every is None:
        raise ValueError(
            f"{'patience' if patience is not None else 'restore_best'}= needs validations: pass validate_every="
        )

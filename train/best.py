"""Which validation was the best, whether to stop, and the weights of the best one: kept, and put back.

What is best and when to stop are functions of the validations so far, and of nothing else: a resumed run decides as
the uninterrupted one. With a folder the weights are those of a checkpoint at the best validation's nominal time, which
stays as long as a checkpoint that would need it; without one they are kept in memory.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minibatch.arguments import checked_integer
from minibatch.errors import CheckpointError
from minibatch.train import checkpoint
from minibatch.train.patience import Mode, best, improvements, stopped
from minibatch.train.saving import averaged_in
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What of the validations is watched, and how patiently; the rules are those of patience.py.

    name: of a term or metric, None for the first. mode: "min" if less is better, "max" if more is. patience: so many
    validations in a row without improvement are tolerated, None for any number. min_improvement: an improvement is more
    than this share of the best value so far, or than this difference if `absolute`. since: validations before this
    nominal time do not count.
    """

    name: str | None = None
    mode: Mode = "min"
    patience: int | None = None
    min_improvement: float = 0.0
    absolute: bool = False
    since: int = 0

    def __post_init__(self) -> None:
        improvements((), min_improvement=self.min_improvement, absolute=self.absolute, mode=self.mode)
        if self.patience is not None:
            checked_integer(self.patience, "patience", least=0)
        checked_integer(self.since, "since", least=0)

    def counted(self, history: Sequence[Validation]) -> list[Validation]:
        """The validations that count."""
        return [validation for validation in history if validation.nominal_time >= self.since]

    def name_in(self, validation: Validation) -> str:
        """The name of what is watched; ValueError with what there is, if the validation does not have it."""
        name = next(iter(validation), None) if self.name is None else self.name
        if name is None or name not in validation:
            there = ", ".join(validation) or "nothing"
            raise ValueError(f"watch={name!r} is neither a term nor a metric of the validation, which has {there}")
        return name

    def values(self, counted: Sequence[Validation]) -> list[float | None]:
        """The watched value of each validation, None where it had no samples."""
        return [validation[self.name_in(validation)] for validation in counted]

    def best(self, history: Sequence[Validation]) -> Validation | None:
        """The best validation so far, the first of equal ones; None while none had a number.

        >>> values = (3, 1, 2)
        >>> history = [Validation(pairs={"error": (v, 1)}, samples=1, nominal_time=t) for t, v in enumerate(values)]
        >>> Watch().best(history)["error"], Watch(mode="max").best(history)["error"]
        (1.0, 3.0)
        """
        counted = self.counted(history)
        place = best(self.values(counted), min_improvement=self.min_improvement, absolute=self.absolute, mode=self.mode)
        return None if place is None else counted[place]

    def stopped(self, history: Sequence[Validation]) -> str | None:
        """Why training should end after these validations, or None."""
        if self.patience is None:
            return None
        counted = self.counted(history)
        if not stopped(
            self.values(counted), self.patience, self.min_improvement, absolute=self.absolute, mode=self.mode
        ):
            return None
        name, found = self.name_in(counted[-1]), self.best(history)
        times = f"{self.patience + 1} validation{'s' * (self.patience > 0)}"
        since = "" if found is None else f" over {found[name]:.6g}, at {found.nominal_time:,} samples"
        return f"patience: {times} without an improvement of {name!r}{since}"

    def needed(self, history: Sequence[Validation], times: Collection[int]) -> set[int]:
        """The nominal times of the best validations as seen from each of `times`, those of checkpoints that stay."""
        found = (self.best([v for v in history if v.nominal_time <= time]) for time in times)
        return {validation.nominal_time for validation in found if validation is not None}


class BestWeights:
    """The weights of the best validation of a run."""

    def __init__(self, trainer: "Trainer", watch: Watch) -> None:
        self.trainer = trainer
        self.watch = watch
        self._kept: tuple[int, dict[str, Any]] | None = None
        if trainer.has_folder:
            history = trainer.history  # not the trainer, which would live as long as its folder
            trainer.keep_checkpoints(lambda times: watch.needed(history, times))

    def look(self, validation: Validation) -> bool:
        """Take a new validation into account: whether it is the best, and a checkpoint has to be written now."""
        found = self.watch.best(self.trainer.history)
        if found is None or found.nominal_time != validation.nominal_time:
            return False
        if self.trainer.has_folder:
            return True
        averaging = self.trainer.averaging
        with nullcontext() if averaging is None else averaging.applied():
            state = {name: value.clone() for name, value in self.trainer.model.state_dict().items()}
        self._kept = validation.nominal_time, state
        return False

    def put_back(self) -> Validation | None:
        """Give the model the weights of the best validation; which it was, None if there was none.

        They stay as they are, and it is announced, where those weights are not at hand (they were never saved, say).
        """
        found = self.watch.best(self.trainer.history)
        if found is None:
            return None
        state = self._state(found.nominal_time)
        if state is None:
            return None
        self.trainer.model.load_state_dict(state)
        return found

    def _state(self, time: int) -> dict[str, Any] | None:
        if self._kept is not None and self._kept[0] == time:
            return self._kept[1]
        why = "they were not kept in this process"
        self.trainer.wait_for_saves()
        if self.trainer.folder is not None:
            try:
                content = checkpoint.read(checkpoint.place(self.trainer.folder / "checkpoints", time))
                # What was measured: with averaging, the averaged weights.
                return {**content.model, **(averaged_in(content) if self.trainer.averaging is not None else {})}
            except CheckpointError as error:
                why = str(error)
        self.trainer.announce(f"the weights of the best validation, at {time:,} samples, cannot be put back: {why}")
        return None

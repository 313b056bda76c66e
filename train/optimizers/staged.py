"""Optimizers one after the other over the same parameters, in one run: each begins with fresh state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

from torch import Tensor
from torch.optim import Optimizer

from minibatch.train.rates import ENTRIES
from minibatch.train.schedules import Schedule, Steps, Then
from minibatch.train.schedules.curves import checked_borders

STAGE = "stage"


class Staged(Optimizer):
    """`stages[0]` up to borders[0], `stages[1]` up to borders[1], …: as if each were made at its border.

    stages: torch optimizers, new, over the same parameters in the same groups. borders: nominal times in samples, one
    fewer than stages, ascending. Whose turn it is is the group entry "stage", which the entry "schedules" sets as a
    function of nominal time like every other number (train/rates.py): nothing counts steps, and a run may be resumed
    anywhere. So may what the stages have schedules of in their own groups, each of which sees the time since its
    stage began. The rates are those of the stages: a Trainer's schedule for this optimizer would have no effect.

    State: that of the stage whose turn it is, and for every parameter "stage", a number that stands for the place and
    the class of the optimizer that it is of. What is of another one is dropped when a stage makes its first step.
    Raises ValueError for stages that do not fit together, or that need what only the Trainer could give them: curvature
    (ESGD), entries of rates.py other than schedules, steps on the device (fused, capturable).

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> slow, fast = torch.optim.SGD([weight], lr=0.1), torch.optim.Adam([weight], lr=0.5)
    >>> optimizer = Staged([slow, fast], borders=[64])
    >>> from minibatch.train.rates import set_rates
    >>> for t in (0, 32, 64):
    ...     weight.grad = torch.ones(1)
    ...     rates = set_rates([optimizer], [None], t, t + 32)
    ...     optimizer.step()
    >>> rates, round(weight.item(), 4)                                 # 1 - 0.1 - 0.1 - 0.5
    ((0.5,), 0.3)
    """

    def __init__(self, stages: Sequence[Optimizer], *, borders: Sequence[int]) -> None:
        self.stages = tuple(stages)
        checked_borders("Staged", "stages", len(self.stages), borders)
        _check(self.stages)
        self._marks = [crc32(f"{place} {type(stage).__qualname__}".encode()) for place, stage in enumerate(self.stages)]
        groups = [_joined([stage.param_groups[i] for stage in self.stages], borders, self.stages)
                  for i in range(len(self.stages[0].param_groups))]  # fmt: skip
        super().__init__(groups, {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update by the stage whose turn it is; what `closure` returned, if there is one."""
        place = int(self.param_groups[0][STAGE])
        turn, mark = self.stages[place], self._marks[place]
        for group, mine in zip(self.param_groups, turn.param_groups, strict=True):
            for entry in group["schedules"]:
                if entry in mine and isinstance(mine[entry], Tensor):
                    mine[entry].fill_(group[entry])
                elif entry in mine:
                    mine[entry] = group[entry]
        # The mark is out of the way while the stage works: torch's optimizers take an empty state for a new one.
        for state in self.state.values():
            if state.pop(STAGE, mark) != mark:
                state.clear()
        turn.state = self.state
        try:
            return turn.step(closure)
        finally:
            for state in self.state.values():
                state[STAGE] = mark


def _joined(groups: Sequence[dict[str, Any]], borders: Sequence[int], stages: Sequence[Optimizer]) -> dict[str, Any]:
    """The group that stands for those of the stages: the numbers that change, and a record of the others."""
    own: list[Mapping[str, Schedule]] = [group.get("schedules") or {} for group in groups]
    entries = dict.fromkeys(["lr", *(entry for schedules in own for entry in schedules)])
    result: dict[str, Any] = {"params": groups[0]["params"], STAGE: 0}
    schedules: dict[str, Schedule] = {STAGE: Steps(range(len(groups)), borders=borders)}
    for entry in entries:
        numbers = [group.get(entry, 0.0) for group in groups]  # 0: of a stage that has no such number
        wrong = [number for number in numbers if not isinstance(number, int | float | Tensor)]
        if wrong or not any(entry in group for group in groups):
            raise ValueError(f"Staged: a schedule of {entry!r}, which is no single number of a group: {numbers}")
        result[entry] = float(numbers[0])
        parts = [mine.get(entry, float(number)) for mine, number in zip(own, numbers, strict=True)]
        schedules[entry] = Then(parts, borders=borders)
    plain = [{k: v for k, v in group.items() if isinstance(v, bool | int | float | str)} for group in groups]
    named = [{"optimizer": type(stage).__name__, **numbers} for stage, numbers in zip(stages, plain, strict=True)]
    return {**result, "schedules": schedules, "stages": named}


def _check(stages: Sequence[Optimizer]) -> None:
    """Raise ValueError for stages over other parameters than the first, and for what no stage can be."""
    first = [[id(p) for p in group["params"]] for group in stages[0].param_groups]
    for number, stage in enumerate(stages):
        what = f"Staged: stages[{number}], {type(stage).__name__},"
        if [[id(p) for p in group["params"]] for group in stage.param_groups] != first:
            raise ValueError(
                f"{what} has other groups of parameters than stages[0]: give all stages the same parameters, rules "
                "and kind of weight decay"
            )
        if stage.state:
            raise ValueError(f"{what} has made steps already; every stage begins with fresh state")
        if hasattr(stage, "curvature_due"):
            raise ValueError(f"{what} asks the Trainer for curvature, which it gives to optimizers of its own only")
        for group in stage.param_groups:
            if group.get("fused") or group.get("capturable"):
                raise ValueError(f"{what} is fused or capturable: its steps are counted on the device; use foreach")
            unread = [entry for entry in ENTRIES if entry not in ("schedules", "lr_scale") and group.get(entry)]
            if unread:
                raise ValueError(f"{what} has the entries {', '.join(unread)}, which nobody reads in a stage")

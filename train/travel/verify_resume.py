"""Does a resumed run go the way of the one that was not? The last steps before a checkpoint, from the one before it.

What users otherwise write by hand: restore, run on, compare every ledger line, and at the end every tensor.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from minibatch.arguments import checked_integer
from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, config
from minibatch.train.digest import parameters_digest, tensors_digest
from minibatch.train.ledger import LedgerLine
from minibatch.train.result import StepResult
from minibatch.train.travel.compare import (
    ROUNDED,
    Pair,
    TensorDifference,
    line_differences,
    line_from,
    relative_difference,
    tensor_differences,
)
from minibatch.train.travel.opening import Past, Saved, opened

ROUNDINGS = 1000.0  # of the dtype, a step, by which other cuts may differ under "math"; chosen by taste


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of running the steps before `target` again from `began` (None: the first weights).

    lines: how many ledger lines were compared. first, differences: the first step that came out otherwise, and what of
    it, name → (then, now). drift: the largest relative difference of every rounded number over all steps. tensors:
    those of the checkpoint that differ, beyond `tolerance`. digests: of the model, then and now. microbatch_size: of
    the steps run again, where it was changed. tolerance: 0.0 asks for equal bits.
    """

    target: Saved
    began: Saved | None
    steps: int
    lines: int
    first: int | None
    differences: Mapping[str, Pair]
    drift: Mapping[str, float]
    tensors: tuple[TensorDifference, ...]
    digests: tuple[str, str]
    promise: str
    microbatch_size: int | None
    tolerance: float
    environment: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything is equal, or within the tolerance."""
        return self.first is None and not self.tensors


def verify_resume(
    past: Past | str | os.PathLike[str],
    *,
    steps: int | None = None,
    at: int | None = None,
    microbatch_size: int | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Run the steps before a checkpoint again, and compare ledger lines and all tensors.

    steps: at least so many; by default those since the checkpoint before. at: the newest checkpoint at or before this
    step; by default the newest of all. microbatch_size: another one for the steps that are run again, to see what the
    run's promise is worth: under "bits" all bits must still be equal, else numbers may differ by `tolerance`, relative,
    by default 1,000 roundings a step. Raises CheckpointError where there is no checkpoint after step 0.
    """
    past = opened(past)
    target = past.checkpoint_at(step=at)
    if target is None or target.step == 0:
        before = "" if at is None else f" at or before step {at:,}"
        raise CheckpointError(f"{past.folder} has no whole checkpoint{before} that steps lead to: nothing to verify")
    wanted = 1 if steps is None else min(target.step, checked_integer(steps, "steps", least=1))
    compared: list[tuple[LedgerLine, LedgerLine]] = []

    def watch(result: StepResult, line: LedgerLine | None) -> None:
        if line is not None:
            compared.append((line, line_from(result)))

    with past.standing(
        target.step,
        begin=target.step - wanted,
        config_of=target.step,
        microbatch_size=microbatch_size,
        watch=watch,
    ) as standing:
        trainer = standing.trainer
        exact = microbatch_size is None or trainer.promise == "bits"
        if tolerance is None:
            tolerance = 0.0 if exact else standing.ran * ROUNDINGS * rounding(dict(trainer.model.named_parameters()))
        with tempfile.TemporaryDirectory(prefix="minibatch-") as folder:
            now = checkpoint.read(trainer.save_checkpoint(Path(folder) / "now"))
        then = checkpoint.read(target.path)
        digest = parameters_digest(trainer.model)
        order = list(trainer.model.state_dict())
    first, differences = None, {}
    for line, again in compared:
        if differences := line_differences(line, again, relative=tolerance):
            first = line.step
            break
    tensors = [each for each in content_differences(then, now, order) if each.problem or not each.relative <= tolerance]
    said = then.state["environment"], now.state["environment"]
    return Verification(
        target=target,
        began=standing.saved,
        steps=standing.ran,
        lines=len(compared),
        first=first,
        differences=differences,
        drift=drift_of(compared),
        tensors=tuple(tensors),
        digests=(tensors_digest(then.model), digest),
        promise=trainer.promise,
        microbatch_size=microbatch_size,
        tolerance=tolerance,
        environment=tuple(config.differences(*said)),
    )


def content_differences(
    then: checkpoint.Content, now: checkpoint.Content, order: Sequence[str] = ()
) -> list[TensorDifference]:
    """The tensors of two checkpoints that differ: of the model by name, others as `optimizer:0/weight/exp_avg`.

    order: of the model's tensors; files have them by name.
    """
    found = []
    for each in fields(checkpoint.Content):
        sides = [getattr(content, each.name) for content in (then, now)]
        if each.name == "state" or not all(isinstance(side, Mapping) for side in sides):
            continue
        prefix = "" if each.name == "model" else f"{each.name}:"
        if not prefix:
            sides[0] = {name: sides[0][name] for name in dict.fromkeys([*order, *sides[0]]) if name in sides[0]}
        found += tensor_differences(*({prefix + name: tensor for name, tensor in side.items()} for side in sides))
    return found


def drift_of(compared: list[tuple[LedgerLine, LedgerLine]]) -> dict[str, float]:
    """The largest relative difference of every number that rounding may change: name → share, 0.0 for equal bits."""
    drift: dict[str, float] = {}
    for line, again in compared:
        for name in line.terms:
            pair = (line.terms[name][0], again.terms.get(name, (None,))[0])
            drift[name] = max(drift.get(name, 0.0), relative_difference(*pair))
        for name in ROUNDED[1:3]:
            pair = (getattr(line, name), getattr(again, name))
            drift[name] = max(drift.get(name, 0.0), relative_difference(*pair))
    return drift


def rounding(parameters: Mapping[str, Tensor]) -> float:
    """The unit of rounding of the coarsest dtype among parameters.

    >>> rounding({"w": torch.zeros(1, dtype=torch.float64)})
    2.220446049250313e-16
    """
    return max((torch.finfo(p.dtype).eps for p in parameters.values() if p.is_floating_point()), default=0.0)

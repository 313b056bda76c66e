"""Where two runs part: in their configuration, the first step whose ledger line differs, the first tensor in it.

The ledgers say which step it is. Around it both runs are run again from the nearest checkpoints of their own, one after
the other, and what they hold there is compared: parameters before the step, its gradient, parameters after it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, config, running
from minibatch.train.ledger import as_line
from minibatch.train.travel.compare import Pair, TensorDifference, line_differences, tensor_differences
from minibatch.train.travel.opening import Past, opened
from minibatch.train.travel.recording import recording
from minibatch.train.travel.verify_resume import content_differences
from minibatch.train.validation import Validation


@dataclass(frozen=True, kw_only=True)
class RunDifferences:
    """What differs between two runs, A and B.

    configuration: one line each, "a.b: 1 → 2". steps: how many are in either ledger. first, differences: the first step
    whose lines differ, and what of them, name → (A, B). tensors: those that differ there, in the order of the model;
    `where` says at which place they were compared, `unknown` why they were not. validations: of both, at equal nominal
    times.
    """

    configuration: tuple[str, ...]
    steps: tuple[int, int]
    first: int | None
    differences: Mapping[str, Pair]
    tensors: tuple[TensorDifference, ...]
    where: str
    unknown: str | None
    validations: tuple[tuple[Validation, Validation], ...]

    @property
    def any(self) -> bool:
        """Whether what the runs computed differs; another configuration alone does not count."""
        return self.first is not None or self.steps[0] != self.steps[1] or bool(self.tensors)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a run holds around a step: tensors by name."""

    before: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


def diff_runs(
    one: Past | str | os.PathLike[str], two: Past | str | os.PathLike[str], *, replay: bool = True
) -> RunDifferences:
    """Compare two runs. replay: run the step that differs again in both, to find the first tensor.

    Without it only checkpoints at one nominal time are compared.
    """
    one, two = opened(one), opened(two)
    first, differences = first_difference(one, two)
    last = [past.ledger.last() for past in (one, two)]
    steps = (last[0].step if last[0] else 0, last[1].step if last[1] else 0)
    tensors: list[TensorDifference] = []
    where, unknown = "", None
    if first is not None and replay:
        try:
            tensors, where = around_step(one, two, first)
        except (CheckpointError, ValueError, OSError) as error:
            unknown = f"step {first:,} could not be run again: {error}"
    if not where:
        try:
            tensors, where = at_checkpoints(one, two)
        except CheckpointError as error:
            unknown = unknown or str(error)
    return RunDifferences(
        configuration=tuple(config.differences(_configuration(one), _configuration(two))),
        steps=steps,
        first=first,
        differences=differences,
        tensors=tuple(tensors),
        where=where,
        unknown=None if where else unknown,
        validations=tuple(paired_validations(one, two)),
    )


def first_difference(one: Past, two: Past) -> tuple[int | None, dict[str, Pair]]:
    """The first step whose ledger lines differ, and how; a step that only one run has is no difference here."""
    streams = [past.ledger.raw() for past in (one, two)]
    for mine, other in zip_longest(*streams):
        if mine is None or other is None:
            break
        if mine != other:  # which says nothing yet: there may be more in one than the other, or in another order
            a, b = (as_line(past.ledger.parsed(line)) for past, line in ((one, mine), (two, other)))
            if found := line_differences(a, b):
                return min(a.step, b.step), found
    return None, {}


def around_step(one: Past, two: Past, step: int) -> tuple[list[TensorDifference], str]:
    """The tensors that differ first around `step`, and where that is."""
    mine, other = around(one, step), around(two, step)
    for where, a, b in (
        (f"parameters before step {step:,}", mine.before, other.before),
        (f"gradient of step {step:,}", mine.gradient, other.gradient),
        (f"parameters after step {step:,}", mine.after, other.after),
    ):
        if found := tensor_differences(a, b):
            return found, where
    return [], f"parameters and gradient around step {step:,}"


def around(past: Past, step: int) -> Around:
    """What a run holds before, in and after a step: the step is run again, its gradient taken before clipping."""
    with past.standing(step - 1) as standing:
        model = standing.trainer.model
        before = _copies(model.state_dict())
        with recording(standing.trainer, gradient=True) as recorder:
            past.take(standing.trainer)
        return Around(before=before, gradient=recorder.gradient, after=_copies(model.state_dict()))


def at_checkpoints(one: Past, two: Past) -> tuple[list[TensorDifference], str]:
    """The tensors that differ in the first pair of checkpoints at one nominal time that differ; CheckpointError if
    there is no such pair to compare."""
    others = {saved.nominal_time: saved for saved in two.checkpoints()}
    common = [(saved, others[saved.nominal_time]) for saved in one.checkpoints() if saved.nominal_time in others]
    where = ""
    for mine, other in common:
        try:
            contents = checkpoint.read(mine.path), checkpoint.read(other.path)
        except CheckpointError:
            continue
        where = f"checkpoints at nominal time {mine.nominal_time:,}"
        if found := content_differences(*contents):
            return found, where
    if not where:
        raise CheckpointError("no two checkpoints of these runs are at one nominal time: tensors were not compared")
    return [], where


def paired_validations(one: Past, two: Past) -> list[tuple[Validation, Validation]]:
    """The validations of both runs at equal nominal times, in order."""
    others = {each.nominal_time: each for each in two.validations(0, 1 << 62)}
    return [(mine, others[mine.nominal_time]) for mine in one.validations(0, 1 << 62) if mine.nominal_time in others]


def _configuration(past: Past) -> dict[str, Any]:
    """What a run's config.json says, without how it came to that."""
    document = running.saved_config(past.folder) or {}
    return {name: value for name, value in document.items() if name != "set"}


def _copies(tensors: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items() if isinstance(value, Tensor)}

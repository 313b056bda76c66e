"""One call of `train`: which runs it consists of, by the algorithm that was asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch import rng
from minibatch.models.feedforward import FeedForward
from minibatch.train import pretraining
from minibatch.train.arrays import Calls
from minibatch.train.experiment import objectives
from minibatch.train.experiment.objectives import Objective
from minibatch.train.experiment.opening import Opened
from minibatch.train.experiment.preparing import Values, measured
from minibatch.train.experiment.run import Place, Run
from minibatch.train.experiment.settings import TRAINERS, Settings
from minibatch.train.terms import Term


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a call of `train` works with.

    net: what is trained. objective: the terms of given fields. classes: how many the labels stand for, None without
    labels. seed: of this call. folder: where it saves, or None. config: written into its checkpoints.
    """

    net: FeedForward
    objective: Objective
    classes: int | None
    data: Opened
    settings: Settings
    seed: int
    folder: Path | None
    config: Mapping[str, Any]
    announce: Callable[[str], None]

    def run(self, net: FeedForward, objective: Objective, stage: str = "") -> Run:
        """One run, of the whole call or of a stage of it, with a seed and a folder of its own."""
        seed = rng.key(self.seed, f"stage.{stage}")
        data = self.data.run_data(seed)
        return Run(
            net,
            self.terms(objective, data.fields),
            data,
            self.settings,
            algo=self.settings.subalgo if self.settings.algo in TRAINERS else self.settings.algo,
            seed=seed,
            place=Place(folder=self.folder if self.folder is None else self.folder / stage, config=self.config),
            announce=self.announce,
        )

    def terms(self, objective: Objective, fields: Sequence[str]) -> list[Term]:
        """What is to be learnt, as the system of the settings has it."""
        return objectives.in_system(objective(fields), self.settings.system)

    def measured(self, net: FeedForward, objective: Objective) -> tuple[Values, Values]:
        """The values of a net as it is, on training and validation data."""
        train = self.data.train
        if isinstance(train, Calls):
            train = train.ahead(train.iteration_size)
        terms = self.terms(objective, self.data.fields)
        return measured(
            net, terms, train=train, valid=self.data.valid, inputs=self.data.fields[0], settings=self.settings
        )


def values_in_turn(call: Call, *, ended: Callable[[], None]) -> Iterator[tuple[Values, Values]]:
    """(values of an iteration, of the last validation) of all runs of a call.

    Of a call that had ended before, once the values of its net. `ended` is called when the last run has ended, or when
    the generator is closed; not after an error.
    """
    try:
        yield from _values(call)
    except GeneratorExit:
        ended()
        raise
    ended()


def _values(call: Call) -> Iterator[tuple[Values, Values]]:
    data = call.data
    if call.settings.algo == "sample":
        train = data.train.ahead(data.train.iteration_size) if isinstance(data.train, Calls) else data.train
        pretraining.sample(call.net, train, data.fields, classes=call.classes, seed=call.seed)
        yield call.measured(call.net, call.objective)
        return
    found = interrupted = False
    for stage, net, objective in _stages(call):
        run = call.run(net, objective, stage)
        for values in run.iterate():
            found = True
            yield values
        interrupted |= run.interrupted
    if not (found or interrupted):
        yield call.measured(net, objective)


def _stages(call: Call) -> Iterator[tuple[str, FeedForward, Objective]]:
    """What to train, one after the other: the names of the stages, nets and objectives."""
    if call.settings.algo == "layerwise":
        for stage, net in pretraining.layerwise(call.net, seed=call.seed):
            yield stage, net, call.objective
    elif call.settings.algo == "pretrain":
        for stage, net in pretraining.pretrain(call.net, seed=call.seed):
            yield stage, net, objectives.reconstruct
    else:
        yield "", call.net, call.objective

"""One call of `train`: which runs it consists of, by the algorithm that was asked for."""

from collections.abc import Callable, Iterator, Mapping
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

    def run(self, net: FeedForward, objective: Objective, stage: str = "") -> Iterator[tuple[Values, Values]]:
        """The values of one run, of the whole call or of a stage of it, with a seed and a folder of its own."""
        seed = rng.key(self.seed, f"stage.{stage}")
        data = self.data.run_data(seed)
        return Run(
            net,
            objective(data.fields),
            data,
            self.settings,
            algo=self.settings.subalgo if self.settings.algo in TRAINERS else self.settings.algo,
            seed=seed,
            place=Place(folder=self.folder if self.folder is None else self.folder / stage, config=self.config),
            announce=self.announce,
        ).iterate()


def values_in_turn(call: Call, *, ended: Callable[[], None]) -> Iterator[tuple[Values, Values]]:
    """(values of an iteration, of the last validation) of all runs of a call.

    `ended` is called when the last run has ended, or when the generator is closed; not after an error.
    """
    try:
        yield from _values(call)
    except GeneratorExit:
        ended()
        raise
    ended()


def _values(call: Call) -> Iterator[tuple[Values, Values]]:
    algo = call.settings.algo
    if algo == "sample":
        data, fields = call.data, call.data.fields
        train = data.train.ahead(data.train.iteration_size) if isinstance(data.train, Calls) else data.train
        pretraining.sample(call.net, train, fields, classes=call.classes, seed=call.seed)
        terms = call.objective(fields)
        yield measured(call.net, terms, train=train, valid=data.valid, inputs=fields[0], settings=call.settings)
    elif algo == "layerwise":
        for stage, net in pretraining.layerwise(call.net, seed=call.seed):
            yield from call.run(net, call.objective, stage)
    elif algo == "pretrain":
        for stage, net in pretraining.pretrain(call.net, seed=call.seed):
            yield from call.run(net, objectives.reconstruct, stage)
    else:
        yield from call.run(call.net, call.objective)

"""What one step computes: the gradient of an interval of nominal time, and the update of the weights.

Where a run stands, what is written down and what follows from a bad step is the Trainer's business.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from minibatch import rng
from minibatch.models import noise
from minibatch.train import batch_statistics, foreign
from minibatch.train.averaging import EMA, Averaging
from minibatch.train.batches import Inputs
from minibatch.train.checks import checked_terms
from minibatch.train.clipping import Clip
from minibatch.train.exact_sum import ExactSum
from minibatch.train.gradient import Gradient, Part
from minibatch.train.guard import Buffers, Found, Policy, watch_for
from minibatch.train.ownership import owned_parameters, unreached_message
from minibatch.train.precision import Precision, PrecisionName
from minibatch.train.regularizers import Recorder, Regularization, Regularizer
from minibatch.train.result import StepResult
from minibatch.train.schedules import Schedule, ValuesByName
from minibatch.train.spikes import Detector, Spikes
from minibatch.train.streams import Source, Streams, Taken
from minibatch.train.terms import Share, Term
from minibatch.train.update import Update


class Steps:
    """Computes the steps of a run; made once, by a Trainer, whose arguments these are.

    exact: sums over leaves whose order changes no bit. leaf_size: None for microbatches.
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Sequence[Term],
        optimizers: Sequence[Optimizer],
        source: Source | None,
        inputs: Inputs | Mapping[str, Inputs],
        *,
        seed: int,
        device: torch.device,
        microbatch_size: int | None,
        leaf_size: int | None,
        exact: bool,
        batch_norm: batch_statistics.Policy | None,
        precision: PrecisionName | None,
        schedules: Sequence[Schedule | None],
        regularizers: Sequence[Regularizer],
        clips: Sequence[Clip],
        averaging: EMA | None,
        spikes: Spikes | None,
        on_nonfinite: Policy,
        seed_foreign: bool,
        check_unreached: bool,
    ) -> None:
        self.model, self.seed, self.device, self.seed_foreign = model, seed, device, seed_foreign
        self.owned = owned_parameters(model, optimizers)
        parameters = {name: parameter for mine in self.owned for name, parameter in mine.items()}
        self.parameters = list(parameters.values())
        recorder = Recorder(model, regularizers, seed=seed)
        objective = checked_terms((*terms, *recorder.terms()))
        self.names = tuple(term.name for term in objective)
        trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._unreached = trainable if check_unreached else {}
        self._unseen = set(self.names)
        self._first = True
        self._frozen = list(batch_statistics.statistics_layers(model).values()) if batch_norm == "frozen" else []
        self._recorder = recorder
        self.buffers = Buffers(model)
        self.precision = Precision(precision, device)
        self.averaging = None if averaging is None else Averaging(model, averaging)
        self.detector = None if spikes is None else Detector(spikes, device)
        self.noise = noise.bind(model, lambda name: rng.key(seed, f"noise.{name}"))
        self.streams = Streams(
            source,
            objective,
            inputs,
            self.precision,
            seed=seed,
            microbatch_size=microbatch_size,
            leaf_size=leaf_size,
            device=device,
        )
        self.gradient = Gradient(
            model,
            self.noise,
            self.precision,
            exact=ExactSum(parameters) if exact else None,
            statistics=batch_statistics.LeafStatistics(model) if batch_norm == "leaf" else None,
            around=recorder.around if recorder else None,
        )
        self.update = Update(
            self.parameters,
            optimizers,
            schedules,
            Regularization(regularizers, parameters),
            clips,
            watch_for(device, optimizers, self.buffers, self.precision),
            Found(on_nonfinite, optimizers, device, spikes_end=spikes is not None and spikes.action != "skip"),
            self.precision,
            self.averaging,
            self.detector,
        )

    @property
    def on_host(self) -> bool:
        """Whether the numbers of a step are looked at as they come; else they stay on the device."""
        return self.update.watch == "host"

    def compute(
        self, taken: Taken, nominal_size: int, result: StepResult, values: ValuesByName
    ) -> tuple[list[Share], bool]:
        """The gradient of a step, in the parameters' `grad`: its shares, and whether it is known to be finite.

        nominal_size: the minibatch size that was asked for. values: of the validations so far, for schedules.
        Whatever is raised, buffers are as they were before.
        """
        self._curve = None
        if self._frozen:
            for module in self._frozen:  # model.train() has perhaps been called since
                module.training = False
        if self.buffers.kept:
            self.buffers.keep()
        try:
            parts = self.parts_of(taken, nominal_size)
            shares = self.streams.shares_of(parts)
            result.learning_rates = self.update.set_rates(taken.start, taken.stop, values)
            for parameter in self.parameters:
                parameter.grad = None
            if not any(share.total for share in shares):
                return shares, True
            if self._first:
                states = foreign.generator_states(self.device)
                finite = self.gradient.add(parts, on_host=self.on_host)
                if not self.seed_foreign:
                    foreign.check_generators(states, foreign.generator_states(self.device))
                self._first = False
            else:
                finite = self.gradient.add(parts, on_host=self.on_host)
            if self._recorder:
                self._recorder.clear()  # of activations and their graphs
            if finite:
                if self._unreached:
                    self._check_reached(shares)
                if self.update.curved:
                    key = rng.key(self.seed, "curvature", taken.start)
                    self._curve = lambda: self.update.curve(self.gradient, parts, result, key)
            return shares, finite
        except BaseException:
            self.buffers.put_back()
            raise

    def parts_of(self, taken: Taken, nominal_size: int) -> list[Part]:
        """What the gradient of a step is made of, see `Streams.parts`."""
        return self.streams.parts(taken, nominal_size, self._seeding(taken.start) if self.seed_foreign else None)

    def apply(self, result: StepResult, shares: Sequence[Share], finite: bool) -> None:
        """Update the weights, if the step has samples and nothing is wrong with it; completes `result`."""
        result.take(shares)
        if any(share.total for share in shares):  # without a sample of any term not even regularizers teach anything
            curve, self._curve = self._curve, None  # lets go of the minibatch
            self.update.apply(result, finite, curve)
        elif self.averaging is not None:
            self.averaging.update(*result.interval)

    def _check_reached(self, shares: Sequence[Share]) -> None:
        """A parameter without a gradient after every term has been there once is reached by none."""
        self._unreached = {name: p for name, p in self._unreached.items() if p.grad is None}
        self._unseen.difference_update(share.term.name for share in shares if share.total)
        if self._unreached and not self._unseen:
            raise ValueError(unreached_message(self._unreached))

    def _seeding(self, time: int) -> Callable[[int, int], None]:
        """What seeds torch's global generators before each microbatch of the step at `time`."""

        def seed(start: int, stop: int) -> None:
            foreign.seed_generators(rng.key(self.seed, "foreign noise", time + start), self.device)

        return seed

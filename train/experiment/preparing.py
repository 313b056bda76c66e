"""A net made ready for a run: a shadow with noise of its own, regularizers, the optimizer, and what the loss is."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minibatch import Dataset, MinibatchSource
from minibatch.models import noise
from minibatch.models.feedforward import FeedForward
from minibatch.train.batches import TensorBatch
from minibatch.train.best import Watch
from minibatch.train.clipping import Clip, ClipElement, ClipTensorNorm
from minibatch.train.experiment.settings import Settings
from minibatch.train.experiment.watching import monitor_terms
from minibatch.train.metrics import Metric
from minibatch.train.optimizers import optimizer as named_optimizer
from minibatch.train.regularizers import (
    ActivationRegularizer,
    Contractive,
    HiddenL1,
    Recorded,
    Regularization,
    Regularizer,
    WeightL1,
    WeightL2,
)
from minibatch.train.terms import Term
from minibatch.train.validation import Validation, evaluate

Values = dict[str, float | None]

LEARNING_RATE = 1e-4  # theanets', for whatever is not adadelta; and what schedules replace
PENALTY = "penalty"


class LossWatch(Watch):
    """Watches the loss: the error and what weights and activations add to it."""

    def values(self, counted: Sequence[Validation]) -> list[float | None]:
        return [loss_of(validation) for validation in counted]


def loss_of(validation: Validation) -> float | None:
    """The objective on the validation data, without what could only be computed with derivatives (contractive)."""
    error, penalty = validation["err"], validation[PENALTY]
    return None if error is None else error + (penalty or 0.0)


def values_of(validation: Validation) -> Values:
    """A validation as it is reported: the loss, then every term."""
    rest = {name: validation[name] for name in validation if name != PENALTY}
    return {"loss": loss_of(validation), **rest}


def shadow(net: FeedForward) -> FeedForward:
    """A net of other modules with the very same parameters: what is attached to it never touches `net`.

    >>> net = FeedForward((2, 1))
    >>> other = shadow(net)
    >>> other.out is net.out, other.out.weight is net.out.weight
    (False, True)
    """
    return copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})


def regularizers_of(settings: Settings, net: FeedForward) -> list[Regularizer]:
    """The regularizers that settings ask for; those of activations are for all hidden layers."""
    if (settings.hidden_l1 or settings.contractive) and not net.hidden:
        raise ValueError("hidden_l1 and contractive are for hidden layers, and this net has none")
    system = settings.system
    if system is not None:
        start = {"of": net.names[0]}
        return [
            *system.regularizers(**_nonzero(settings, "weight_l2", "weight_l1")),
            *system.regularizers(net.hidden, **_nonzero(settings, "hidden_l1")),
            *system.regularizers(net.hidden, options=start, **_nonzero(settings, "contractive")),
        ]
    found: list[Regularizer] = []
    if settings.weight_l2:
        found.append(WeightL2(coefficient=settings.weight_l2))
    if settings.weight_l1:
        found.append(WeightL1(coefficient=settings.weight_l1))
    if settings.hidden_l1:
        found.append(HiddenL1(coefficient=settings.hidden_l1, pattern=net.hidden))
    if settings.contractive:
        found.append(Contractive(coefficient=settings.contractive, pattern=net.hidden, of=net.names[0]))
    return found


def _nonzero(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(settings, name))}


def optimizer_of(settings: Settings, net: nn.Module, algo: str) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer called `algo`, new, and the schedule of its rate if that is not a number."""
    options = dict(settings.optimizer)
    rate = settings.learning_rate
    scheduled = rate if callable(rate) else None
    system = settings.system
    if rate is None and system is None and algo.lower() != "adadelta":
        rate = LEARNING_RATE
    if rate is not None:
        options["lr"] = LEARNING_RATE if callable(rate) else float(rate)
    if settings.momentum:
        options["momentum"] = settings.momentum
    if system is not None:
        return system.optimizer(net, algorithm=algo, **options), scheduled
    return named_optimizer(algo, net, **options), scheduled


def clips_of(settings: Settings) -> list[Clip]:
    """The clipping that settings ask for; limits of elements win over norms where both are set, as in downhill."""
    norm, elements = settings.max_gradient_norm or None, settings.max_gradient_elem or None
    if settings.system is not None:
        return list(settings.system.clip(norm, elements=elements))
    if elements is not None:
        return [ClipElement(elements)]
    return [] if norm is None else [ClipTensorNorm(norm)]


def measured(
    net: FeedForward,
    terms: Sequence[Term],
    *,
    train: Dataset | MinibatchSource,
    valid: Dataset | MinibatchSource,
    inputs: str,
    settings: Settings,
) -> tuple[Values, Values]:
    """The values of a net as it is, on training and validation data."""
    model = shadow(net).eval()
    watched = monitor_terms(model, settings.monitors)
    penalty = Metric(PENALTY, Penalty(model, regularizers_of(settings, net)))
    found = [
        evaluate(model, data, inputs=inputs, terms=[*terms, *watched], metrics=[penalty])
        for data in dict.fromkeys((train, valid))
    ]
    return values_of(found[0]), values_of(found[-1])


class Penalty:
    """What weights and hidden activations add to the loss, for each sample of a validation: float64 (n,)."""

    def __init__(self, model: FeedForward, regularizers: Sequence[Regularizer]) -> None:
        # Parameters that need no gradient count in the values and are left alone.
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.weights = Regularization(regularizers, weights)
        self.activations = [
            one for one in regularizers if isinstance(one, ActivationRegularizer) and not one.needs_start
        ]
        self.recorded: dict[str, Tensor] = {}
        for name in model.hidden if self.activations else ():
            model.get_submodule(name).register_forward_hook(self._recording(name))

    def __call__(self, outputs: Any, batch: TensorBatch) -> Tensor:
        dtype = torch.float32 if outputs.is_mps else torch.float64
        total = torch.zeros(len(outputs), dtype=dtype, device=outputs.device)
        if self.weights:
            total += self.weights.add_gradients(0)
        for one in self.activations:
            calls = {name: [tensor] for name, tensor in self.recorded.items()}
            recorded = Recorded(activations=calls, starts=(), times=batch.times_tensor(), key_of=lambda name: 0)
            assert not callable(one.coefficient)
            total += one.coefficient * one.values(recorded)
        return total

    def _recording(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self.recorded[name] = output.detach()

        return hook


def attach_noise(model: FeedForward, settings: Settings) -> None:
    """Noise and dropout behind the input layer, which makes the inputs floating, and behind every hidden one."""
    hidden = settings.hidden_noise, settings.hidden_dropout
    if any(hidden) and not model.hidden:
        raise ValueError("hidden_noise and hidden_dropout are for hidden layers, and this net has none")
    inputs = settings.input_noise, settings.input_dropout
    rescale = "train" if settings.system is None else settings.system.dropout
    for names, (sigma, p) in (((model.names[0],), inputs), (model.hidden, hidden)):
        if sigma or p:
            noise.attach_named(model, hidden=names, hidden_noise=sigma, hidden_dropout=p, rescale=rescale)

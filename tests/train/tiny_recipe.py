"""A recipe outside the package, as users write them: the tests copy this file, and change the copy."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from minibatch import MinibatchSource
from minibatch.models import MLP
from minibatch.train import Metric, RunConfig, Term, cross_entropy, metrics, mse, on
from minibatch.train.averaging import EMA
from minibatch.train.config import Prepared
from minibatch.train.groups import Rule
from minibatch.train.joint import JointSource
from minibatch.train.optimizers import optimizer
from minibatch.train.schedules import Cosine, Warmup
from tests.train import small


@dataclass(frozen=True)
class Net:
    """What of the network is an option, as one value."""

    width: int = 5
    activation: Literal["relu", "tanh"] = "tanh"


@dataclass(frozen=True)
class Ramp:
    """A schedule that the package does not have."""

    slope: float

    def __call__(self, t: int) -> float:
        return self.slope * t


def tiny(
    *,
    seed: int = 3,
    rate: float = 0.05,
    net: Net = Net(),
    widths: tuple[int, ...] = (),
    note: str | None = None,
    minibatch_size: int = 9,
    max_samples: int = 106,
) -> RunConfig:
    return RunConfig(
        model=partial(make_model, net=net, widths=widths, dropout=0.2),
        inputs="x",
        terms=(Term("class", on(cross_entropy, "label", label_smoothing=0.1), weight="zero"),),
        metrics=(Metric("accuracy", on(metrics.accuracy, "label")),),
        optimizers=partial(make_optimizer, rate=rate),
        schedules=(Warmup(samples=20, then=Cosine(rate, samples=max_samples)),),
        data=prepare,
        seed=seed,
        minibatch_size=minibatch_size,
        max_samples=max_samples,
        validate_every=53,
        save_every=53,
        threads=1,
    )


def make_model(*, net: Net, widths: tuple[int, ...], dropout: float, seed: int) -> torch.nn.Module:
    sizes = (small.FEATURES, net.width, *widths, small.CLASSES)
    return MLP(sizes=sizes, dropout=dropout, activation=net.activation, seed=seed).double()


def make_optimizer(model: torch.nn.Module, *, rate: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, foreach=True)


def prepare(folder: Path) -> Prepared:
    for name in ("train", "valid"):
        if not (folder / name).exists():
            small.write(folder / name)
    return Prepared(train=folder / "train", valid=folder / "valid")


def joint(*, seed: int = 3, max_samples: int = 60) -> RunConfig:
    """Two streams, four samples of a for one of b, each with a term and a metric of its own."""
    network = small.TwoHeads
    return RunConfig(
        model=partial(make_heads, network=network, dropout=0.2),
        inputs={"a": "x", "b": "x"},
        terms=(
            Term("class", on(cross_entropy, "label", output="logits"), stream="a"),
            Term("fit", on(mse, "target", output="values"), stream="b", mask="has_target"),
        ),
        metrics=(Metric("accuracy", on(metrics.accuracy, "label", output="logits"), stream="a"),),
        optimizers=partial(make_optimizer, rate=0.05),
        data=prepare,
        source=opened_jointly,
        validation_source=held_out_jointly,
        seed=seed,
        minibatch_size=10,
        max_samples=max_samples,
        validate_every=30,
        save_every=30,
        threads=1,
    )


def make_heads(*, network: type, dropout: float, seed: int) -> torch.nn.Module:
    return network(dropout=dropout, seed=seed).double()


def opened_jointly(prepared: Prepared, seed: int) -> JointSource:
    sources = {"a": MinibatchSource(prepared.train, seed=seed), "b": MinibatchSource(prepared.valid, seed=seed)}
    return JointSource(sources, ratios={"a": 4, "b": 1})


def held_out_jointly(prepared: Prepared, seed: int) -> dict[str, Path]:
    return {"a": prepared.valid, "b": prepared.train}


def frozen(*, seed: int = 3) -> RunConfig:
    """The first layer stays as it is, by a rule, and the weights of the others are averaged."""
    config = tiny(seed=seed)
    return replace(config, optimizers=make_frozen, schedules=None, averaging=EMA(halflife=30), check_unreached=False)


def make_frozen(model: torch.nn.Module) -> torch.optim.Optimizer:
    first = next(name for name, _ in model.named_parameters()).rpartition(".")[0]
    return optimizer("sgd", model, Rule(f"{first}.*", rate=0.0), lr=0.05)

"""What the engine's steps are timed on: a small network, its data, and for each feature the engine and a loop by hand.

Both loops of a case read the same minibatches of 64 samples and train the same network (64-256-256-10, float32, about
0.5 ms a step on one thread) with Adam. The loop by hand is what somebody would write who does not use the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from minibatch import MinibatchSource
    from minibatch.train import Trainer

K, FEATURES, CLASSES = 64, 64, 10
ROWS = 8192
SIZES = (FEATURES, 256, 256, CLASSES)
RATE, DROPOUT, L2, CLIP, VALUE_SHARE = 1e-3, 0.5, 1e-4, 1.0, 0.3
HALFLIFE = 100 * K  # of the averaged weights, in samples


@dataclass(frozen=True, kw_only=True)
class Case:
    """One feature of the engine. by_hand: what the other loop does for it; where it is empty, that loop is the plain
    one.

    loss: "class", the mean cross entropy; "weighted", with a weight and a mask; "two", with a second term beside it.
    """

    name: str
    by_hand: str = ""
    loss: Literal["class", "weighted", "two"] = "class"
    ledger: bool = False
    dropout: bool = False
    microbatches: int = 1
    clip: bool = False
    averaging: bool = False
    spikes: bool = False
    weight_l2: bool = False
    monitors: bool = False
    fit: bool = False


CASES = {
    case.name: case
    for case in (
        Case(name="plain"),
        Case(name="ledger", ledger=True),
        Case(name="fit", ledger=True, fit=True),
        Case(name="weights and mask", by_hand="(w·m·loss).sum() / (w·m).sum()", loss="weighted"),
        Case(name="two terms", by_hand="the sum of two means", loss="two"),
        Case(name="keyed dropout", by_hand="torch's dropout", dropout=True),
        Case(name="4 microbatches", by_hand="4 × backward of the mean / 4", microbatches=4),
        Case(name="averaged weights", by_hand="AveragedModel of torch", averaging=True),
        Case(name="clipping", by_hand="clip_grad_norm_", clip=True),
        Case(name="spike guard", spikes=True),
        Case(name="weight_l2", by_hand="the penalty added to the loss", weight_l2=True),
        Case(name="monitors", monitors=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Loops:
    """The loop by hand and the engine's, which go on where their last call ended; their models; and what closes
    them."""

    raw: Callable[[int], None]
    engine: Callable[[int], None]
    raw_model: torch.nn.Module
    model: torch.nn.Module
    close: Callable[[], None]


def write_data(path: Path) -> Path:
    """The data set: x float32 (64,), label, weight > 0, known (bool), target float32."""
    import numpy as np

    from minibatch import DatasetWriter, rng

    if path.exists():
        return path
    rows = np.arange(ROWS)
    with DatasetWriter(path) as writer:
        numbers = np.arange(ROWS * FEATURES)
        writer.write(
            {
                "x": rng.normal(rng.key(0, "bench.x"), numbers).astype(np.float32).reshape(ROWS, FEATURES),
                "label": rng.integers(rng.key(0, "bench.label"), rows, CLASSES),
                "weight": (0.5 + rng.uniform(rng.key(0, "bench.weight"), rows)).astype(np.float32),
                "known": rng.uniform(rng.key(0, "bench.known"), rows) < 0.75,
                "target": rng.normal(rng.key(0, "bench.target"), rows).astype(np.float32),
            }
        )
    return path


def make_loops(folder: Path, case: Case) -> Loops:
    """Both loops of a case, on a data set and a run in `folder`."""
    trainer, engine = make_engine(folder, case)
    raw_model, raw_source, raw = make_raw(folder, case)

    def close() -> None:
        trainer.close()
        assert trainer.source is not None
        trainer.source.close()
        raw_source.close()

    return Loops(raw=raw, engine=engine, raw_model=raw_model, model=trainer.model, close=close)


def make_engine(folder: Path, case: Case, *, fused: bool = False) -> tuple[Trainer, Callable[[int], None]]:
    """A Trainer of the case, and its loop. fused: of Adam, as on a device."""
    import torch

    from minibatch import MinibatchSource
    from minibatch.train import Trainer, noise
    from minibatch.train.averaging import EMA
    from minibatch.train.monitors import UpdateScales
    from minibatch.train.regularizers import WeightL2
    from minibatch.train.spikes import Spikes

    model = network(noise.Dropout if case.dropout else None, two=case.loss == "two")
    trainer = Trainer(
        model,
        terms_of(case),
        torch.optim.Adam(model.parameters(), lr=RATE, fused=fused or None),
        MinibatchSource(write_data(folder / "data"), seed=7),
        K,
        K // case.microbatches,
        inputs="x",
        folder=folder / f"run of {case.name}" if case.ledger else None,
        clip_grad_norm=CLIP if case.clip else None,
        averaging=EMA(halflife=HALFLIFE) if case.averaging else None,
        spikes=Spikes(action="skip") if case.spikes else None,
        regularizers=[WeightL2(coefficient=L2)] if case.weight_l2 else (),
    )
    monitor = UpdateScales(every=50 * K) if case.monitors else None
    if monitor is not None:
        monitor.on_begin(trainer)

    def steps_of(steps: int) -> None:
        for _ in range(steps):
            result = trainer.train_minibatch()
            if monitor is not None:
                monitor(trainer, result)

    def fit(steps: int) -> None:
        trainer.fit(max_samples=trainer.nominal_time + steps * K)

    return trainer, fit if case.fit else steps_of


def terms_of(case: Case) -> list[Any]:
    """The terms of the engine."""
    from minibatch.train import Term, cross_entropy, mse, on

    if case.loss == "two":
        return [
            Term("class", on(cross_entropy, "label", output="logits")),
            Term("value", on(mse, "target", output="value"), coefficient=VALUE_SHARE),
        ]
    weighted = {"weight": "weight", "mask": "known"} if case.loss == "weighted" else {}
    return [Term("class", on(cross_entropy, "label"), **weighted)]  # type: ignore[arg-type]


def make_raw(folder: Path, case: Case) -> tuple[torch.nn.Module, MinibatchSource, Callable[[int], None]]:
    """The loop by hand: its model, its source, and the loop."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from minibatch import MinibatchSource

    model = network(torch.nn.Dropout if case.dropout else None, two=case.loss == "two")
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    source = MinibatchSource(write_data(folder / "data"), seed=7)
    parameters = list(model.parameters())
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    averaged = None
    if case.averaging:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5 ** (K / HALFLIFE)))
    names = {"class": ("x", "label"), "weighted": ("x", "label", "weight", "known"), "two": ("x", "label", "target")}
    wanted, objective = names[case.loss], objective_of(case.loss)
    size = K // case.microbatches

    def step() -> None:
        batch = source.next_minibatch(K)
        fields = {name: torch.from_numpy(batch[name]) for name in wanted}
        optimizer.zero_grad()
        if case.microbatches == 1:
            loss = objective(model, fields)
            if case.weight_l2:
                loss = loss + L2 * sum(weight.square().sum() for weight in weights)
            loss.backward()
        else:
            for start in range(0, K, size):
                part = {name: tensor[start : start + size] for name, tensor in fields.items()}
                (objective(model, part) / case.microbatches).backward()
        if case.clip:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)

    def raw(steps: int) -> None:
        for _ in range(steps):
            step()

    return model, source, raw


def objective_of(loss: str) -> Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]:
    """What the loop by hand minimises, of a model and the fields of a minibatch."""
    import torch.nn.functional as F

    def mean(model: torch.nn.Module, fields: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(fields["x"]), fields["label"])

    def weighted(model: torch.nn.Module, fields: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values = F.cross_entropy(model(fields["x"]), fields["label"], reduction="none")
        weights = fields["weight"] * fields["known"]
        return (values * weights).sum() / weights.sum()

    def two(model: torch.nn.Module, fields: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = model(fields["x"])
        fit = F.mse_loss(outputs["value"], fields["target"])
        return F.cross_entropy(outputs["logits"], fields["label"]) + VALUE_SHARE * fit

    return {"class": mean, "weighted": weighted, "two": two}[loss]


def network(dropout: Callable[[float], torch.nn.Module] | None = None, *, two: bool = False) -> torch.nn.Module:
    """The small network. dropout: of a rate, behind each ReLU. two: one output more, {"logits": (n, 10), "value":
    (n,)}."""
    import torch

    if not two:
        return mlp(SIZES, dropout)
    body = mlp((*SIZES[:-1], CLASSES + 1), dropout)

    class TwoHeads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.body(x)
            return {"logits": outputs[:, :CLASSES], "value": outputs[:, CLASSES]}

    return TwoHeads()


def mlp(
    sizes: Sequence[int], dropout: Callable[[float], torch.nn.Module] | None = None, *, seed: int = 0
) -> torch.nn.Module:
    """Linear layers with ReLU between them, and dropout behind each ReLU where it is given; float32, keyed weights."""
    import torch

    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [torch.nn.Linear(fan_in, fan_out, device="meta"), torch.nn.ReLU()]
        if dropout is not None:
            layers.append(dropout(DROPOUT))
    return keyed(layers[: -1 if dropout is None else -2], seed)


def keyed(layers: Sequence[torch.nn.Module], seed: int = 0) -> torch.nn.Module:
    """The layers in a row, with He's weights (He et al. 2015, arXiv:1502.01852, equation 10) from keys of `seed`, and
    biases of 0; they were made on the device "meta", so that no global generator was touched."""
    import numpy as np
    import torch

    from minibatch import rng

    model = torch.nn.Sequential(*layers).to_empty(device="cpu")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim < 2:
                parameter.zero_()
                continue
            draws = rng.normal(rng.key(seed, "bench.weights", number), np.arange(parameter.numel()))
            scale = (2 / (parameter.numel() // len(parameter))) ** 0.5
            parameter.copy_(torch.from_numpy(scale * draws).view_as(parameter))
    return model

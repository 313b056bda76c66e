"""What a loop loses that averages the means of its microbatches, where samples have weights: a table, and a picture.

python -m minibatch.tools.bench_weights [--png mean_of_means.png] [--seeds 10]

With weights, the mean over a minibatch is Σ w·loss / Σ w. A loop that accumulates gradients takes that mean for each
microbatch and averages the means: a heavy sample then counts less the heavier its neighbours are. In microbatches of
one sample every weight cancels, and the loop trains without weights. The engine divides by the Σ w of the whole
minibatch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibatch.errors import require
from minibatch.tools.bench_engine_cases import mlp
from minibatch.tools.bench_tables import Spread, Table, print_table, spread_of
from minibatch.tools.screen import screen

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Samples = Mapping[str, NDArray[Any]]

HEAVY = 20.0  # the weight of a rare class, and how many times rarer it is
K, FEATURES, CLASSES = 64, 20, 5
MICROBATCHES = (1, 4, 16, 64)
MINIBATCHES, STEPS, SEEDS = 50, 600, 10
ORDERS = ("iid", "sorted")


@dataclass(frozen=True, kw_only=True)
class GradientError:
    """How far a gradient is from that of the weighted mean, over many minibatches.

    error: |g - exact| / |exact|; cosine: between both; loss: |loss - exact| / exact. microbatches: that each minibatch
    was cut into. order: of the samples in a minibatch, "iid" or "sorted" by class.
    """

    microbatches: int
    order: str
    loop: str
    error: Spread
    cosine: Spread
    loss: Spread


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Balanced accuracy after training on digits of which half the classes are 20 times rarer, one figure a seed."""

    microbatches: int
    order: str
    loop: str
    accuracies: tuple[float, ...]


def gradient_errors(
    minibatches: int = MINIBATCHES, cuts: Sequence[int] = MICROBATCHES, orders: Sequence[str] = ORDERS
) -> list[GradientError]:
    """The gradients of a loop that averages means, and of the engine, against the exact ones: float64, classes 1:20."""
    require("torch", "train", "comparing gradients")
    weights = (1.0,) * (CLASSES - 1) + (HEAVY,)
    found = []
    for order in orders:
        batches = list(random_minibatches(minibatches, order))
        for cut in cuts:
            for loop, gradient in (("mean of means", mean_of_means), ("minibatch", engine_gradient)):
                errors, cosines, losses = [], [], []
                for batch in batches:
                    exact, loss = mean_of_means(batch, weights, 1)
                    mine, my_loss = gradient(batch, weights, cut)
                    errors.append(float((mine - exact).norm() / exact.norm()))
                    cosines.append(float(mine @ exact / (mine.norm() * exact.norm())))
                    losses.append(abs(my_loss - loss) / loss)
                found.append(
                    GradientError(
                        microbatches=cut,
                        order=order,
                        loop=loop,
                        error=spread_of(errors),
                        cosine=spread_of(cosines),
                        loss=spread_of(losses),
                    )
                )
    return found


def random_minibatches(count: int, order: str) -> Iterator[Samples]:
    """Minibatches of 64 samples of five classes, equally often, with some signal: x float64 (64, 20), label (64,)."""
    import numpy as np

    from minibatch import rng

    for number in range(count):
        x = rng.normal(rng.key(0, "bench.x", number), np.arange(K * FEATURES)).reshape(K, FEATURES)
        label = rng.integers(rng.key(0, "bench.label", number), np.arange(K), CLASSES).astype(np.int64)
        x[np.arange(K), label] += 1.0
        yield arranged({"x": x, "label": label}, order)


def arranged(batch: Samples, order: str) -> Samples:
    """The minibatch as it is ("iid"), or "sorted" by class, as data are that were written class by class."""
    import numpy as np

    if order == "iid":
        return batch
    places = np.argsort(batch["label"], kind="stable")
    return {name: values[places] for name, values in batch.items()}


def mean_of_means(batch: Samples, weights: Sequence[float], microbatches: int) -> tuple[torch.Tensor, float]:
    """The gradient and loss of a loop that divides the mean of every microbatch by their number."""
    model = small_network()
    loss = accumulate(model, batch, weights, microbatches)
    return flat_gradient(model), loss


def accumulate(model: torch.nn.Module, batch: Samples, weights: Sequence[float], microbatches: int) -> float:
    """Add up gradients as the loop by hand does; the loss that it shows."""
    import torch
    import torch.nn.functional as F

    x, label = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
    of_class = torch.tensor(weights, dtype=x.dtype)
    size, shown = -(-len(x) // microbatches), 0.0
    for start in range(0, len(x), size):
        stretch = slice(start, start + size)
        loss = F.cross_entropy(model(x[stretch]), label[stretch], weight=of_class) / microbatches
        loss.backward()
        shown += loss.item()
    return shown


def engine_gradient(batch: Samples, weights: Sequence[float], microbatches: int) -> tuple[torch.Tensor, float]:
    """The same of the engine."""
    model = small_network()
    trainer = engine(model, weights, K, microbatches, rate=0.0)
    result = trainer.train_minibatch(batch)
    loss = result["class"]
    assert loss is not None
    return flat_gradient(model), loss


def engine(model: torch.nn.Module, weights: Sequence[float], k: int, microbatches: int, *, rate: float) -> Any:
    """A Trainer of the weighted cross entropy, with SGD and momentum, which is given its minibatches."""
    import torch

    from minibatch.train import Term, Trainer, class_weight, cross_entropy, on

    return Trainer(
        model,
        Term("class", on(cross_entropy, "label"), weight=class_weight("label", weights)),
        torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
        None,
        k,
        -(-k // microbatches),
        inputs="x",
    )


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients in one vector."""
    import torch

    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def small_network() -> torch.nn.Module:
    """20-32-5, float64, always the same."""
    return mlp((FEATURES, 32, CLASSES)).double()


def train_both(
    seeds: int = SEEDS,
    steps: int = STEPS,
    cuts: Sequence[int] = MICROBATCHES,
    orders: Sequence[str] = ORDERS,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Learnt]:
    """Both loops on the same minibatches of rare and common digits, from the same first weights.

    The engine is trained in 4 microbatches only: others change nothing but rounding.
    """
    require("sklearn", "convert", "the digits")
    ways = [("minibatch", 4, "iid")]
    ways += [("mean of means", cut, order) for order in orders for cut in cuts if cut > 1 or order == "iid"]
    train, test = rare_digits()
    found: dict[tuple[str, int, str], list[float]] = {way: [] for way in ways}
    for seed in range(1, seeds + 1):
        progress(f"digits: seed {seed} of {seeds}")
        for way in ways:
            found[way].append(balanced_accuracy(trained(train, *way, seed=seed, steps=steps), test))
    return [
        Learnt(microbatches=cut, order=order, loop=loop, accuracies=tuple(mine))
        for (loop, cut, order), mine in found.items()
    ]


def rare_digits() -> tuple[Samples, Samples]:
    """scikit-learn's digits: for training, of the classes 5 to 9 one in twenty; and the held-out ones, of all alike."""
    import numpy as np
    from sklearn.datasets import load_digits

    from minibatch import rng

    digits = load_digits()
    x, label = digits.data / 16.0, digits.target.astype(np.int64)
    rows = np.arange(len(x))
    held_out = rng.uniform(rng.key(0, "bench.held_out"), rows) < 0.3
    rank = np.zeros(len(x), np.int64)  # of a row among those of its class that are for training
    for each in range(10):
        mine = (label == each) & ~held_out
        rank[mine] = np.arange(mine.sum())
    chosen = ~held_out & ((label < 5) | (rank % int(HEAVY) == 0))
    return {"x": x[chosen], "label": label[chosen]}, {"x": x[held_out], "label": label[held_out]}


def trained(train: Samples, loop: str, microbatches: int, order: str, *, seed: int, steps: int) -> torch.nn.Module:
    """A network 64-64-10 after `steps` steps of 64 samples of SGD with momentum: by the engine or the loop by hand."""
    import numpy as np
    import torch

    from minibatch import rng

    weights, rate = (1.0,) * 5 + (HEAVY,) * 5, 0.05
    model = mlp((64, 64, 10), seed=rng.key(seed, "init")).double()
    trainer = engine(model, weights, K, microbatches, rate=rate) if loop == "minibatch" else None
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    n = len(train["label"])
    for step in range(steps):
        rows = rng.integers(rng.key(seed, "bench.rows", step), np.arange(K), n)
        batch = arranged({name: values[rows] for name, values in train.items()}, order)
        if trainer is not None:
            trainer.train_minibatch(batch)
            continue
        optimizer.zero_grad()
        accumulate(model, batch, weights, microbatches)
        optimizer.step()
    return model


def balanced_accuracy(model: torch.nn.Module, test: Samples) -> float:
    """The mean over classes of the share of their samples that is recognised."""
    import torch

    with torch.no_grad():
        right = (model(torch.from_numpy(test["x"])).argmax(1) == torch.from_numpy(test["label"])).numpy()
    return statistics.mean(float(right[test["label"] == each].mean()) for each in sorted(set(test["label"].tolist())))


def errors_table(found: Sequence[GradientError], minibatches: int = MINIBATCHES) -> Table:
    """The gradients, side by side."""
    return Table(
        title="The mean of means, with class weights 1:20",
        columns=("loop", "order", "microbatches", "gradient error", "cosine", "loss error"),
        right=("microbatches", "gradient error", "cosine", "loss error"),
        rows=[
            (
                one.loop,
                one.order,
                str(one.microbatches),
                _small(one.error.median) + f" ({_small(one.error.least)}–{_small(one.error.most)})",
                f"{one.cosine.median:.3f}",
                _small(one.loss.median),
            )
            for one in found
        ],
        notes=(
            f"Against the gradient of Σ w·loss / Σ w over minibatches of {K} samples, float64, MLP "
            f"{FEATURES}-32-{CLASSES} at its first weights, weights 1, 1, 1, 1, 20: error |g - exact| / |exact|, "
            f"median (least–most) of {minibatches} minibatches. sorted: by class, as data are that were written so.",
        ),
        figures=[asdict(one) for one in found],
    )


def learnt_table(found: Sequence[Learnt]) -> Table:
    """What the digits say of it."""
    ours = next(one for one in found if one.loop == "minibatch")
    rows = []
    for one in found:
        mean = statistics.mean(one.accuracies)
        differences = [a - b for a, b in zip(one.accuracies, ours.accuracies, strict=True)]
        rows.append(
            (
                one.loop,
                one.order,
                "any" if one is ours else str(one.microbatches),
                f"{100 * mean:.1f} %",
                "–" if one is ours else f"{100 * statistics.mean(differences):+.1f} ± {100 * _error(differences):.1f}",
                "–" if one is ours else f"{sum(a < 0 for a in differences)} of {len(differences)}",
            )
        )
    return Table(
        title="Balanced accuracy on rare digits",
        columns=("loop", "order", "microbatches", "balanced accuracy", "less ours, points", "seeds below ours"),
        right=("microbatches", "balanced accuracy", "less ours, points", "seeds below ours"),
        rows=rows,
        notes=(
            "scikit-learn's digits, of the classes 5 to 9 one in twenty for training, class weights 1:20; MLP "
            f"64-64-10, SGD with momentum, k = {K}; {len(ours.accuracies)} seeds, the same minibatches and first "
            "weights for all; differences with their standard error. In microbatches of one sample (64) all weights "
            "cancel.",
        ),
        figures=[asdict(one) for one in found],
    )


def draw(path: Path, errors: Sequence[GradientError], learnt: Sequence[Learnt]) -> None:
    """Write the picture as PNG: the error of the gradient (median, least to most) and the balanced accuracy (mean and
    its standard error), over the number of microbatches."""
    require("matplotlib", "train", "drawing the picture")
    from matplotlib.figure import Figure

    from minibatch.tools.pictures import GREY, LINES

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ours = next(one for one in learnt if one.loop == "minibatch")
    worst = max(one.error.most for one in errors if one.loop == "minibatch")
    for order, colour in zip(ORDERS, LINES[1:], strict=False):
        of_order = [one for one in errors if one.loop != "minibatch" and one.order == order]
        # In one piece the order changes nothing: that point belongs to every line.
        points = [one for one in learnt if one.loop != "minibatch" and (one.order == order or one.microbatches == 1)]
        style: dict[str, Any] = {"fmt": "o-", "color": colour, "capsize": 3, "label": f"mean of means, {order}"}
        medians = [100 * one.error.median for one in of_order]
        below = [100 * (one.error.median - one.error.least) for one in of_order]
        above = [100 * (one.error.most - one.error.median) for one in of_order]
        left.errorbar([one.microbatches for one in of_order], medians, [below, above], **style)
        accuracies = [100 * statistics.mean(one.accuracies) for one in points]
        errors_of_mean = [100 * _error(one.accuracies) for one in points]
        right.errorbar([one.microbatches for one in points], accuracies, errors_of_mean, **style)
    left.axhline(0, color=LINES[0])
    right.axhline(
        100 * statistics.mean(ours.accuracies), color=LINES[0], label=f"minibatch (gradient error ≤ {worst:.0e})"
    )
    left.set(ylabel="error of the gradient (%)", title="one step, class weights 1:20")
    right.set(ylabel="balanced accuracy (%)", title="digits, half the classes 20 times rarer")
    cuts = sorted({one.microbatches for one in errors})
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set(xlabel=f"microbatches that {K} samples are cut into")
        axis.set_xticks(cuts, [str(cut) for cut in cuts])
        axis.grid(color=GREY, alpha=0.2)
    right.legend(loc="lower left")
    figure.savefig(path, dpi=200)


def _small(number: float) -> str:
    """A share as a percentage; what is only rounding by its power of ten."""
    return f"{100 * number:.1f} %" if number > 1e-6 else f"{number:.0e}" if number else "0"


def _error(figures: Sequence[float]) -> float:
    """The standard error of their mean."""
    return statistics.stdev(figures) / math.sqrt(len(figures)) if len(figures) > 1 else 0.0


def weights_tables(
    *,
    seeds: int = SEEDS,
    steps: int = STEPS,
    png: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Table]:
    """Both tables, and the picture."""
    progress("gradients of weighted means")
    errors, learnt = gradient_errors(), train_both(seeds, steps, progress=progress)
    if png is not None:
        draw(png, errors, learnt)
    return [errors_table(errors), learnt_table(learnt)]


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = SEEDS,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a training.")] = STEPS,
    png: Annotated[Path | None, typer.Option(help="Also draw a picture into this file.")] = None,
) -> None:
    """What the mean of means costs."""
    for table in weights_tables(seeds=seeds, steps=steps, png=png, progress=screen(stderr=True).print):
        print_table(table, screen())


if __name__ == "__main__":
    typer.run(main)

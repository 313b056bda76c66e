"""What the engine costs per step beyond a raw PyTorch loop that does the same work, both in one process in turns.

python -m minibatch.tools.bench_engine
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.errors import require

if TYPE_CHECKING:
    import torch

K, FEATURES, CLASSES = 64, 64, 10
TURN = 100
SIZES = (FEATURES, 256, 256, CLASSES)


def engine_overhead(
    steps: int = 2000, repeats: int = 7, *, ledger: bool = True, threads: int | None = 1
) -> dict[str, Any]:
    """Microseconds per step of the engine and of a raw loop, and their difference: medians over `repeats`, with spread.

    Both read the same minibatches of 64 samples from the same kind of source and train the same network (64-256-256-10,
    float32) with Adam on the mean cross entropy. The engine also measures the gradient, checks that all is finite and,
    with `ledger`, writes its ledger; the raw loop does none of that. `steps` of each are run in turn, `repeats` times.
    threads: that torch computes with meanwhile (None: as many as it has).
    """
    require("torch", "train", "measuring the engine")
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            loops = make_loops(Path(folder), ledger=ledger)
            try:
                for loop in (loops.raw, loops.engine):
                    loop(min(200, steps))
                pairs = [_in_turns(loops.raw, loops.engine, steps) for _ in range(repeats)]
            finally:
                loops.close()
    finally:
        torch.set_num_threads(before)
    micro = [(1e6 * raw / steps, 1e6 * engine / steps) for raw, engine in pairs]
    differences = [engine_us - raw_us for raw_us, engine_us in micro]
    return {
        "raw_us": statistics.median(raw_us for raw_us, _ in micro),
        "engine_us": statistics.median(engine_us for _, engine_us in micro),
        "overhead_us": statistics.median(differences),
        "overhead_us_least": min(differences),
        "overhead_us_most": max(differences),
        "steps": steps,
        "repeats": repeats,
        "minibatch_size": K,
        "model": SIZES,
        "threads": threads or before,
    }


def _in_turns(one: Callable[[int], None], other: Callable[[int], None], steps: int) -> tuple[float, float]:
    """Seconds that `steps` of each take, in turns of a hundred: what else the machine does meanwhile hits both."""
    seconds = [0.0, 0.0]
    for done in range(0, steps, TURN):
        for number, loop in enumerate((one, other)):
            seconds[number] += _seconds(loop, min(TURN, steps - done))
    return seconds[0], seconds[1]


def _seconds(loop: Callable[[int], None], steps: int) -> float:
    begun = time.perf_counter()
    loop(steps)
    return time.perf_counter() - begun


@dataclass(frozen=True, kw_only=True)
class Loops:
    """The raw loop and the engine's, which go on where their last call ended; their models; and what closes them."""

    raw: Callable[[int], None]
    engine: Callable[[int], None]
    raw_model: "torch.nn.Module"
    model: "torch.nn.Module"
    close: Callable[[], None]


def make_loops(folder: Path, *, ledger: bool) -> Loops:
    """Both loops on data sets and runs in `folder`."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from minibatch import DatasetWriter, MinibatchSource, rng
    from minibatch.train import Term, Trainer, cross_entropy, on

    rows = 8192
    with DatasetWriter(folder / "data") as writer:
        numbers = np.arange(rows * FEATURES)
        writer.write(
            {
                "x": rng.normal(rng.key(0, "bench.x"), numbers).astype(np.float32).reshape(rows, FEATURES),
                "label": rng.integers(rng.key(0, "bench.label"), np.arange(rows), CLASSES),
            }
        )

    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, MinibatchSource]:
        model = _network()
        return model, torch.optim.Adam(model.parameters(), lr=1e-3), MinibatchSource(folder / "data", seed=7)

    raw_model, raw_optimizer, raw_source = parts()

    def raw(steps: int) -> None:
        for _ in range(steps):
            batch = raw_source.next_minibatch(K)
            x, label = torch.from_numpy(batch["x"]), torch.from_numpy(batch["label"])
            raw_optimizer.zero_grad()
            loss = F.cross_entropy(raw_model(x), label)
            loss.backward()
            raw_optimizer.step()

    model, optimizer, source = parts()
    trainer = Trainer(
        model,
        Term("class", on(cross_entropy, "label")),
        optimizer,
        source,
        K,
        inputs="x",
        folder=folder / "run" if ledger else None,
    )

    def engine(steps: int) -> None:
        for _ in range(steps):
            trainer.train_minibatch()

    def close() -> None:
        trainer.close()
        source.close()
        raw_source.close()

    return Loops(raw=raw, engine=engine, raw_model=raw_model, model=model, close=close)


def _network() -> "torch.nn.Sequential":
    """Linear layers with ReLU between them, float32; its weights are keyed, and no global generator is touched."""
    import numpy as np
    import torch

    from minibatch import rng

    layers: list[torch.nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        linear = torch.nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        weights = rng.normal(rng.key(0, "bench.weights", number), np.arange(fan_in * fan_out)) * (2 / fan_in) ** 0.5
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights.reshape(fan_out, fan_in)))
            linear.bias.zero_()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


if __name__ == "__main__":
    for name, value in engine_overhead().items():
        print(f"{name:20} {value:.1f}" if isinstance(value, float) else f"{name:20} {value}")

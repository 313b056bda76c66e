"""How often a step waits for the device: every call that brings a number from it to the host, counted where it is made.

python -m minibatch.tools.bench_waits

The path of devices is forced on the CPU: the engine decides on the device whether to update, as with a fused Adam on a
GPU, and every read of a value is counted by patching the methods of tensors that read one. What happens inside of
torch's operators is counted by its profiler: each such read ends in the operator `_local_scalar_dense`.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.tools.bench_engine_cases import CASES, make_engine
from minibatch.tools.bench_tables import Table, print_table
from minibatch.tools.screen import screen

if TYPE_CHECKING:
    import torch

    from minibatch.train import Trainer

READERS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__")
OPERATORS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
# Reads of columns, which are on the host whatever the device: weights and masks are checked there before any pass.
ON_HOST = ("plan", "_weights", "_mask", "_column")
# The CPU's kernel of a fused Adam reads each parameter's step number; that of a GPU takes the tensor.
NOT_OF_DEVICES = ("aten::_fused_adam_",)
PROFILED = 10  # steps
STEPS, WATCHED = 200, ("ledger", "weights and mask", "two terms", "keyed dropout", "4 microbatches", "averaged weights")
MORE_WATCHED = ("clipping", "spike guard", "weight_l2", "monitors")
CONTROL = "a loss that calls item()"


@dataclass(kw_only=True)
class Waits:
    """Reads of values in the steps of a run: between log points, in steps that are one, and of columns on the host.

    operators: those that torch's profiler saw in steps that are no log points. sites: where reads between log points
    were made, by file and function.
    """

    steps: int = 0
    between: int = 0
    at_log_points: int = 0
    log_points: int = 0
    columns: int = 0
    operators: int = 0
    sites: Counter[str] = field(default_factory=Counter)


@contextmanager
def reads_counted() -> Iterator[list[str]]:
    """Inside, the list grows by one text, "file:function", for every read of a tensor's value from Python."""
    import torch

    seen: list[str] = []
    originals = {name: getattr(torch.Tensor, name) for name in READERS}

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_back is not None and "/torch/" in frame.f_code.co_filename.replace("\\", "/"):
                frame = frame.f_back
            function = frame.f_code.co_qualname.partition(".<locals>")[0]
            seen.append(f"{Path(frame.f_code.co_filename).name}:{function}")
            return original(tensor, *args, **options)

        return read

    try:
        for name, original in originals.items():
            setattr(torch.Tensor, name, counting(original))
        yield seen
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


def waits_of(trainer: Trainer, loop: Callable[[int], None], steps: int = STEPS) -> Waits:
    """The reads in `steps` steps of a Trainer whose decisions are taken on the device; the first two do not count."""
    import torch

    trainer.steps.update.watch = "device"
    for part in trainer.steps.update.regularization._parts:
        part.on_host = False
    trainer.steps.update.found.clear()
    loop(2)
    found = Waits()
    with reads_counted() as seen:
        for _ in range(steps):
            seen.clear()
            loop(1)
            columns = [site for site in seen if site.partition(":")[2] in ON_HOST and site.startswith("terms.py")]
            others = [site for site in seen if site not in columns]
            found.steps += 1
            found.columns += len(columns)
            if trainer.step % trainer.log_every == 0:
                found.log_points += 1
                found.at_log_points += len(others)
            else:
                found.between += len(others)
                found.sites.update(others)
    # Again, through the profiler, behind a log point.
    while trainer.step % trainer.log_every:
        loop(1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loop(PROFILED)
    reads = sum(is_read(event) for event in profile.events() or ())
    found.operators = max(0, reads - round(found.columns / found.steps * PROFILED))
    return found


def is_read(event: Any) -> bool:
    """Whether an operator that the profiler saw reads a value, and would on a device."""
    if event.name not in OPERATORS:
        return False
    above = event.cpu_parent
    while above is not None and above.name not in NOT_OF_DEVICES:
        above = above.cpu_parent
    return above is None


def waits(case: str, steps: int = STEPS) -> Waits:
    """The reads in the steps of a case of `bench_engine_cases`, or of the control, whose loss reads a value."""
    import torch.nn.functional as F

    with tempfile.TemporaryDirectory() as folder:
        if case == CONTROL:
            trainer, loop = make_engine(Path(folder), replace(CASES["ledger"], name="control"), fused=True)
            share = trainer.streams.terms[0]

            def reading(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
                values = F.cross_entropy(outputs, batch["label"], reduction="none")
                values.sum().item()
                return values

            object.__setattr__(share, "loss", reading)
        else:
            trainer, loop = make_engine(Path(folder), replace(CASES[case], ledger=True), fused=True)
        try:
            return waits_of(trainer, loop, steps)
        finally:
            trainer.close()
            assert trainer.source is not None
            trainer.source.close()


def waits_table(steps: int = STEPS, cases: Sequence[str] = (*WATCHED, *MORE_WATCHED, CONTROL)) -> Table:
    """Reads of the device's values, case by case."""
    found = {case: waits(case, steps) for case in cases}
    return Table(
        title="Waits for the device, per step",
        columns=("engine with", "between", "in torch", "at a log point", "host columns", "goal"),
        right=("between", "in torch", "at a log point", "host columns", "goal"),
        rows=[
            (
                case,
                f"{one.between / max(1, one.steps - one.log_points):.2f}",
                f"{one.operators / PROFILED:.2f}",
                f"{one.at_log_points / max(1, one.log_points):.1f}",
                f"{one.columns / one.steps:.1f}",
                "" if case == CONTROL else "0",
            )
            for case, one in found.items()
        ],
        notes=(
            f"{steps} steps with the path of devices forced on the CPU, a log point every 50. Between log points: "
            f"reads of values from Python ({', '.join(READERS)}), and what torch's profiler saw ({PROFILED} steps). "
            "The control shows that a read is seen. Host columns: weights and masks are checked there before any pass, "
            "no device waits for that.",
            *(f"{case}: {dict(one.sites)}" for case, one in found.items() if one.sites and case != CONTROL),
        ),
        figures=[
            {
                "case": case,
                "steps": one.steps,
                "between": one.between,
                "log_points": one.log_points,
                "at_log_points": one.at_log_points,
                "columns": one.columns,
                "operators": one.operators,
            }
            for case, one in found.items()
        ],
    )


if __name__ == "__main__":
    print_table(waits_table(), screen())

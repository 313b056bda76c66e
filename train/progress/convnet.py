"""Progress as cuda-convnet2 prints it.

1.0 (0.00%)... logprob:  7.156030, 1.000000, 0.995768 (8.428 sec)
======================Test output======================
logprob:  5.305025, 0.938802, 0.819987
-------------------------------------------------------
Layer 'conv1' weights[0]: 7.898808e-03 [2.681663e-05] [3.395022e-03]
Layer 'conv1' biases: 2.679429e-04 [8.097122e-07]
-------------------------------------------------------
Saved checkpoint to checkpoints/t-000000003072
======================================================= (16.188 sec)
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from minibatch.train.every import rows_of
from minibatch.train.monitors import UpdateScales, convnet_lines
from minibatch.train.progress.json_lines import means
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

WIDTH = 55


class ConvnetLines:
    """A reporter: epoch.batch (share done)... costs (seconds), and at validations the test output and the layers.

    costs: {cost: names of terms and metrics}, in the order in which they are printed; by default one cost, called as
    the first term, with all terms (in test output all terms and metrics). cuda-convnet2's three values:

        Term("class", …), and to watch: Term("top1", on(error, "label"), coefficient=0), likewise "top5"
        ConvnetLines({"logprob": ("class", "top1", "top5")})

    scales: of the same `fit` (there a callback), for the lines of the layers. file: stdout by default.

    An epoch is a sweep of the source, from 1, and the batch counts log points in it, from 0: values are exact means
    over the steps since the last line, where cuda-convnet2 had batches of images. A test reads all validation data, so
    there is one line of it, and no "Averages". Values that are not finite end the run in the engine, before the
    weights.
    """

    def __init__(
        self,
        costs: Mapping[str, Sequence[str]] | None = None,
        *,
        scales: UpdateScales | None = None,
        file: IO[str] | None = None,
    ) -> None:
        self.costs = costs
        self.scales = scales
        self.file = sys.stdout if file is None else file
        self._rows = 0
        self._line = 0  # samples from one log point to the next, 0 if they differ
        self._last = time.monotonic()
        self._tested = self._last  # when the last test, and what was saved after it, was over
        self._open = False

    def begin(self, trainer: "Trainer", target: int) -> None:
        self._rows = rows_of(trainer) or 0
        size = trainer.minibatch_size
        self._line = 0 if callable(size) else trainer.log_every * size
        self._last = time.monotonic()

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        self._close_test()
        began = results[0].interval[0]
        samples = results[-1].interval[1] - began
        # From nominal time alone, so that the first line of a resumed run has the number that it has in a whole one.
        line = self._line or samples
        first = began - began % line if self._line else began
        epoch, inside = divmod(first, self._rows) if self._rows else (0, first)
        share = f" ({100 * began / target:.2f}%)" if target else ""
        now = time.monotonic()
        self._print(
            f"{epoch + 1}.{-(-inside // line)}{share}... {self._values(means(results))} ({now - self._last:.3f} sec)"
        )
        self._last = now

    def validation(self, validation: Validation) -> None:
        self._close_test()
        self._print(f"\n{'Test output'.center(WIDTH, '=')}")
        self._print(self._values(validation))
        if self.scales is not None:
            self.scales.fetch()
            if self.scales.latest is not None:
                self._print("-" * WIDTH)
                self._print("\n".join(convnet_lines(self.scales.latest)))
        self._open = True
        self._tested = time.monotonic()

    def saved(self, path: Path) -> None:
        if self._open:
            self._print("-" * WIDTH)
        self._print(f"Saved checkpoint to {path}")
        self._tested = time.monotonic()

    def close(self) -> None:
        self._close_test()

    def _close_test(self) -> None:
        """The line beneath a test, once what belongs to it is printed."""
        if self._open:
            self._print(f"{'=' * WIDTH} ({self._tested - self._last:.3f} sec)")
            self._last = self._tested
            self._open = False

    def _values(self, found: Mapping[str, float | None]) -> str:
        names = [name for name in found if name != "total_loss"]
        costs = self.costs if self.costs is not None else {names[0]: names}
        parts = []
        for cost, wanted in costs.items():
            values = [found[name] for name in wanted if name in found]
            parts.append(f"{cost}:  " + ", ".join("absent" if v is None else f"{v:.6f}" for v in values))
        return "  ".join(parts)

    def _print(self, text: str) -> None:
        self.file.write(text + "\n")
        self.file.flush()

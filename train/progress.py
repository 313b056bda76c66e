"""What a person sees of a run: one line that is rewritten on a terminal, plain lines elsewhere; TensorBoard if wanted.

Nothing here runs between log points.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from minibatch.errors import MissingExtraError
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation


class Reporter(Protocol):
    """What `fit` tells of a run: steps at log points, validations, and its end."""

    def step(self, result: StepResult, target: int) -> None: ...

    def validation(self, validation: Validation) -> None: ...

    def close(self) -> None: ...


def announce(text: str) -> None:
    """Say one thing about a run, on stderr."""
    print(f"minibatch: {text}", file=sys.stderr)


class ProgressLine:
    """Samples done, losses, rate and time left: rewritten in place on a terminal, a line every `seconds` elsewhere."""

    def __init__(self, file: IO[str] | None = None, *, seconds: float = 5.0) -> None:
        self.file = sys.stderr if file is None else file
        self.seconds = seconds
        self._live = self.file.isatty()
        self._began: tuple[float, int] | None = None
        self._shown = 0.0
        self._width = 0
        self._last_validation = ""

    def step(self, result: StepResult, target: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = (now, result.interval[1])  # the rate is known from the second report on
        if now - self._shown < (0.1 if self._live else self.seconds) and result.interval[1] < target:
            return
        self._shown = now
        began, first = self._began
        done = result.interval[1]
        rate = (done - first) / (now - began) if now > began else 0.0
        losses = "  ".join(
            f"{name} {_short(result[name])}" for name in result if name != "total_loss" or len(result) > 2
        )
        left = f"  {_clock((target - done) / rate)} left" if rate > 0 and done < target else ""
        share = f"{100 * done / target:3.0f} %" if target else ""
        speed = f"  {rate:,.0f}/s" if rate else ""
        of_target = f"/{target:,}" if target else ""
        self._write(
            f"{share}  {done:,}{of_target} samples  step {result.step:,}  {losses}{self._last_validation}{speed}{left}"
        )

    def validation(self, validation: Validation) -> None:
        values = "  ".join(f"{name} {_short(validation[name])}" for name in validation)
        if self._live:
            self._last_validation = f"  | valid: {values}"
        else:
            self._write(f"at {validation.nominal_time:,} samples, on {validation.samples:,} held out:  {values}")

    def close(self) -> None:
        if self._live and self._width:
            self.file.write("\n")
            self.file.flush()
            self._width = 0

    def _write(self, text: str) -> None:
        if self._live:
            text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be rewritten
            self.file.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.file.write(text + "\n")
        self.file.flush()


class TensorBoard:
    """Curves for TensorBoard in `folder`, over nominal time; without it MissingExtraError with the pip command."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "curves for TensorBoard need 'tensorboard', which is not installed: "
                'pip install "minibatch-timeline[train]"'
            ) from error
        self._writer: Any = SummaryWriter(log_dir=str(folder))

    def step(self, result: StepResult, target: int) -> None:
        self._scalars("train", result, result.interval[1])
        self._writer.add_scalar("train/grad_norm", result.grad_norm, result.interval[1])
        for number, rate in enumerate(result.learning_rates):
            self._writer.add_scalar(f"train/learning_rate_{number}", rate, result.interval[1])

    def validation(self, validation: Validation) -> None:
        self._scalars("valid", validation, validation.nominal_time)

    def close(self) -> None:
        self._writer.close()

    def _scalars(self, group: str, values: Mapping[str, float | None], at: int) -> None:
        for name in values:
            value = values[name]
            if value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, at)


class Several:
    """Tells several reporters the same."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def step(self, result: StepResult, target: int) -> None:
        self._all(lambda reporter: reporter.step(result, target))

    def validation(self, validation: Validation) -> None:
        self._all(lambda reporter: reporter.validation(validation))

    def close(self) -> None:
        self._all(lambda reporter: reporter.close())

    def _all(self, tell: Callable[[Reporter], None]) -> None:
        for reporter in self.reporters:
            tell(reporter)


def _short(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

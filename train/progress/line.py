"""One line that is rewritten on a terminal, and plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import IO

from minibatch.train.progress.json_lines import sums
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation


class ProgressLine:
    """Samples done, losses, rate and time left: rewritten in place on a terminal, a line every `seconds` elsewhere.

    Losses are means over the steps since the last time, see `json_lines.means`.
    """

    def __init__(self, file: IO[str] | None = None, *, seconds: float = 5.0) -> None:
        self.file = sys.stderr if file is None else file
        self.seconds = seconds
        self._live = self.file.isatty()
        self._began: tuple[float, int] | None = None
        self._shown = 0.0
        self._width = 0
        self._last_validation = ""
        self._last_step = 0
        self._unshown: dict[str, tuple[float, float]] = {}

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        result = results[-1]
        if results[0].step <= self._last_step:  # the run went back to a checkpoint
            self._unshown.clear()
        self._last_step = result.step
        for name, (total, divisor) in sums(results).items():
            before = self._unshown.get(name, (0.0, 0.0))
            self._unshown[name] = (before[0] + total, before[1] + divisor)
        now = time.monotonic()
        if self._began is None:
            self._began = (now, result.interval[1])  # the rate is known from the second report on
        if now - self._shown < (0.1 if self._live else self.seconds) and result.interval[1] < target:
            return
        self._shown = now
        began, first = self._began
        done = result.interval[1]
        rate = (done - first) / (now - began) if now > began else 0.0
        found = {name: total / divisor if divisor else None for name, (total, divisor) in self._unshown.items()}
        self._unshown.clear()
        losses = "  ".join(
            f"{name} {short(value)}" for name, value in found.items() if name != "total_loss" or len(found) > 2
        )
        left = f"  {clock((target - done) / rate)} left" if rate > 0 and done < target else ""
        share = f"{100 * done / target:3.0f} %" if target else ""
        speed = f"  {rate:,.0f}/s" if rate else ""
        of_target = f"/{target:,}" if target else ""
        self._write(
            f"{share}  {done:,}{of_target} samples  step {result.step:,}  {losses}{self._last_validation}{speed}{left}"
        )

    def validation(self, validation: Validation) -> None:
        values = "  ".join(f"{name} {short(validation[name])}" for name in validation)
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


def short(value: float | None) -> str:
    """A value in four digits.

    >>> short(0.123456), short(None)
    ('0.1235', 'absent')
    """
    return "absent" if value is None else f"{value:.4g}"


def clock(seconds: float) -> str:
    """A duration.

    >>> clock(83), clock(7265)
    ('1:23', '2:01:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

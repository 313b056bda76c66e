"""Curves in TensorBoard and in Weights & Biases, over nominal time: each point the mean of the steps since the last."""

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.errors import MissingExtraError
from minibatch.train.config import described
from minibatch.train.progress.json_lines import means
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


def training_values(results: Sequence[StepResult]) -> dict[str, float]:
    """What is drawn of the steps since the last time, by name; absent terms are left out.

    Their mean losses, see `json_lines.means`; the mean norm of their gradients; the rates of the last one.
    """
    values = {f"train/{name}": value for name, value in means(results).items() if value is not None}
    values["train/grad_norm"] = math.fsum(result.grad_norm for result in results) / len(results)
    rates = enumerate(results[-1].learning_rates)
    return values | {f"train/learning_rate_{number}": rate for number, rate in rates}


def validation_values(validation: Validation) -> dict[str, float]:
    """What of a validation is drawn, by name; what had no samples is left out."""
    return {f"valid/{name}": value for name in validation if (value := validation[name]) is not None}


class TensorBoard:
    """Curves for TensorBoard in `folder`, over nominal time; without it MissingExtraError with the pip command.

    A resumed run goes on in the same folder: what an earlier process drew beyond the checkpoint is taken back.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "curves for TensorBoard need 'tensorboard', which is not installed: "
                'pip install "minibatch-timeline[train]"'
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._opened: Any = None

    def begin(self, trainer: "Trainer", target: int) -> None:
        if self._opened is None and trainer.step:
            # TensorBoard's own way to say that later events were of a process that crashed.
            self._opened = self._make(log_dir=str(self._folder), purge_step=trainer.nominal_time + 1)

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        self._draw(training_values(results), results[-1].interval[1])

    def validation(self, validation: Validation) -> None:
        self._draw(validation_values(validation), validation.nominal_time)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _draw(self, values: Mapping[str, float], at: int) -> None:
        if self._opened is None:
            self._opened = self._make(log_dir=str(self._folder))
        for name, value in values.items():
            self._opened.add_scalar(name, value, at)


class WandB:
    """A run at Weights & Biases, its curves over nominal time (the metric "nominal_time", which W&B takes as x axis).

    options: further arguments of `wandb.init`, such as project=, name=, mode="offline". With a folder (by default that
    of the Trainer) the run's id is kept in folder/wandb_run, so that a resumed run goes on in the same W&B run.
    Without wandb MissingExtraError with the pip command, at once and not after an hour.
    """

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise MissingExtraError(
                "curves at Weights & Biases need 'wandb', which is not installed: pip install wandb"
            )
        self._wandb: Any = importlib.import_module("wandb")
        self._folder = folder
        self._options = options
        self._run: Any = None

    def begin(self, trainer: "Trainer", target: int) -> None:
        folder = self._folder or trainer.folder
        options = {"config": described(trainer.config), **self._options}
        note = None if folder is None else folder / "wandb_run"
        if note is not None and "id" not in options and trainer.step and note.exists():
            options.update(id=note.read_text(encoding="utf-8").strip(), resume="allow")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            options.setdefault("dir", str(folder))
        self._run = self._wandb.init(**options)
        if note is not None:
            note.write_text(f"{self._run.id}\n", encoding="utf-8")
        self._run.define_metric("nominal_time")
        self._run.define_metric("*", step_metric="nominal_time")

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        at = {"nominal_time": results[-1].interval[1], "step": results[-1].step}
        self._started().log({**training_values(results), **at})

    def validation(self, validation: Validation) -> None:
        self._started().log({**validation_values(validation), "nominal_time": validation.nominal_time})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _started(self) -> Any:
        if self._run is None:
            raise RuntimeError("WandB was told of a step before begin(trainer, target): pass it as progress= to fit")
        return self._run

"""The folder of a run: lock, ledger, validations, checkpoints; what of it belongs to the run's past, and what does not.

folder/ledger.jsonl          one line per step
folder/validation.jsonl      one line per validation
folder/configs.jsonl         of runs that a recipe made: {"step", "config"}, the steps after `step` have that `config`
folder/checkpoints/          see checkpoint.py
"""

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint
from minibatch.train.history import as_document
from minibatch.train.ledger import Ledger, Lines, line_of
from minibatch.train.lock import FolderLock
from minibatch.train.result import StepResult, fetch_all
from minibatch.train.staging import Background
from minibatch.train.validation import Validation

CONFIGS = "configs.jsonl"


class RunFolder:
    """One run's files. Nothing is changed before the first step, save or validation: looking leaves no trace."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ledger: bool,
        keep_last: int | None,
        announce: Callable[[str], None],
    ) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.keep_last = keep_last
        self.announce = announce
        self.lock = FolderLock(self.path)
        self.ledger = Lines(self.path / "ledger.jsonl") if ledger else None
        self.validations = Lines(self.path / "validation.jsonl")
        self.also_keep: checkpoint.AlsoKeep | None = None  # which checkpoints besides the newest are needed
        self.restored = False
        self.begun = False
        self._recent: list[StepResult] = []
        self._background = Background()

    def __deepcopy__(self, memo: object) -> "RunFolder":
        raise TypeError(
            f"a Trainer with a folder ({self.path}) cannot be copied, because two runs would write into it: make a new "
            "one with another folder, and restore_from_checkpoint(path)"
        )

    def holds_a_run(self) -> bool:
        """Whether steps or checkpoints of an earlier process are here."""
        return bool(checkpoint.checkpoints_in(self.checkpoints)) or Lines(self.path / "ledger.jsonl").last_step() > 0

    def begin(self, step: int, time: int) -> None:
        """Make the folder the one of a run that stands at `step` and nominal `time`: cut off what lies later.

        Raises CheckpointError if another run is here that was not restored.
        """
        if self.begun:
            return
        if not self.restored and self.holds_a_run():
            raise CheckpointError(
                f"{self.path} already holds a run: call restore_from_checkpoint() to go on with it, or choose another "
                "folder for a new one"
            )
        for lines, what in ((self.ledger, "steps"), (self.validations, "steps of validations")):
            later = lines.cut(step) if lines is not None else 0
            if later:
                self.announce(f"{what} {step + 1} to {step + later} are computed again: their lines were cut off")
        if known := noted_configs(self.path):
            note_config(self.path, step, known[-1][1])  # a rollback goes on with the configuration of this process
        if self.restored and self.ledger is not None and (last := self.ledger.last_step()) < step:
            self.announce(
                f"the ledger has no lines of steps {last + 1} to {step}: it was removed, or the run kept none"
            )
        aside = checkpoint.set_aside(self.checkpoints, time)
        if aside:
            self.announce(
                f"checkpoints after nominal time {time:,} belong to a branch now left: kept as {', '.join(aside)}"
            )
        self.begun = True

    def resume_at(self, path: Path) -> None:
        """The checkpoint at `path` was restored: what lies after it will be cut off when the run begins again.

        One of another run, or elsewhere, does not make the run in this folder, if there is one, the one to go on with.
        """
        mine = path.resolve().parent == self.checkpoints.resolve()
        self.restored, self.begun = mine or self.restored, False
        self._recent.clear()

    def add(self, result: StepResult) -> None:
        if self.ledger is not None:
            self._recent.append(result)

    def add_validation(self, validation: Validation) -> None:
        self.validations.add(json.dumps(as_document(validation)))
        self.validations.flush()

    def flush(self, *, sync: bool = False) -> None:
        """Write the ledger's lines of the steps since the last flush."""
        if self.ledger is None:
            return
        fetch_all(self._recent)
        for result in self._recent:
            self.ledger.add(line_of(result))
        self._recent.clear()
        self.ledger.flush(sync=sync)

    def save(self, content: Callable[[], checkpoint.Content], time: int, *, wait: bool) -> Path:
        """Write the checkpoint of nominal `time`, after the ledger has reached the disk; remove old ones.

        content: called once no earlier save is unfinished. Without `wait`, a thread writes what it gives.
        """
        self.wait()
        self.flush()
        path = checkpoint.place(self.checkpoints, time)
        now = content()

        def write() -> None:
            for lines in (self.ledger, self.validations):
                if lines is not None:
                    lines.sync()
            checkpoint.write(path, now)
            checkpoint.tidy(self.checkpoints, keep_last=self.keep_last, announce=self.announce, also=self._needed)

        self._background.run(write)
        if wait:
            self.wait()
        return path

    def _needed(self, times: Collection[int]) -> set[int]:
        """The nominal times of older checkpoints that stay: of the first weights, where all can be begun again, too."""
        return {0, *(self.also_keep(times) if self.also_keep is not None else ())}

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; CheckpointError if that failed."""
        self._background.wait()

    def newest(self) -> checkpoint.Newest:
        self.wait()
        return checkpoint.newest_complete(self.checkpoints)

    def close(self) -> None:
        try:
            try:
                self.wait()
            finally:
                self.flush()
        finally:
            self.lock.release()


def noted_configs(folder: Path) -> list[tuple[int, Any]]:
    """What configs.jsonl of a run says, in order: (step, configuration of the steps after it); empty without one."""
    if not (folder / CONFIGS).exists():
        return []
    return [(line["step"], line["config"]) for line in Ledger(folder / CONFIGS).documents(0)]


def note_config(folder: Path, step: int, config: Any) -> None:
    """Write down that the steps after `step` have `config`, a JSON document, and forget what was noted of later steps.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> note_config(folder, 0, {"lr": 0.1})
    >>> note_config(folder, 8, {"lr": 0.2})
    >>> note_config(folder, 4, {"lr": 0.3})
    >>> noted_configs(folder)
    [(0, {'lr': 0.1}), (4, {'lr': 0.3})]
    """
    lines = Lines(folder / CONFIGS)
    lines.cut(step)
    known = noted_configs(folder)
    if not known or known[-1][1] != config:
        lines.add(json.dumps({"step": step, "config": config}, ensure_ascii=False))
        lines.flush(sync=True)

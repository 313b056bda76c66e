"""The ledger: one JSON line per step, enough to know which samples were in it and what came of them.

    {"step": 3, "t0": 128, "t1": 192, "samples": 64, "terms": {"class": [97.1, 64.0]}, "total_loss": 1.517,
     "grad_norm": 0.83, "lr": [0.001], "finite": true}

`terms` has numerator and denominator of every term; [0.0, 0.0] is an absent one. Numbers that JSON has not are the
texts "nan", "inf" and "-inf". Lines are collected and written at log points and checkpoints, so that a step waits
neither for the device nor for the disk; what a killed run has not written, its resumption writes again.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minibatch.errors import CheckpointError
from minibatch.train.result import StepResult


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """One step of a run: its number, its interval [t0, t1) of nominal time, and the exact value of every term."""

    step: int
    t0: int
    t1: int
    samples: int
    terms: Mapping[str, tuple[float, float]]
    total_loss: float
    grad_norm: float
    lr: tuple[float, ...]
    finite: bool

    def value(self, name: str) -> float | None:
        """The value of a term, numerator / denominator; None if it was absent."""
        numerator, denominator = self.terms[name]
        return numerator / denominator if denominator else None


class Lines:
    """A file of JSON lines that grows at its end, of which everything after a given step can be cut off."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._waiting: list[str] = []

    def add(self, line: str) -> None:
        self._waiting.append(line)

    def flush(self, *, sync: bool = False) -> None:
        """Write the lines that wait; with `sync`, also wait until the disk has them."""
        if not self._waiting and not sync:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in self._waiting))
            self._waiting.clear()
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def cut(self, step: int) -> int:
        """Keep the whole lines of steps up to `step`; how many steps later ones went. A half-written line goes, too."""
        self._waiting.clear()
        if not self.path.exists():
            return 0
        kept, last = 0, step
        with open(self.path, "rb+") as file:
            cutting = False
            for line in file:
                document = _parsed(line)
                cutting = cutting or document is None or document["step"] > step
                if not cutting:
                    kept += len(line)
                elif document is not None:
                    last = document["step"]
            file.truncate(kept)
            file.flush()
            os.fsync(file.fileno())
        return last - step

    def last_step(self) -> int:
        """The step of the last whole line; 0 without one."""
        lines = _whole_lines(self.path) if self.path.exists() else []
        return int(lines[-1]["step"]) if lines else 0


def line_of(result: StepResult) -> str:
    """A step as its line of the ledger, without the line's end."""
    # Filled into a template, which is a few times faster than json.dumps: every step pays for this line.
    numbers = [float(x) for pair in zip(result.numerators, result.denominators, strict=True) for x in pair]
    numbers += [float(result["total_loss"] or 0.0), result.grad_norm, *result.learning_rates]
    total = sum(numbers)
    shown = list(map(repr if total - total == 0.0 else _number, numbers))
    template = _template(result.names, len(result.learning_rates))
    finite = "true" if result.finite else "false"
    return template % (result.step, *result.interval, result.num_samples, *shown, finite)


@cache
def _template(names: tuple[str, ...], rates: int) -> str:
    terms = ", ".join(f"{json.dumps(name).replace('%', '%%')}: [%s, %s]" for name in names)
    return (
        f'{{"step": %d, "t0": %d, "t1": %d, "samples": %d, "terms": {{{terms}}}, "total_loss": %s, "grad_norm": %s, '
        f'"lr": [{", ".join(["%s"] * rates)}], "finite": %s}}'
    )


def read_ledger(path: str | os.PathLike[str]) -> list[LedgerLine]:
    """The steps of a ledger file, or of the folder of a run; a half-written last line is left out.

    Raises CheckpointError where a line in the middle is damaged, FileNotFoundError without a ledger.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "ledger.jsonl"
    >>> ledger = Lines(path)
    >>> ledger.add(line_of(StepResult(("class",), 1, (0, 4), 4)))
    >>> ledger.flush()
    >>> read_ledger(path)[0].t1
    4
    """
    path = Path(path)
    if path.is_dir():
        path = path / "ledger.jsonl"
    return [
        LedgerLine(
            step=line["step"],
            t0=line["t0"],
            t1=line["t1"],
            samples=line["samples"],
            terms={name: (float(n), float(d)) for name, (n, d) in line["terms"].items()},
            total_loss=float(line["total_loss"]),
            grad_norm=float(line["grad_norm"]),
            lr=tuple(float(rate) for rate in line["lr"]),
            finite=line["finite"],
        )
        for line in _whole_lines(path)
    ]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    documents = []
    content = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(content, 1):
        document = _parsed(line)
        if document is None:
            if number == len(content):
                break
            raise CheckpointError(f"{path}, line {number} is damaged: {line[:80]!r}")
        documents.append(document)
    return documents


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line as it was written, or None if it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("step"), int) else None


def _number(number: float) -> str:
    """A float in JSON, exact; or, in quotes, what JSON has no number for."""
    return repr(number) if number - number == 0.0 else f'"{number}"'

"""The ledger: one JSON line per step, enough to know which samples were in it and what came of them.

    {"step": 3, "t0": 128, "t1": 192, "samples": 64, "terms": {"class": [97.1, 64.0]}, "total_loss": 1.517,
     "grad_norm": 0.83, "lr": [0.001], "finite": true}

`terms` has numerator and denominator of every term in the objective; [0.0, 0.0] is an absent one. Numbers that JSON has
not are the texts "nan", "inf" and "-inf". A line has more only where there is more to say:

    "measures": {"class": 64.0}            what the mean of a term over its samples divides by, as a validation does,
                                           where that is not its denominator
    "clipped": true                        the gradient was shortened
    "regularizers": {"weight_l2": 0.02}    their parts of the total loss, by name
    "streams": {"images": [0, 32, 32]}     of joint sources: t0, t1 and samples on the axis of each
    "events": {"skipped": "spike"}         what else happened: an update left out for a "spike" or an "overflow"
    "digest": "4be0cc0b…"                  of the parameters after the step

Lines are collected and written at log points and checkpoints, so that a step waits neither for the device nor for the
disk; what a killed run has not written, its resumption writes again. A step is found by bisection, in a run of millions
of steps and also while it goes on.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from minibatch.errors import CheckpointError
from minibatch.train.result import StepResult

LEDGER = "ledger.jsonl"


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """One step of a run: its number, its interval [t0, t1) of nominal time, and the exact value of every term.

    clipped is None where the run clips nothing; measures, regularizers, streams and events are empty where there were
    none.
    """

    step: int
    t0: int
    t1: int
    samples: int
    terms: Mapping[str, tuple[float, float]]
    total_loss: float
    grad_norm: float
    lr: tuple[float, ...]
    finite: bool
    clipped: bool | None = None
    regularizers: Mapping[str, float] = field(default_factory=dict)
    streams: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    events: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """The value of a term in the objective, numerator / denominator; None if it was absent."""
        numerator, denominator = self.terms[name]
        return numerator / denominator if denominator else None

    def mean(self, name: str) -> float | None:
        """The mean of a term over its samples, in the unit of validations, as `StepResult.mean`; None without any."""
        numerator, denominator = self.terms[name]
        measure = self.measures.get(name, denominator)
        return numerator / measure if measure else None


class Ledger:
    """The ledger of a run, read where it is asked: `path` is the file, or the folder of the run.

    Nothing is kept open or remembered: the run may go on meanwhile. Raises FileNotFoundError without a ledger.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "ledger.jsonl"
    >>> lines = Lines(path)
    >>> for step in range(1, 101):
    ...     lines.add(line_of(StepResult(("class",), step, (4 * step - 4, 4 * step), 4)))
    >>> lines.flush()
    >>> ledger = Ledger(path)
    >>> ledger.line_at(7).t0, ledger.line_at_time(30).step, ledger.last().step
    (24, 8, 100)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            self.path = self.path / LEDGER
        if not self.path.exists():
            raise FileNotFoundError(2, "no ledger (a run keeps one unless it was made with ledger=False)", str(path))

    def line_at(self, step: int) -> LedgerLine:
        """The line of `step`; ValueError, saying which steps there are, if it has none."""
        found = self._found("step", step)
        if found is None or found["step"] != step:
            raise ValueError(f"{self.path} has no step {step:,}: {self._extent()}")
        return as_line(found)

    def line_at_time(self, nominal_time: int) -> LedgerLine | None:
        """The line of the step whose interval has `nominal_time` in it; None if no step has."""
        found = self._found("t0", nominal_time)
        return None if found is None or found["t1"] <= nominal_time else as_line(found)

    def last(self) -> LedgerLine | None:
        """The last whole line; None without one."""
        found = self._found("step", math.inf)
        return None if found is None else as_line(found)

    def between(self, first: int, stop: int) -> Iterator[LedgerLine]:
        """The lines of the steps `first` … `stop` - 1, those that there are, one after the other."""
        for document in self.documents(first):
            if document["step"] >= stop:
                return
            yield as_line(document)

    def documents(self, first: int = 1) -> Iterator[dict[str, Any]]:
        """The lines from step `first` on as JSON documents; CheckpointError where one of them is damaged."""
        for line in self.raw(first):
            yield self.parsed(line)

    def parsed(self, line: bytes) -> dict[str, Any]:
        """A line of `raw` as its JSON document; CheckpointError if it is damaged."""
        document = _parsed(line)
        if document is None:
            raise CheckpointError(f"{self.path} has a damaged line: {line[:80]!r}")
        return document

    def raw(self, first: int = 1) -> Iterator[bytes]:
        """The lines from step `first` on, as they are; without a last one that is only half written."""
        with open(self.path, "rb") as file:
            _, begin, _ = last_line(file, "step", first - 1)
            file.seek(begin)
            waiting: bytes | None = None
            for line in file:
                if waiting is not None:
                    yield waiting
                waiting = line
            if waiting is not None and _parsed(waiting) is not None:
                yield waiting

    def _found(self, key: str, most: float) -> dict[str, Any] | None:
        with open(self.path, "rb") as file:
            return last_line(file, key, most)[2]

    def _extent(self) -> str:
        last = self._found("step", math.inf)
        if last is None:
            return "it has no step at all yet"
        with open(self.path, "rb") as file:
            first = _next_line(file, 0, 1 << 62)[2]
        assert first is not None
        return f"it has the steps {first['step']:,} to {last['step']:,}"


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
        waiting = memoryview("".join(line + "\n" for line in self._waiting).encode())
        with open(self.path, "ab", buffering=0) as file:
            whole = file.tell()
            try:
                while waiting:
                    waiting = waiting[file.write(waiting) :]
            except OSError as error:
                # A full disk may have room again: the lines wait on, and no half line may stand before them.
                file.truncate(whole)
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            self._waiting.clear()
            if sync:
                os.fsync(file.fileno())

    def sync(self) -> None:
        """Wait until the disk has what was written; from any thread."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())

    def cut(self, step: int) -> int:
        """Keep the whole lines of steps up to `step`; how many steps later ones went. A half-written line goes, too."""
        self._waiting.clear()
        if not self.path.exists():
            return 0
        with open(self.path, "rb+") as file:
            _, _, last = last_line(file, "step", math.inf)
            _, kept, _ = last_line(file, "step", step)
            file.truncate(kept)
            file.flush()
            os.fsync(file.fileno())
        return 0 if last is None else max(0, int(last["step"]) - step)

    def last_step(self) -> int:
        """The step of the last whole line; 0 without one."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb") as file:
            last = last_line(file, "step", math.inf)[2]
        return 0 if last is None else int(last["step"])


def line_of(result: StepResult) -> str:
    """A step as its line of the ledger, without the line's end."""
    # Filled into a template, which is a few times faster than json.dumps: every step pays for this line.
    numbers = [float(x) for pair in zip(result.numerators, result.denominators, strict=True) for x in pair]
    numbers += [float(result["total_loss"] or 0.0), result.grad_norm, *result.learning_rates]
    total = sum(numbers)
    shown = list(map(repr if total - total == 0.0 else _number, numbers))
    template = _template(result.names, len(result.learning_rates))
    finite = "true" if result.finite else "false"
    line = template % (result.step, *result.interval, result.num_samples, *shown, finite)
    more = _more(result)
    return line if not more else f"{line[:-1]}, {json.dumps(_strict(more), allow_nan=False)[1:]}"


def _more(result: StepResult) -> dict[str, Any]:
    """What only some steps have."""
    more: dict[str, Any] = {}
    if result.measures != result.denominators:
        compared = zip(result.names, result.measures, result.denominators, strict=True)
        more["measures"] = {name: measure for name, measure, denominator in compared if measure != denominator}
    if (clipped := getattr(result, "clipped", None)) is not None:
        more["clipped"] = bool(clipped)
    if regularizers := result.regularizers:
        more["regularizers"] = {name: float(value) for name, value in regularizers.items()}
    if streams := getattr(result, "streams", None):
        more["streams"] = {name: [t0, t1, samples] for name, t0, t1, samples in streams}
    if result.spike or result.overflow:
        more["events"] = {"skipped": "spike" if result.spike else "overflow"}
    if events := getattr(result, "events", None):
        more["events"] = {**more.get("events", {}), **events}
    if digest := getattr(result, "digest", None):
        more["digest"] = digest
    return more


@cache
def _template(names: tuple[str, ...], rates: int) -> str:
    terms = ", ".join(f"{json.dumps(name).replace('%', '%%')}: [%s, %s]" for name in names)
    return (
        f'{{"step": %d, "t0": %d, "t1": %d, "samples": %d, "terms": {{{terms}}}, "total_loss": %s, "grad_norm": %s, '
        f'"lr": [{", ".join(["%s"] * rates)}], "finite": %s}}'
    )


def read_ledger(path: str | os.PathLike[str]) -> list[LedgerLine]:
    """The steps of a ledger file, or of the folder of a run; a half-written last line is left out.

    Raises CheckpointError where a line in the middle is damaged, FileNotFoundError without a ledger. For single steps
    of a long run see `Ledger`.

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
        path = path / LEDGER
    return [as_line(document) for document in _whole_lines(path)]


def last_line(file: BinaryIO, key: str, most: float) -> tuple[int, int, dict[str, Any] | None]:
    """The last whole line whose number `key` is at most `most`: its first byte, its end, what it says.

    (0, 0, None) if there is none. By bisection: the numbers must not fall from line to line. Lines that are damaged are
    passed over.
    """
    low, high = 0, file.seek(0, os.SEEK_END)
    found: tuple[int, int, dict[str, Any] | None] = (0, 0, None)
    # Lines that begin before `low` are at most `found`; whole lines that begin at `high` or later are beyond `most`.
    while low < high:
        middle = (low + high) // 2
        start, stop, document = _next_line(file, middle, high)
        if document is None or document[key] > most:
            high = middle
        else:
            found, low = (start, stop, document), stop
    return found


def _next_line(file: BinaryIO, begin: int, end: int) -> tuple[int, int, dict[str, Any] | None]:
    """The first whole line that begins in [begin, end): first byte, end, what it says; (end, end, None) without one."""
    file.seek(max(0, begin - 1))
    if begin:
        begin += len(file.readline()) - 1
    while begin < end:
        line = file.readline()
        if not line:
            break
        document = _parsed(line)
        if document is not None:
            return begin, begin + len(line), document
        begin += len(line)
    return end, end, None


def as_line(document: Mapping[str, Any]) -> LedgerLine:
    """A line of the ledger from its JSON document."""
    return LedgerLine(
        step=document["step"],
        t0=document["t0"],
        t1=document["t1"],
        samples=document["samples"],
        terms={name: (float(n), float(d)) for name, (n, d) in document["terms"].items()},
        total_loss=float(document["total_loss"]),
        grad_norm=float(document["grad_norm"]),
        lr=tuple(float(rate) for rate in document["lr"]),
        finite=document["finite"],
        clipped=document.get("clipped"),
        regularizers={name: float(value) for name, value in document.get("regularizers", {}).items()},
        streams={name: (t0, t1, n) for name, (t0, t1, n) in document.get("streams", {}).items()},
        events=document.get("events", {}),
        digest=document.get("digest"),
        measures={name: float(measure) for name, measure in document.get("measures", {}).items()},
    )


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


def _strict(value: Any) -> Any:
    """`value` with the numbers that JSON has not as their names."""
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def _number(number: float) -> str:
    """A float in JSON, exact; or, in quotes, what JSON has no number for."""
    return repr(number) if number - number == 0.0 else f'"{number}"'

"""What the folder of a run says about it: state, validations, checkpoints, and curves thinned out from its ledger.

The files are read as they are, without torch and without the lock of the run, which may go on meanwhile. Of a ledger of
more than a few megabytes only evenly spread stretches are read: a curve has hundreds of points, not millions.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch.storage import MANIFEST

LEDGER, VALIDATIONS, METRICS, CONFIG, RESULT = (
    *("ledger.jsonl", "validation.jsonl", "metrics.jsonl"),
    *("config.json", "result.json"),
)
PLACES = 480  # points of a curve
READ_WHOLE = 6_000_000  # bytes of a ledger: some 25,000 steps, parsed in 0.1 s
STRETCH = 6_000  # bytes that are read at each place of a longer one: some 25 steps
CHECKPOINT = re.compile(r"t-(\d{12,})")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One value over nominal time: `t` (n,) in samples, ascending; mean, least and most of the steps around each."""

    t: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of a run; complete: it has its manifest, which is written last."""

    nominal_time: int
    name: str
    bytes: int
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its folder tells it.

    losses: curves of the terms by name, and of total_loss if it is more than the one term. process: of a run that goes
    on. samples_per_second: of the last reports, None unless there is a metrics.jsonl. rows: of a sweep, None if not
    known. validations: (nominal time, {name: value}), in order.
    """

    path: Path
    config: Mapping[str, Any]
    step: int
    nominal_time: int
    rows: int | None
    losses: Mapping[str, Curve]
    rates: Sequence[Curve]
    grad_norm: Curve | None
    validations: Sequence[tuple[int, Mapping[str, float | None]]]
    checkpoints: Sequence[Checkpoint]
    result: Mapping[str, Any] | None
    process: int | None
    samples_per_second: float | None
    nonfinite_steps: int

    @property
    def target(self) -> int | None:
        """The nominal time that the run is to reach, if its configuration says so."""
        target = self.config.get("max_samples")
        return target if isinstance(target, int) else None

    @property
    def state(self) -> str:
        """Finished, running or stopped."""
        if self.process is not None:
            return "running"
        return "finished" if self.result is not None else "stopped"


def holds_a_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, and not a data set."""
    if (folder / MANIFEST).exists():
        return False
    return any((folder / name).exists() for name in (LEDGER, VALIDATIONS)) or (folder / "checkpoints").is_dir()


def read_run(folder: Path) -> Run:
    """Everything about the run in `folder`; what is damaged or half written at the end of a file is passed over."""
    groups = list(thinned(folder / LEDGER))
    last = groups[-1][-1] if groups else {}
    checkpoints = list(checkpoints_of(folder))
    validations = [
        (int(line["t"]), {name: ratio(pair) for name, pair in line["pairs"].items()})
        for line in parsed((folder / VALIDATIONS).read_bytes() if (folder / VALIDATIONS).exists() else b"")
        if "pairs" in line
    ]
    times = [last.get("t1", 0), *(c.nominal_time for c in checkpoints if c.complete), *(t for t, _ in validations)]
    return Run(
        path=folder,
        config=document(folder / CONFIG) or {},
        step=int(last.get("step", 0)),
        nominal_time=max(times),
        rows=rows_of(folder, checkpoints),
        losses=loss_curves(groups),
        rates=rate_curves(groups),
        grad_norm=curve(groups, [[number(line["grad_norm"]) for line in group] for group in groups]),
        validations=validations,
        checkpoints=checkpoints,
        result=document(folder / RESULT),
        process=process_of(folder),
        samples_per_second=speed_of(folder),
        nonfinite_steps=count_in(folder / LEDGER, b'"finite": false'),
    )


def thinned(path: Path) -> Iterator[list[dict[str, Any]]]:
    """At most `PLACES` groups of successive lines of a ledger, evenly spread; together all lines of a small one."""
    if not path.exists():
        return
    size = path.stat().st_size
    if size <= READ_WHOLE:
        lines = list(parsed(path.read_bytes()))
        count = min(PLACES, len(lines))
        for place in range(count):
            yield lines[place * len(lines) // count : (place + 1) * len(lines) // count]
        return
    with open(path, "rb") as file:
        for place in range(PLACES):
            begin = place * (size - STRETCH) // (PLACES - 1)
            file.seek(max(0, begin - 1))
            stretch = file.read(STRETCH + (begin > 0))
            # From the first line that begins here; the last stretch ends with the file.
            whole = stretch if begin == 0 else stretch.partition(b"\n")[2]
            if lines := list(parsed(whole)):
                yield lines


def parsed(content: bytes) -> Iterator[dict[str, Any]]:
    """The whole JSON lines of `content`; the last one only if it has its end."""
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def loss_curves(groups: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Curve]:
    """Every term over the samples of its group, in the unit of held-out values; and the total loss, the objective."""
    if not groups:
        return {}
    names = list(dict.fromkeys(name for group in (groups[0], groups[-1]) for name in group[0]["terms"]))
    found: dict[str, Curve] = {}
    for name in names:
        pairs = [[mean_pair(line, name) for line in group] for group in groups]
        steps = [[ratio(pair) for pair in group] for group in pairs]
        means = [
            ratio((math.fsum(number(p[0]) for p in group), math.fsum(number(p[1]) for p in group)))
            if all(math.isfinite(number(p[0])) for p in group)
            else None
            for group in pairs
        ]
        made = curve(groups, steps, means)
        if made is not None:
            found[name] = made
    total = curve(groups, [[number(line["total_loss"]) for line in group] for group in groups], totals(groups))
    if total is not None and (len(found) != 1 or not close(total.mean, next(iter(found.values())).mean)):
        found = {"total_loss": total, **found}
    return found


def mean_pair(line: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """What the mean of a term over its samples in a step is made of: its numerator, and what that is divided by."""
    numerator, denominator = line["terms"].get(name, (0.0, 0.0))
    return numerator, line.get("measures", {}).get(name, denominator)


def totals(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[float | None]:
    """The total loss of each group, every step by its samples; None where a step has none that is finite."""
    found: list[float | None] = []
    for group in groups:
        pairs = [(number(line["total_loss"]), line["samples"]) for line in group]
        samples = sum(count for _, count in pairs)
        finite = samples > 0 and all(math.isfinite(value) for value, _ in pairs)
        found.append(math.fsum(value * count for value, count in pairs) / samples if finite else None)
    return found


def rate_curves(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """The learning rate of every optimizer."""
    if not groups:
        return []
    made = [
        curve(groups, [[number(line["lr"][place]) for line in group if place < len(line["lr"])] for group in groups])
        for place in range(len(groups[-1][-1]["lr"]))
    ]
    return [one for one in made if one is not None]


def curve(
    groups: Sequence[Sequence[Mapping[str, Any]]],
    values: Sequence[Sequence[float | None]],
    means: Sequence[float | None] | None = None,
) -> Curve | None:
    """A point for every group that has a finite value; None without any."""
    t, mean, low, high = [], [], [], []
    for place, (group, all_values) in enumerate(zip(groups, values, strict=True)):
        finite = [value for value in all_values if value is not None and math.isfinite(value)]
        if not finite:
            continue
        given = means[place] if means is not None else None
        t.append(int(group[-1]["t1"]))
        mean.append(given if given is not None else math.fsum(finite) / len(finite))
        low.append(min(finite))
        high.append(max(finite))
    return Curve(t=t, mean=mean, low=low, high=high) if t else None


def checkpoints_of(folder: Path) -> Iterator[Checkpoint]:
    """The checkpoints, oldest first."""
    parent = folder / "checkpoints"
    for path in sorted(parent.iterdir(), key=lambda path: path.name) if parent.is_dir() else ():
        if (match := CHECKPOINT.fullmatch(path.name)) is not None:
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            complete = (path / MANIFEST).exists()
            yield Checkpoint(nominal_time=int(match[1]), name=path.name, bytes=size, complete=complete)


def rows_of(folder: Path, checkpoints: Sequence[Checkpoint]) -> int | None:
    """The rows of the data set that is trained on, from the newest checkpoint or the data set in the folder."""
    for checkpoint in reversed(checkpoints):
        saved = document(folder / "checkpoints" / checkpoint.name / "state.json") or {}
        rows = (saved.get("source") or {}).get("rows")
        if isinstance(rows, int):
            return rows
    rows = (document(folder / "data" / "train" / MANIFEST) or {}).get("rows")
    return rows if isinstance(rows, int) else None


def process_of(folder: Path) -> int | None:
    """The process that has the run's lock, None if nobody has. The lock is only looked at, never taken."""
    try:
        process = int((folder / ".lock").read_text().strip() or 0)
        inode = (folder / ".lock").stat().st_ino
        os.kill(process, 0)
    except PermissionError:
        pass  # it is there, and belongs to somebody else
    except (OSError, ValueError, OverflowError):
        return None
    if process <= 0:
        return None
    try:
        held = Path("/proc/locks").read_text()
    except OSError:  # not Linux: the process lives, and more cannot be known
        return process
    return process if re.search(rf"FLOCK .*:{inode} ", held) else None


def speed_of(folder: Path) -> float | None:
    """Samples a second in the last reports of metrics.jsonl."""
    path = folder / METRICS
    if not path.exists():
        return None
    with open(path, "rb") as file:
        begin = max(0, path.stat().st_size - 20_000)
        file.seek(begin)
        end = file.read()
    lines = list(parsed(end.partition(b"\n")[2] if begin else end))
    reports = [line for line in lines if line.get("kind") == "train"][-20:]
    seconds = math.fsum(line.get("seconds", 0.0) for line in reports)
    return sum(line.get("samples", 0) for line in reports) / seconds if seconds > 0 else None


def count_in(path: Path, text: bytes) -> int:
    """How often `text` is in a file, of any size."""
    if not path.exists():
        return 0
    count, before = 0, b""
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            count += (before + block).count(text)
            before = block[-len(text) + 1 :]
    return count


def document(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file; None without the file, or if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def number(value: Any) -> float:
    """A number of a line, where JSON's missing ones are texts; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def ratio(pair: Sequence[Any]) -> float | None:
    """Numerator / denominator, None where nothing was counted."""
    return number(pair[0]) / number(pair[1]) if number(pair[1]) else None


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))

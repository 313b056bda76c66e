"""Nominal time: where sweeps, limits, partitions and holes lie on it. Integer arithmetic; no I/O but
`SkipRows.from_file`.

The axis is `0, 1, 2, …`; sweep `s` of a data set of M rows spans `[s·M, (s+1)·M)`. A minibatch is an interval of it.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer

MAX_TIME = 2**62


def end_of_axis(rows: int, max_samples: int | None, max_sweeps: int | None) -> int:
    """The nominal time at which the axis ends: the nearer of both limits, both absolute.

    >>> end_of_axis(4, 11, None), end_of_axis(4, 11, 2), end_of_axis(4, None, None) == MAX_TIME
    (11, 8, True)
    """
    end = MAX_TIME
    if max_samples is not None:
        end = min(end, checked_integer(max_samples, "max_samples", least=0))
    if max_sweeps is not None:
        end = min(end, checked_integer(max_sweeps, "max_sweeps", least=0) * rows)
    return end


def sweeps_ended(start: int, stop: int, rows: int) -> int:
    """How many sweep borders the interval [start, stop) reaches or crosses.

    >>> sweeps_ended(0, 4, 4), sweeps_ended(4, 7, 4), sweeps_ended(0, 9, 4)
    (1, 0, 2)
    """
    return stop // rows - start // rows


def part(length: int, num_data_partitions: int, partition_index: int) -> tuple[int, int]:
    """Offset and length of one rank's part of `length` samples: contiguous, one more for the first `length % n` ranks.

    >>> [part(10, 3, i) for i in range(3)]
    [(0, 4), (4, 3), (7, 3)]
    """
    share, more = divmod(length, num_data_partitions)
    return partition_index * share + min(partition_index, more), share + (partition_index < more)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What is read ahead as one block: `count` runs of `length` samples, one every `stride`, from nominal time `start`.

    A contiguous stretch of the axis is one run; a rank's parts of successive minibatches are many.

    >>> [list(run) for run in Stretch(start=4, length=2, stride=8, count=2).runs()]
    [[4, 5], [12, 13]]
    """

    start: int
    length: int
    stride: int
    count: int

    @property
    def samples(self) -> int:
        """The number of nominal times in it."""
        return self.length * self.count

    def runs(self) -> Iterable[range]:
        """The intervals of nominal time, in order."""
        for i in range(self.count):
            yield range(self.start + i * self.stride, self.start + i * self.stride + self.length)

    def find(self, start: int, length: int) -> int | None:
        """Where [start, start + length) begins in this block, counted in nominal times; None if it is not inside."""
        run, within = divmod(start - self.start, self.stride)
        if 0 <= run < self.count and within + length <= self.length:
            return run * self.length + within
        return None

    def intervals(self, start: int, length: int, stride: int) -> int:
        """How many of the intervals of `length` from `start` on, one every `stride`, lie in this block one after
        another.

        >>> Stretch(start=4, length=8, stride=8, count=1).intervals(6, 2, 2)
        3
        """
        if self.find(start, length) is None:
            return 0
        if self.count == 1:
            return (self.start + self.length - length - start) // stride + 1
        return self.count - (start - self.start) // self.stride if stride == self.stride else 1


@dataclass(frozen=True, kw_only=True)
class Holes:
    """What is left out: intervals of nominal time, and rows. Time counts on over both, so nothing else moves.

    `starts` and `stops` are int64 (intervals,), ascending and disjoint; `rows` is int64 (rows,), ascending.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __bool__(self) -> bool:
        return bool(len(self.starts) or len(self.rows))

    def kept(self, times: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples stay: bool (n,), of the nominal times and rows (n,) given."""
        interval = np.searchsorted(self.starts, times, side="right") - 1
        keep = np.ones(len(times), np.bool_)
        inside = interval >= 0
        keep[inside] = times[inside] >= self.stops[interval[inside]]
        if len(self.rows):
            nearest = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
            keep &= self.rows[nearest] != rows
        return keep


@dataclass(frozen=True)
class SkipRows:
    """Rows that are never shown, for `skip=`: quarantined wherever they stand.

    >>> holes_of([(15, 23), SkipRows([3, 17])]).rows.tolist()
    [3, 17]
    """

    rows: Iterable[int]

    def __post_init__(self) -> None:
        try:
            rows = tuple(self.rows)  # an iterator would be empty the second time, and then nothing be skipped
        except TypeError:
            raise TypeError(f"SkipRows takes the ids of rows, such as SkipRows([3, 17]), got {self.rows!r}") from None
        object.__setattr__(self, "rows", rows)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "SkipRows":
        """The rows whose ids a file lists.

        A `.npy` file has integers (n,); a `.json` file a list of integers, or an object with such a list under
        "quarantine" or "rows", where objects with a "row" may stand for integers; any other file is text, one id a
        line, in which empty lines and what follows a # do not count. Raises `ValueError` naming the place in the file.

        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "broken.txt")
        >>> _ = path.write_text("3  # no picture\\n17\\n")
        >>> SkipRows.from_file(path)
        SkipRows(rows=(3, 17))
        """
        file = Path(path)
        if file.suffix == ".npy":
            return cls(row_ids(np_ids(file), file))
        if file.suffix == ".json":
            return cls(row_ids(json_ids(file), file))
        lines = file.read_text(encoding="utf-8").splitlines()
        texts = {number: line.partition("#")[0].strip() for number, line in enumerate(lines, start=1)}
        return cls(row_ids({f"line {number}": text for number, text in texts.items() if text}, file))


def row_ids(found: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    """The ids of rows found in a file, each by where it stands, or the error that names the first that is none."""
    rows = []
    for where, value in found.items():
        try:
            rows.append(checked_integer(int(value) if isinstance(value, str) else value, "a row", least=0))
        except (TypeError, ValueError):
            raise ValueError(
                f"{file}, {where}: expected the id of a row, an integer from 0 on, got {value!r}"
            ) from None
    return tuple(rows)


def np_ids(file: Path) -> dict[str, Any]:
    """The integers of a `.npy` file, by their places."""
    try:
        ids = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a .npy file of integers: {error}") from None
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{file}: expected integers (n,), got {ids.dtype} of shape {ids.shape}")
    return {f"element {i}": row for i, row in enumerate(ids.tolist())}


def json_ids(file: Path) -> dict[str, Any]:
    """The ids that a `.json` file lists, by their places."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    listed = document
    if isinstance(document, dict):
        listed = next((document[name] for name in ("quarantine", "rows") if name in document), None)
    if not isinstance(listed, list):
        raise ValueError(
            f'{file}: expected a list of row ids, or an object with one under "quarantine" or "rows", '
            f"got {document!r:.60}"
        )
    return {
        f"element {i}": item["row"] if isinstance(item, dict) and "row" in item else item
        for i, item in enumerate(listed)
    }


def holes_of(skip: Iterable[Any], rows: int | None = None) -> Holes:
    """The holes that `skip` names: (start, stop) intervals of nominal time, and `SkipRows`, in any order and overlap.

    >>> holes = holes_of([(15, 23), (20, 25), (60, 61)])
    >>> holes.starts.tolist(), holes.stops.tolist()
    ([15, 60], [25, 61])
    """
    intervals: list[tuple[int, int]] = []
    out: set[int] = set()
    for item in skip:
        if isinstance(item, SkipRows):
            most = MAX_TIME if rows is None else rows - 1
            out.update(checked_integer(row, "a row of SkipRows", least=0, most=most) for row in item.rows)
            continue
        try:
            start, stop = item
        except (TypeError, ValueError):
            raise TypeError(
                f"skip takes (start, stop) intervals of nominal time and SkipRows([…]), got {item!r}"
            ) from None
        start = checked_integer(start, "the start of a skipped interval", least=0)
        stop = checked_integer(stop, f"the stop of the skipped interval from {start}", least=start)
        if stop > start:
            intervals.append((start, stop))
    merged: list[list[int]] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    bounds = np.array(merged, np.int64).reshape(-1, 2)
    return Holes(
        starts=np.ascontiguousarray(bounds[:, 0]),
        stops=np.ascontiguousarray(bounds[:, 1]),
        rows=np.array(sorted(out), np.int64),
    )

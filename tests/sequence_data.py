"""Data sets of sequences for the tests, their twins, and what a minibatch of them must hold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minibatch import Batch, Dataset, DatasetWriter, LengthGroups, Mixture, Ragged, Window, subset
from tests.plain import length_groups, mixture, order
from tests.plain.sequences import Axis, PlainBatch
from tests.plain.source import PlainDraws

LENGTHS: dict[str, list[int]] = {
    "plain": [3, 5, 2, 7, 1, 4],
    "one": [4],
    "empty ones": [0, 0, 3, 0, 5, 0, 0, 9, 1, 0],
    "last alone": [0, 0, 1],
    "long": [50, 1, 0, 2, 30, 1, 1],
    "many": [(7 * i * i + i // 3) % 13 for i in range(40)],
}
# What is laid on the axis, and how.
ORDERS: dict[str, Any] = {
    "full": "full",
    "sequential": None,
    "window": Window(rows=4),
    "groups": LengthGroups(rows=8, group=3),
    "view": "full",
    "mixture": "full",
    "capped mixture": Window(rows=4),
}


def token(row: int, position: int) -> int:
    return 1 + row * 100 + position


def fields_of(rows: list[int], lengths: list[int]) -> dict[str, Any]:
    """Three lists of one length, another one of another length, and what a row has once."""
    return {
        "tokens": [np.array([token(row, j) for j in range(lengths[row])], np.int32) for row in rows],
        "pairs": Ragged(
            np.array([[row, j] for row in rows for j in range(lengths[row])], np.int16).reshape(-1, 2),
            np.cumsum([0, *(lengths[row] for row in rows)]),
        ),
        "odd": [np.array([(row + j) % 2 == 1 for j in range(lengths[row])], bool) for row in rows],
        "words": [np.arange(words_in(row), dtype=np.float32) + row for row in rows],
        "label": np.array(rows, np.int64) * 3,
        "vector": np.array(rows, np.float32)[:, None] + np.array([0, 0.5], np.float32),
        "name": [f"row {row}" for row in rows],
    }


def words_in(row: int) -> int:
    return (row * 5 + 2) % 4


LAID = ["tokens", "pairs", "odd", "label", "vector", "name"]  # what can be laid end to end


@cache
def folder_of(root: Path, name: str) -> Path:
    """The folder below `root` of the data set `name` of LENGTHS, written once."""
    folder = root / name.replace(" ", "-")
    lengths = LENGTHS[name]
    with DatasetWriter(folder, chunk_rows=3, shard_rows=6) as writer:
        writer.write(fields_of(list(range(len(lengths))), lengths))
    return folder


@dataclass(frozen=True, kw_only=True)
class Laid:
    """Data as a source takes them, and the twin: the row of each place, and by row the row of the data set behind."""

    data: Any
    shuffle: Any
    row: Callable[[int], int]
    behind: list[tuple[str, int]]  # of each row, its data set and its row there
    sweep: int | None
    laid: int | None = None

    def axis(self, by: str = "longest", **limits: Any) -> Axis:
        """The twin, its lengths counted by "tokens", by "words" or by the longer one."""

        def length(row: int) -> int:
            name, own = self.behind[row]
            counts = {"tokens": LENGTHS[name][own], "words": words_in(own)}
            return counts[by] if by in counts else max(counts.values())

        max_sweeps = limits.pop("max_sweeps", None)
        end = self.laid if max_sweeps is None or self.sweep is None else max_sweeps * self.sweep
        return Axis(row=self.row, length=length, sweep=self.sweep, laid=self.laid, end=end, **limits)

    def fields(self, rows: list[int]) -> dict[str, list[Any]]:
        """What the data sets hold of the given rows, one entry each."""
        columns: dict[str, list[Any]] = {name: [] for name in [*LAID, "words"]}
        for name, own in (self.behind[row] for row in rows):
            for field, values in fields_of([own], LENGTHS[name]).items():
                columns[field].append(np.asarray(values[0]) if field != "name" else values[0])
        return columns


def lay(root: Path, name: str, kind: str, seed: int, by: str = "longest") -> Laid:
    """The data set `name` in an order of ORDERS; a view leaves out every third row, a mixture adds "plain"."""
    shuffle, folder = ORDERS[kind], folder_of(root, name)
    rows = list(range(len(LENGTHS[name])))
    behind = [(name, row) for row in rows]
    if "mixture" in kind:
        caps = {"a": 2, "b": 3} if kind == "capped mixture" else {}
        weights = {"a": 2, "b": 1}
        data = Mixture({"a": folder, "b": folder_of(root, "plain")}, weights=weights, max_sweeps=caps)
        orders = {
            source: plain_order(kind, len(LENGTHS[of]), mixture.source_seed(seed, source), None)
            for source, of in (("a", name), ("b", "plain"))
        }
        twin = mixture.Mixture(orders=orders, stages=[(0, weights)], seed=seed, max_sweeps=caps)
        bases = {"a": 0, "b": len(rows)}

        @cache
        def some(number: int) -> list[int]:
            return [bases[source] + row for source, _, row in twin.samples(number * 64, 64)]

        behind += [("plain", row) for row in range(len(LENGTHS["plain"]))]
        return Laid(
            data=data,
            shuffle=shuffle,
            row=lambda place: some(place // 64)[place % 64],
            behind=behind,
            sweep=None,
            laid=twin.end,
        )
    data = folder
    if kind == "view":
        rows = [row for row in rows if row % 3 != 1]
        behind = [(name, row) for row in rows]
        data = subset(Dataset.open(folder), np.array(rows))
    lengths = [max(LENGTHS[name][row], words_in(row)) for row in rows]
    if by != "longest":
        lengths = [LENGTHS[name][row] if by == "tokens" else words_in(row) for row in rows]
    plain = plain_order(kind, len(rows), seed, lengths)
    sweep = cache(lambda number: [plain.row(place, number) for place in range(len(rows))])
    return Laid(
        data=data,
        shuffle=shuffle,
        row=lambda place: sweep(place // len(rows))[place % len(rows)],
        behind=behind,
        sweep=len(rows),
    )


def plain_order(kind: str, rows: int, seed: int, lengths: list[int] | None) -> Any:
    """The plain twin of an order of ORDERS."""
    if kind == "sequential":
        return order.Sequential(rows=rows)
    if kind in ("window", "capped mixture"):
        chunk = min(3, rows)
        window = min(max(1, 4 // chunk), -(-rows // chunk))
        return order.Windowed(rows=rows, chunk_rows=chunk, window_chunks=window, seed=seed)
    full = order.Full(rows=rows, seed=seed)
    if kind == "groups":
        assert lengths is not None
        window = min(8, rows)
        group = min(3, window)
        return length_groups.Grouped(base=full, seed=seed, window_rows=window, group=group, length=lengths.__getitem__)
    return full


def assert_equal(batch: Batch, twin: PlainBatch, laid: Laid, seed: int | None = None) -> None:
    """The whole minibatch is that of the twin; with `seed`, after the transform `shifted`."""
    assert (batch.nominal_time, batch.nominal_end) == (twin.nominal_time, twin.nominal_end)
    assert (batch.sweeps_ended, batch.end_of_sweep) == (twin.sweeps_ended, twin.sweeps_ended > 0)
    assert (batch.rows.tolist(), batch.times.tolist()) == (twin.rows, twin.times)
    assert batch.rows.dtype == batch.times.dtype == np.int64
    assert batch.num_samples == len(batch) == twin.num_samples
    assert batch.num_sequences == len(twin.rows)
    assert bool(batch) == (twin.nominal_end > twin.nominal_time)
    expected = laid.fields(twin.rows)
    if seed is not None:
        expected["tokens"] = [
            values + shift_at(place, seed) for values, place in zip(expected["tokens"], twin.places, strict=True)
        ]
    if twin.tokens is None:
        assert (batch.segment_ids, batch.positions, batch.cu_seqlens) == (None, None, None)
        assert_fields(batch, expected)
    else:
        assert_laid_out(batch, twin, expected)


def assert_fields(batch: Batch, expected: dict[str, list[Any]]) -> None:
    for name in batch.fields:
        values, wanted = batch[name], expected[name]
        assert len(values) == len(wanted)
        if isinstance(values, Ragged):
            assert values.lengths.tolist() == [len(each) for each in wanted], name
        for got, each in zip(values, wanted, strict=True):
            assert np.array_equal(got, each), name


def assert_laid_out(batch: Batch, twin: PlainBatch, expected: dict[str, list[Any]]) -> None:
    assert twin.tokens is not None
    assert batch.segment_ids is not None
    assert batch.positions is not None
    assert batch.segment_ids.dtype == batch.positions.dtype == np.int32
    assert batch.segment_ids.tolist() == [[entry[0] if entry else 0 for entry in row] for row in twin.tokens]
    assert batch.positions.tolist() == [[entry[1] if entry else 0 for entry in row] for row in twin.tokens]
    which = {place: i for i, place in enumerate(twin.places)}
    for name in batch.fields:
        values = batch[name]
        assert values.shape[:2] == batch.segment_ids.shape, name
        for row, entries in zip(values, twin.tokens, strict=True):
            for value, entry in zip(row, entries, strict=True):
                if entry is None:
                    assert value is None if name == "name" else not np.any(value), name
                    continue
                _, position, place = entry
                once = expected[name][which[place]]
                assert np.array_equal(value, once[position] if name in ("tokens", "pairs", "odd") else once), name
    assert_lengths(batch)


def assert_lengths(batch: Batch) -> None:
    """`cu_seqlens` are the bounds of the runs of equal segment ids, row after row."""
    assert batch.cu_seqlens is not None
    assert batch.segment_ids is not None
    flat = batch.segment_ids.reshape(-1)
    width = batch.segment_ids.shape[1]
    cuts = [i for i in range(1, flat.size) if i % width == 0 or flat[i] != flat[i - 1]]
    assert batch.cu_seqlens.tolist() == ([0, *cuts, flat.size] if flat.size else [0])
    assert batch.cu_seqlens.dtype == np.int32


def shifted(fields: dict[str, Any], draws: Any) -> dict[str, Any]:
    """A transform: one random number for each sequence, added to all of its tokens."""
    tokens = fields["tokens"]
    shift = np.repeat(draws.integers(1000), tokens.lengths).astype(np.int32)
    return {**fields, "tokens": Ragged(tokens.values + shift, tokens.offsets)}


def shift_at(place: int, seed: int) -> int:
    """What `shifted` adds to the tokens of the sequence at a place."""
    return PlainDraws(seed, "shifted", place).integer(1000)

"""What is asked for ahead and let go behind: the right chunks, in time, and no more; what is read is the same."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minibatch.ahead
import minibatch.chunks
import minibatch.readahead
from minibatch import Dataset, DatasetWriter, LengthGroups, MinibatchSource, Window, concatenate, storage, subset
from minibatch.ahead import Ahead, Place, scatter
from minibatch.errors import DamagedDatasetError
from minibatch.order import make_order
from minibatch.timeline import Stretch

ROWS, CHUNK, SHARD = 1000, 10, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x"
    with DatasetWriter(path, chunk_rows=CHUNK, shard_rows=SHARD) as writer:
        texts = [f"row {row}" for row in range(ROWS)]
        lists = [list(range(row % 5)) for row in range(ROWS)]
        writer.write({"x": np.arange(ROWS), "wide": np.zeros((ROWS, 3000), np.uint8), "text": texts, "list": lists})
    return path


class Watched:
    """In place of the methods of `Chunks` that tell the system: which chunks were asked for and let go, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[str, int]] = []
        for name in ("ask_for", "bring_in", "let_go"):
            monkeypatch.setattr(
                minibatch.chunks.Chunks, name, self._writing(name, getattr(minibatch.chunks.Chunks, name))
            )

    def _writing(self, name: str, method: Any) -> Any:
        def written(table: Any, chunks: list[int], names: Any) -> None:
            self.said += [(name, chunk) for chunk in chunks]
            method(table, chunks, names)

        return written

    def of(self, name: str) -> list[int]:
        return [chunk for what, chunk in self.said if what == name]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def ahead_of(folder: Path, shuffle: Any, *, fits: bool) -> tuple[Ahead, Any, Dataset]:
    dataset = Dataset.open(folder)
    dataset.gatherings(["wide"])
    dataset.chunks.fits, dataset.chunks.exceeds = fits, not fits
    order = make_order(shuffle, rows=ROWS, chunk_rows=CHUNK, seed=1)
    scatter(order, [dataset.chunks], 3000)
    return Ahead(order, [Place(chunks=dataset.chunks, names=("wide",))]), order, dataset


def at(time: int) -> Stretch:
    return Stretch(start=time, length=5, stride=5, count=1)


def windows_of(order: Any, window: int, sweeps: int) -> list[set[int]]:
    """The chunks of each window of the axis, by looking at all of its rows."""
    return [
        {int(row) // CHUNK for row in order.rows_at(sweep * ROWS + start, min(window, ROWS - start))}
        for sweep in range(sweeps)
        for start in range(0, ROWS, window)
    ]


@pytest.mark.parametrize("window", [50, 300, 1000])
def test_a_window_is_asked_for_before_it_begins_and_let_go_when_the_next_one_does(folder, watched, window, monkeypatch):
    monkeypatch.setattr(minibatch.ahead, "AT_ONCE_UNITS", 1000)
    ahead, order, _ = ahead_of(folder, Window(rows=window), fits=False)
    expected = windows_of(order, window, 6)
    starts = [sweep * ROWS + start for sweep in range(6) for start in range(0, ROWS, window)]
    step = 5
    for time in range(0, 3 * ROWS, step):
        ahead(at(time))
        here = max(i for i, start in enumerate(starts) if start <= time)
        asked, gone = watched.of("ask_for"), watched.of("let_go")
        read = sum(len(each) for each in expected[:here])
        assert len(asked) == (time + window) // CHUNK + 1, "as far into the next window as reading is in this one"
        assert set(asked[read : read + len(expected[here])]) == expected[here]
        assert set(asked[read + len(expected[here]) :]) <= expected[here + 1] | expected[here + 2]
        assert Counter(gone) == Counter(chunk for each in expected[:here] for chunk in each)


def test_without_a_shuffle_a_fixed_number_of_bytes_is_asked_for(folder, watched, monkeypatch):
    monkeypatch.setattr(minibatch.ahead, "SEQUENTIAL_BYTES", 600_000)
    monkeypatch.setattr(minibatch.ahead, "AT_ONCE_BYTES", 200_000)
    ahead, _, dataset = ahead_of(folder, None, fits=False)
    row_bytes = dataset.chunks.bytes / ROWS
    for time in range(0, 2 * ROWS, 10):
        ahead(at(time))
        first, last = watched.of("ask_for")[0], watched.of("ask_for")[-1]
        assert first == 0
        if 200 < time < 700:
            coming = (last + 1) * CHUNK - time
            assert 500_000 < coming * row_bytes < 900_000
            assert (time - 40) - 600_000 / row_bytes - 100 < max(watched.of("let_go"), default=0) * CHUNK < time


def test_what_fits_into_memory_is_asked_for_once_and_never_let_go(folder, watched):
    ahead, _, _ = ahead_of(folder, Window(rows=100), fits=True)
    for time in range(0, 5 * ROWS, 5):
        ahead(at(time))
    assert set(watched.of("ask_for")) == set(range(ROWS // CHUNK))
    assert len(watched.of("ask_for")) <= ROWS // CHUNK + 20
    assert not watched.of("let_go")


def test_a_full_shuffle_of_large_data_asks_for_the_rows_of_a_block_and_nothing_around_them(
    folder, watched, monkeypatch
):
    said: list[tuple[int, int, int | None]] = []
    monkeypatch.setattr(minibatch.chunks, "advise", lambda *arguments: said.append(arguments))
    ahead, order, dataset = ahead_of(folder, "full", fits=False)
    for time in range(0, ROWS, 5):
        ahead(at(time))
    asked = [(address, size) for address, size, advice in said if advice == storage.COMING]
    rows = order.rows_at(0, ROWS)
    chunks = dataset.chunks.locate(rows)
    within = (rows - dataset.chunks.starts[chunks]).astype("u8")
    begins = dataset.chunks.leaves["wide"][0].data[chunks] + within * 3000
    assert asked == [(int(begin), 3000) for begin in begins]
    assert {advice for *_, advice in said} == {storage.COMING, storage.SCATTERED}
    assert not watched.said
    said.clear()
    dataset.chunks.scatter()
    assert [advice for *_, advice in said] == [storage.SCATTERED] * (ROWS // SHARD), "of those that are mapped, too"


def test_a_full_shuffle_of_data_that_fit_brings_them_in_once_unless_it_is_a_part_of_many(folder, watched, monkeypatch):
    monkeypatch.setattr(minibatch.ahead, "AT_ONCE_BYTES", 200_000)
    monkeypatch.setattr(minibatch.ahead, "BRING_IN_SECONDS", 2.5)
    clock = itertools.count()
    monkeypatch.setattr(minibatch.ahead.time, "monotonic", lambda: next(clock))  # time for two pieces a call
    ahead, _, dataset = ahead_of(folder, "full", fits=True)
    for time in range(0, 2 * ROWS, 15):
        ahead(Stretch(start=time, length=5, stride=15, count=3))
    assert not watched.said
    for calls in range(1, 2 * ROWS // 5):
        ahead(at(5 * calls))
        assert len(watched.said) * CHUNK * dataset.chunks.bytes / ROWS <= 1.5 * calls * 200_000
    brought = watched.of("bring_in")
    assert sorted(set(brought)) == list(range(ROWS // CHUNK))
    assert brought == sorted(brought)
    assert len(brought) == len(watched.said) <= 1.5 * ROWS // CHUNK, "a chunk on the border of two pieces counts twice"


def test_after_a_jump_the_window_there_is_asked_for_and_the_old_one_let_go(folder, watched):
    ahead, order, _ = ahead_of(folder, Window(rows=100), fits=False)
    for time in range(0, 250, 5):
        ahead(at(time))
    watched.said.clear()
    ahead(at(7 * ROWS + 530))
    asked, gone = watched.of("ask_for"), watched.of("let_go")
    assert set(asked[:10]) == {int(row) // CHUNK for row in order.rows_at(7 * ROWS + 500, 100)}
    assert len(set(gone)) == 15, "the rest of the third window and half of the fourth"


def test_a_block_asks_for_a_few_chunks_only(folder, watched, monkeypatch):
    monkeypatch.setattr(minibatch.ahead, "AT_ONCE_UNITS", 3)
    ahead, _, _ = ahead_of(folder, Window(rows=500), fits=False)
    for calls in range(1, 10):
        ahead(at(0))
        assert len(watched.of("ask_for")) == 3 * calls


def test_damage_is_told_to_whoever_needs_the_rows(folder, tmp_path):
    with DatasetWriter(tmp_path / "x", chunk_rows=10, shard_rows=20) as writer:
        writer.write({"x": np.arange(200)})
    shard = tmp_path / "x" / "shard-00003.arrow"
    shard.write_bytes(bytes(shard.stat().st_size))
    source = MinibatchSource(tmp_path / "x", shuffle=None)
    for t in range(0, 60, 5):
        assert source.next_minibatch(5)["x"].tolist() == list(range(t, t + 5))
    with pytest.raises(DamagedDatasetError, match="shard-00003"):
        source.next_minibatch(5)


def views(folder: Path) -> list[Any]:
    dataset = Dataset.open(folder)
    rows = np.random.default_rng(1).permutation(ROWS)[:700]
    return [dataset, subset(dataset, rows), concatenate([Dataset.open(folder), subset(Dataset.open(folder), rows)])]


@pytest.mark.parametrize(
    "shuffle", [Window(rows=60), None, "full", LengthGroups(rows=120, group=20, base=Window(rows=60))]
)
@pytest.mark.parametrize("view", [0, 1, 2])
def test_what_is_read_does_not_depend_on_advice(folder, monkeypatch, shuffle, view):
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 60_000)
    monkeypatch.setattr(minibatch.ahead, "AT_ONCE_BYTES", 60_000)
    monkeypatch.setattr(minibatch.ahead, "SEQUENTIAL_BYTES", 200_000)
    data = views(folder)[view]
    for part in data.parts:
        part.chunks.fits, part.chunks.exceeds = False, True
    with MinibatchSource(data, 1, shuffle, "rows", max_sweeps=2, threads=2) as source:
        found: list[Any] = []
        for batch in source.minibatches(37):
            expected = data.read(batch.rows)
            assert batch["x"].tolist() == expected["x"].tolist()
            assert batch["text"].tolist() == [f"row {x}" for x in batch["x"]]
            assert batch["list"].values.tolist() == [i for x in batch["x"].tolist() for i in range(x % 5)]
            assert not batch["wide"].any()
            found += batch.rows.tolist()
        assert found == source.at(0, 2 * len(data)).tolist()


@pytest.mark.filterwarnings("ignore:.*is compressed")
def test_what_must_be_decoded_is_not_let_go_of_in_this_way(folder, tmp_path, monkeypatch):
    """To take back memory that does not belong to a file would be to lose what is in it."""
    import pyarrow as pa

    said: list[tuple[int, int]] = []
    advise = minibatch.chunks.advise
    monkeypatch.setattr(minibatch.chunks, "advise", lambda *a: (said.append(a[:2]), advise(*a)))
    (tmp_path / "x").mkdir()
    for shard in range(4):
        options = pa.ipc.IpcWriteOptions(compression="zstd" if shard % 2 else None)
        rows = np.arange(shard * 10_000, shard * 10_000 + 10_000)
        schema = pa.schema({"x": pa.int64()})
        with pa.ipc.new_file(str(tmp_path / "x" / f"{shard}.arrow"), schema, options=options) as file:
            for i in range(0, 10_000, 1000):
                file.write_batch(pa.record_batch([rows[i : i + 1000]], schema=schema))
    dataset = Dataset.open(tmp_path / "x")
    dataset.chunks.fits = False
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 1 << 14)
    with MinibatchSource(dataset, 1, Window(rows=4000), max_sweeps=3) as source:
        assert all(batch["x"].tolist() == batch.rows.tolist() for batch in source.minibatches(500))
        assert said
        contents = dataset.chunks._holding.of("shard")
        assert len(contents) == 2
        inside = [(each.address, each.address + each.size) for each in contents]
        assert all(any(a <= at and at + size <= b for a, b in inside) for at, size in said)

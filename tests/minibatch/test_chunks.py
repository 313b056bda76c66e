"""Chunks are there when they are read, however many shards there are, and no more of them than may be."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minibatch.chunks
from minibatch import Dataset, DatasetWriter, MinibatchSource, holding
from minibatch.errors import DamagedDatasetError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' data sets, which may not be collected yet, take no share."""
    monkeypatch.setattr(holding, "ALL", weakref.WeakSet())


def write(folder: Path, shards: list[list[int]], compressed: list[bool]) -> int:
    """Arrow files of chunks of these sizes; returns the number of rows. Row r has x = r, t = [r] * (r % 4)."""
    folder.mkdir()
    row = 0
    for number, (sizes, small) in enumerate(zip(shards, compressed, strict=True)):
        options = pa.ipc.IpcWriteOptions(compression="zstd" if small else None)
        schema = pa.schema({"x": pa.int64(), "t": pa.list_(pa.int32())})
        with pa.ipc.new_file(str(folder / f"{number:05d}.arrow"), schema, options=options) as file:
            for size in sizes:
                rows = range(row, row + size)
                file.write_batch(pa.record_batch([list(rows), [[r] * (r % 4) for r in rows]], schema=schema))
                row += size
    return row


def assert_read(dataset: Dataset, rows: np.ndarray) -> None:
    found = dataset.read(rows)
    assert found["x"].tolist() == rows.tolist()
    assert found["t"].values.tolist() == [r for r in rows.tolist() for _ in range(r % 4)]
    assert dataset.lengths(rows, ["t"]).tolist() == [r % 4 for r in rows.tolist()]


sizes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes, st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 300, 1 << 60]))
@pytest.mark.filterwarnings("ignore:.*is compressed")
def test_however_little_may_be_held_threads_read_the_same(tmp_path_factory, shards, seed, most, new, most_bytes):
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("data") / "x"
    rows = write(folder, shards, random.choice([True, False], len(shards), p=[0.3, 0.7]).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holding, "ALL", weakref.WeakSet())
        patch.setattr(holding, "MOST_HELD", most)
        patch.setattr(minibatch.chunks, "MOST_NEW", new)
        dataset = Dataset.open(folder)
        dataset.chunks._holding._most_bytes = most_bytes
        wanted = [[random.integers(0, rows, 40) for _ in range(4)] for _ in range(2)]
        failures: list[BaseException] = []

        def work(each: list[np.ndarray]) -> None:
            try:
                for some in each:
                    assert_read(dataset, some)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(dataset.chunks._holding) <= most


def test_in_most_data_sets_everything_stays_mapped_and_is_opened_once(tmp_path, monkeypatch):
    rows = write(tmp_path / "x", [[3, 4], [5], [1, 1, 1]], [False] * 3)
    opened = []
    open_shard = minibatch.chunks.open_shard
    monkeypatch.setattr(minibatch.chunks, "open_shard", lambda *a: opened.append(a) or open_shard(*a))
    with MinibatchSource(tmp_path / "x", sequences="rows", max_sweeps=5) as source:
        found = np.concatenate([batch["x"] for batch in source.minibatches(4)])
    assert sorted(found.tolist()) == sorted([*range(rows)] * 5)
    assert len(opened) == 3


def test_a_shard_that_was_let_go_is_mapped_again_without_a_look_inside(tmp_path, monkeypatch):
    rows = write(tmp_path / "x", [[3, 4], [5, 2]], [False] * 2)
    monkeypatch.setattr(holding, "MOST_HELD", 1)
    dataset = Dataset.open(tmp_path / "x")
    assert_read(dataset, np.arange(rows))

    def never(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(minibatch.chunks, "open_shard", never)
    for row in [0, rows - 1] * 4:
        assert_read(dataset, np.array([row]))


def test_another_file_in_the_place_of_a_shard_that_was_let_go_is_looked_at(tmp_path, monkeypatch):
    write(tmp_path / "x", [[3, 4], [5, 2]], [False] * 2)
    monkeypatch.setattr(holding, "MOST_HELD", 1)
    dataset = Dataset.open(tmp_path / "x")
    assert_read(dataset, np.array([0]))
    assert_read(dataset, np.array([12]))  # the other shard
    shard = tmp_path / "x" / "00000.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:-30] + bytes(30))
    os.utime(shard, ns=(1, 1))
    with pytest.raises(DamagedDatasetError, match=r"00000\.arrow"):
        dataset.read([0])
    shard.write_bytes(content)
    assert_read(dataset, np.array([0]))


def test_a_field_that_somebody_asks_for_later_is_there_for_all(tmp_path):
    rows = write(tmp_path / "x", [[3, 4], [5, 2]], [False] * 2)
    dataset = Dataset.open(tmp_path / "x")
    first = MinibatchSource(dataset, fields=["x"], shuffle=None, sequences="rows")
    assert first.next_minibatch(4)["x"].tolist() == [0, 1, 2, 3]
    assert_read(dataset, np.arange(rows))
    assert first.next_minibatch(4)["x"].tolist() == [4, 5, 6, 7]


@pytest.mark.filterwarnings("ignore:.*is compressed")
def test_decoded_chunks_are_held_up_to_their_bytes(tmp_path, monkeypatch):
    rows = write(tmp_path / "x", [[50] * 40], [True])
    dataset = Dataset.open(tmp_path / "x", fields=["x"])
    dataset.chunks._holding._most_bytes = 5000
    for start in range(0, rows, 50):
        assert dataset.read(np.arange(start, start + 50), ["x"])["x"].tolist() == list(range(start, start + 50))
        assert dataset.chunks._holding._bytes <= 5000
    assert 2 <= dataset.chunks.mapped.sum() <= 12


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_thousands_of_shards_need_few_files_and_mappings(tmp_path):
    with DatasetWriter(tmp_path / "many", chunk_rows=2, shard_rows=2) as writer:
        writer.write({"x": np.arange(4000)})
    program = """
    import os, pathlib, resource, sys
    import numpy as np
    from minibatch import MinibatchSource, Window, holding

    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    holding.MOST_HELD = 100
    mappings = lambda: pathlib.Path("/proc/self/maps").read_text().count("/many/shard-")
    for shuffle in ("full", Window(rows=100), None):
        with MinibatchSource(sys.argv[1], 1, shuffle, max_sweeps=1, threads=2) as source:
            rows, most = [], 0
            for batch in source.minibatches(500):
                rows.append(batch["x"])
                most = max(most, mappings())
            assert sorted(np.concatenate(rows).tolist()) == list(range(4000))
            assert np.array_equal(np.concatenate(rows), source.at(0, 4000))
        assert 0 < most <= 100 + 2 * 512, most
        assert len(os.listdir("/proc/self/fd")) < 20
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_data_set_leaves_nothing_mapped(tmp_path):
    write(tmp_path / "x", [[3, 4], [5, 2]], [False] * 2)
    dataset = Dataset.open(tmp_path / "x")
    assert_read(dataset, np.arange(14))
    content = weakref.ref(dataset.chunks._holding)
    del dataset
    assert content() is None, "at once, and not when the garbage collector comes round"
    maps = Path("/proc/self/maps")
    with contextlib.suppress(FileNotFoundError):
        assert str(tmp_path) not in maps.read_text()

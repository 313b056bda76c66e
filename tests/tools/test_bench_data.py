"""The benchmarks' data: made once, checkable, the same in the plain files and in the data set."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from minibatch.tools import bench_data
from minibatch.tools.bench_data import WORKLOADS, make, scaled

SCALE = 1e-4  # a few minibatches of each workload


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def test_the_workloads_are_those_of_the_table():
    assert [(load.rows, load.k) for load in WORKLOADS.values()] == [
        (1_000_000, 256),
        (2_000_000, 1024),
        (200_000, 16),
        (6_000, 64),
        (4_000, 64),
        (500_000, 64),
    ]
    assert WORKLOADS["W4"].described == "6,000 × 224×224×3 uint8, k 64"
    assert WORKLOADS["W5"].described.startswith("4,000 × JPEG 256×256")


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_data_set_has_the_rows_of_the_plain_files_each_with_its_number(name, cache):
    data = make(scaled(name, SCALE), cache)
    dataset = data.dataset
    assert len(dataset) == data.rows == 4 * data.workload.k
    rows = np.arange(0, data.rows, 7)
    found = dataset.read(rows)
    assert found["label"].tolist() == rows.tolist()
    for place, row in enumerate(rows.tolist()):
        x = found["x"][place]
        if data.workload.kind == "arrays":
            assert x.shape == data.workload.shape
            assert x.dtype == data.workload.dtype
            assert x.tobytes() == data.values[row].tobytes()
        else:
            assert (x if isinstance(x, bytes) else x.tobytes()) == data.row(row).tobytes()


def test_they_are_made_once_and_alike_every_time(cache, tmp_path):
    workload = scaled("W2", SCALE)
    data = make(workload, cache)
    written = (data.folder / "values.raw").stat().st_mtime_ns
    assert (make(workload, cache).folder / "values.raw").stat().st_mtime_ns == written
    assert make(workload, tmp_path).dataset.fingerprint == data.dataset.fingerprint


def test_what_was_left_unfinished_is_made_anew(cache, tmp_path):
    workload = scaled("W3", SCALE)
    data = make(workload, tmp_path)
    (data.folder / "done.json").unlink()
    (data.folder / "values.raw").write_bytes(b"half")
    assert make(workload, tmp_path).values.shape == (64, 2048)


def test_values_are_spread_as_they_should_be(cache):
    floats = make(scaled("W2", SCALE), cache).values
    assert 0 <= floats.min() < 0.01
    assert 0.99 < floats.max() < 1
    assert 0.48 < floats.mean() < 0.52
    lengths = np.diff(make(scaled("W6", 0.01), cache).offsets)
    assert 1 <= lengths.min() <= 5
    assert 110 < lengths.mean() < 130
    assert lengths.max() <= bench_data.LONGEST


def test_images_are_jpegs_of_their_own(cache):
    data = make(scaled("W5", SCALE), cache)
    shown = [np.asarray(Image.open(io.BytesIO(data.row(row).tobytes()))) for row in (0, 1, 255)]
    assert {image.shape for image in shown} == {(256, 256, 3)}
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 20
    assert 8_000 < np.diff(data.offsets).mean() < 40_000


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_data.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="give another folder with --cache"):
        make(scaled("W1"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_lies_where_the_system_wants_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(bench_data.default_cache()) == "/caches/minibatch-timeline/bench"

"""What holds for every format (a table of all of them), and how a source's format is found."""

import sys
from pathlib import Path

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import FORMATS, Options, open_source
from tests.tools.binary_samples import BINARY_SOURCES
from tests.tools.samples import EVERY_SOURCE, NEED_OPTIONS, bundled, converted, folder_of_images, rows_of, run


def test_every_format_of_the_table_is_tested(tmp_path):
    tested = set()
    for write in [*EVERY_SOURCE, *BINARY_SOURCES]:  # the latter in test_binary_sources.py
        source = write(tmp_path)
        tested |= {format_.name for format_ in FORMATS if format_.recognises(source)}
    assert tested | NEED_OPTIONS == {format_.name for format_ in FORMATS}


@pytest.mark.parametrize("write", EVERY_SOURCE)
def test_a_source_says_what_it_is_and_how_many_rows_it_has(write, tmp_path):
    source = open_source(write(tmp_path))
    rows = sum(len(next(iter(piece.values()))) for piece in source.batches())
    assert source.rows == rows > 0
    assert "\n" not in source.describe()
    fields = next(iter(source.batches()))
    assert set(source.metadata) <= set(fields)


@pytest.mark.parametrize("write", EVERY_SOURCE)
def test_a_source_gives_the_same_rows_each_time_and_a_data_set_of_it_has_them(write, tmp_path):
    source = write(tmp_path)
    rows = rows_of(source)
    again = rows_of(source)
    dataset = converted(source, tmp_path / "out")
    read = dataset.read(np.arange(len(dataset)))
    assert rows.keys() == again.keys() == read.keys()
    for name, values in rows.items():
        assert np.array_equal(np.stack(values), np.stack(again[name]))
        assert np.array_equal(np.stack(values), np.stack(list(read[name])))


@pytest.mark.parametrize("write", EVERY_SOURCE)
def test_the_size_of_the_pieces_changes_nothing(write, tmp_path, monkeypatch):
    source = write(tmp_path)
    rows = rows_of(source)
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 40)
    for module in ("delimited", "images"):
        monkeypatch.setattr(f"minibatch.tools.sources.{module}.PIECE_BYTES", 40)
    pieces = list(open_source(source).batches())
    assert len(pieces) > 1 or source.startswith("sklearn:") or source.endswith((".parquet", ".csv"))
    for name, values in rows_of(source).items():
        assert np.array_equal(np.stack(values), np.stack(rows[name]))


@pytest.mark.parametrize("name", ["file.xyz", "file", "noted.xml.gz"])
def test_an_unknown_format_is_refused_with_a_list_of_the_known_ones(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"no known format.*FILE\.npz \(NumPy\).*sklearn:digits"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.npy", "a.csv", "a.parquet", "a.tar", "folder", "folder/"])
def test_a_source_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        open_source(f"{tmp_path}/{name}")


@pytest.mark.parametrize("options", [Options(subset="train"), Options(decode=True)])
def test_an_option_that_means_nothing_to_a_format_is_refused(options, tmp_path):
    source = tmp_path / "a.npy"
    np.save(source, np.arange(3))
    with pytest.raises(ValueError, match=r"--(subset|decode) means nothing to the NumPy source"):
        open_source(str(source), options)


@pytest.mark.parametrize(("library", "write"), [("PIL", folder_of_images), ("sklearn", bundled)])
def test_a_library_that_is_not_installed_is_named_with_the_pip_command(library, write, tmp_path, monkeypatch):
    source = write(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 1
    assert f"needs '{library}', which is not installed" in result.stderr
    assert 'pip install "minibatch-timeline[convert]"' in result.stderr


def test_a_folder_is_one_of_images_whatever_its_name(tmp_path):
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        open_source(str(tmp_path / "table.csv"))


def test_a_source_is_recognised_by_its_suffix_in_any_case(tmp_path):
    path = Path(tmp_path, "A.NPY")
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    assert open_source(str(path)).rows == 3

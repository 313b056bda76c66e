"""What holds for every binary format: the same rows however they are cut or shared out, and equal in the data set."""

import os
import pickle

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.ragged import Ragged
from minibatch.tools.sources import FORMATS, open_source
from tests.tools.binary_samples import BINARY_SOURCES
from tests.tools.samples import converted, rows_of


def listed(value):
    """A value as plain Python: lists, numbers, text, bytes."""
    if isinstance(value, Ragged):
        return [listed(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def plain_rows(source):
    return {name: [listed(value) for value in values] for name, values in rows_of(source).items()}


@pytest.mark.parametrize("write", BINARY_SOURCES)
def test_a_source_says_what_it_is_and_how_many_rows_it_has(write, tmp_path):
    source = open_source(write(tmp_path))
    rows = sum(len(next(iter(piece.values()))) for piece in source.batches())
    assert rows >= 3
    assert source.rows in (None, rows)
    assert "\n" not in source.describe()
    assert set(source.metadata) <= set(next(iter(source.batches())))


@pytest.mark.parametrize("write", BINARY_SOURCES)
def test_a_data_set_of_a_source_has_its_rows_and_notes(write, tmp_path):
    source = write(tmp_path)
    rows = plain_rows(source)
    dataset = converted(source, tmp_path / "out", "--chunk-rows", 2)
    read = dataset.read(np.arange(len(dataset)))
    assert {name: [listed(value) for value in values] for name, values in read.items()} == rows
    for name, notes in open_source(source).metadata.items():
        assert dataset.fields[name].metadata == notes


@pytest.mark.parametrize("write", BINARY_SOURCES)
def test_the_size_of_the_pieces_changes_nothing(write, tmp_path, monkeypatch):
    source = write(tmp_path)
    rows = plain_rows(source)
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 4)
    assert len(list(open_source(source).batches())) > 1
    assert plain_rows(source) == rows


@pytest.mark.parametrize("write", BINARY_SOURCES)
def test_the_parts_of_a_source_give_its_rows_in_order_in_other_processes_too(write, tmp_path, monkeypatch):
    source = write(tmp_path)
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 4)
    whole = open_source(source)
    parts = [pickle.loads(pickle.dumps(part)) for part in minibatch.tools.sources.units_of(whole)]
    joined: dict = {}
    for part in parts:
        for piece in part.batches():
            for name, values in piece.items():
                joined.setdefault(name, []).extend(listed(value) for value in values)
    assert joined == plain_rows(source)


@pytest.mark.parametrize("write", BINARY_SOURCES)
def test_every_sample_is_of_one_format_of_the_table_alone(write, tmp_path):
    source = write(tmp_path)
    found = [format_.name for format_ in FORMATS if format_.recognises(source)]
    assert found[-1] == "images" or "images" not in found  # takes what is left
    found = [name for name in found if name != "images"]
    assert found == ["Hugging Face", "Arrow"] if "state.json" in contents_of(source) else len(found) == 1


def contents_of(source):
    return os.listdir(source) if os.path.isdir(source) else []

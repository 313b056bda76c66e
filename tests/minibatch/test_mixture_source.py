"""A source over a mixture: any cut, rank or restore shows the same samples, and each says where it is from."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibatch import DatasetWriter, MinibatchSource
from minibatch.errors import CheckpointError
from minibatch.length_groups import LengthGroups
from minibatch.mixture import Mixture
from minibatch.order import Window

ROWS = {"wiki": 50, "code": 20, "news": 9}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mixture")
    for number, (name, rows) in enumerate(ROWS.items()):
        with DatasetWriter(root / name, chunk_rows=4, shard_rows=12) as writer:
            writer.write({"x": np.arange(rows) + 1000 * number, "text": [f"{name} {i}" for i in range(rows)],
                          "tokens": [list(range((7 * i) % 5 + 1)) for i in range(rows)]})  # fmt: skip
    return {name: root / name for name in ROWS}


def mixture(folders: dict[str, Path], **others: Any) -> Mixture:
    weights = {"wiki": 3, "code": 2, "news": 1}
    stages = [(40, {"wiki": 1, "code": 1, "news": 2})]
    return Mixture(folders, **{"weights": weights, "stages": stages, "max_sweeps": {"news": 3}, **others})


def source_of(folders: dict[str, Path], **arguments: Any) -> MinibatchSource:
    return MinibatchSource(mixture(folders), **{"seed": 7, "sequences": "rows", **arguments})


@pytest.mark.parametrize("shuffle", ["full", Window(rows=8), None, LengthGroups(rows=10, group=5)])
def test_any_cut_any_part_and_any_restore_show_the_same_axis(folders: dict[str, Path], shuffle: Any) -> None:
    with source_of(folders, shuffle=shuffle) as source:
        whole = source.next_minibatch(200)
        expected = whole["text"].tolist()
        assert expected == [f"{name} {row}" for name, row in map(source.order.at, range(200))]
        for start in (0, 13, 40, 55):
            source.seek(start)
            state = json.loads(json.dumps(source.get_checkpoint_state()))
            cut = [source.next_minibatch(k)["text"].tolist() for k in (1, 7, 30)]
            assert [text for piece in cut for text in piece] == expected[start : start + 38]
            with source_of(folders, shuffle=shuffle) as other:
                other.restore_from_checkpoint(state)
                parts: list[str] = []
                for i in range(3):
                    other.seek(start)
                    parts += other.next_minibatch(38, 3, i)["text"].tolist()
                assert parts == expected[start : start + 38]


def test_every_sample_says_which_source_it_is_from(folders: dict[str, Path]) -> None:
    with source_of(folders) as source:
        batch = source.next_minibatch(36)
        names = source.order.mixture.names
        found = [names[i] for i in source.order.source_of(batch.rows)]
        assert found == [text.split()[0] for text in batch["text"]]
        assert Counter(found) == {"wiki": 18, "code": 12, "news": 6}
        assert [source.when(int(row), sweep=0) for row in batch.rows] == list(range(36))
        counts = source.order.counts_before(36)
        assert counts == Counter(found)


def test_at_and_when_are_those_of_the_order(folders: dict[str, Path]) -> None:
    with source_of(folders) as source:
        rows = source.at(100, count=60)
        seen = Counter(source.at(0, count=100).tolist())
        for time, row in enumerate(rows.tolist(), start=100):
            assert source.when(row, sweep=seen[row]) == time
            seen[row] += 1


def test_the_axis_ends_where_all_sources_are_out(folders: dict[str, Path]) -> None:
    capped = mixture(folders, max_sweeps={"wiki": 1, "code": 2, "news": 3})
    with MinibatchSource(capped, seed=7, sequences="rows") as source:
        texts = [text for batch in source.minibatches(16) for text in batch["text"].tolist()]
    assert Counter(texts) == {
        f"{name} {row}": sweeps for name, sweeps in (("wiki", 1), ("code", 2), ("news", 3)) for row in range(ROWS[name])
    }


def test_a_state_of_another_mixture_is_refused(folders: dict[str, Path]) -> None:
    with source_of(folders) as source:
        source.next_minibatch(5)
        state = source.get_checkpoint_state()
    for changed in ({"weights": {"wiki": 3, "code": 2, "news": 2}}, {"max_sweeps": {}}, {"stages": []}):
        other = MinibatchSource(mixture(folders, **changed), seed=7, sequences="rows")
        with pytest.raises(CheckpointError, match="made with another order"):
            other.restore_from_checkpoint(state)
        other.restore_from_checkpoint(state, override=["order"])
        assert other.nominal_time == 5
        other.close()


def test_a_source_over_a_mixture_can_be_copied_into_another_process(folders: dict[str, Path]) -> None:
    with source_of(folders) as source:
        source.next_minibatch(37)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.next_minibatch(20)["text"].tolist() == source.next_minibatch(20)["text"].tolist()


def test_whole_sequences_of_a_mixture_come_in_its_order(folders: dict[str, Path]) -> None:
    with source_of(folders) as rows, source_of(folders, sequences="whole") as whole:
        expected = rows.next_minibatch(40)["text"].tolist()
        shown: list[str] = []
        while len(shown) < 40:
            batch = whole.next_minibatch(16)
            assert batch["tokens"].lengths.sum() <= 16
            shown += batch["text"].tolist()
        assert shown[:40] == expected


@pytest.mark.parametrize("fields", [None, ["tokens"], ["words"], ["x"]])
def test_time_counts_the_same_lists_whatever_fields_are_picked(tmp_path, fields):
    with DatasetWriter(tmp_path / "data") as writer:
        lists = [np.arange(1 + i % 4) for i in range(12)]
        writer.write({"x": np.arange(12), "tokens": lists, "words": [each[:1] for each in lists]})
    mixture = Mixture({"a": tmp_path / "data"}, weights={"a": 1})
    source, whole = MinibatchSource(mixture, seed=1, fields=fields), MinibatchSource(mixture, seed=1)
    assert source.next_minibatch(5).rows.tolist() == whole.next_minibatch(5).rows.tolist()
    whole.restore_from_checkpoint(source.get_checkpoint_state())
    assert source.next_minibatch(5).fields == tuple(fields or ("x", "tokens", "words"))


def test_behind_the_end_of_a_mixture_there_is_no_neighbourhood(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"x": np.arange(10.0, dtype=np.float32), "label": np.arange(10) % 2})

    def mixes(fields, draws):
        return fields

    mixes.neighbourhood = 4
    source = MinibatchSource(
        Mixture({"a": tmp_path / "data"}, weights={"a": 1}, max_sweeps={"a": 1}), transforms=[mixes]
    )
    source.seek(15)
    assert not source.next_minibatch(2)

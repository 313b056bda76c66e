"""Who was in a step: the rows that the run really read, their shards, holes, sequences; and the inverse."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import Dataset, DatasetWriter, MinibatchSource, views
from minibatch.errors import CheckpointError
from minibatch.timeline import SkipRows
from minibatch.train import Term, Trainer, read_ledger
from minibatch.train.skips import Skip
from minibatch.train.travel import Past, replay, when_seen, who
from minibatch.train.travel.who import locate
from tests.train.small import ROWS
from tests.train.travel.runs import STEPS, digits, hand_made, made, resumed


def watched(path, **options):
    """A run, and the rows and times of every step as its Trainer saw them."""
    seen = []

    def watching(data, folder, **more):
        trainer = made(data, folder, **more)
        add = trainer.gradient.add

        def noting(parts, *, on_host):
            seen.append([(part.batch.rows.tolist(), part.batch.times.tolist()) for part in parts])
            return add(parts, on_host=on_host)

        trainer.gradient.add = noting
        return trainer

    past = hand_made(path, trainer=watching, **options)
    return past, list(seen)


@pytest.mark.parametrize("source", [{}, {"shuffle": None}, {"skip": [(13, 31), SkipRows([2, 40])]}])
def test_the_rows_are_those_that_the_run_read(source, tmp_path):
    past, seen = watched(tmp_path, source=source)
    found = list(who(past, 1, STEPS + 1))
    assert [each.line.step for each in found] == list(range(1, STEPS + 1))
    present = [each for each in found if each.present.any()]
    for each, ((rows, times),) in zip(present, [one for one in seen if one[0][0]], strict=True):
        assert each.rows[each.present].tolist() == rows
        assert each.times[each.present].tolist() == times
        assert each.present.sum() == each.line.samples
        assert each.sweeps.tolist() == [time // ROWS for time in each.times]


def test_holes_say_why_they_are_holes(tmp_path):
    past = hand_made(tmp_path, source={"skip": [(13, 16), SkipRows([7])]})
    reasons = {}
    for each in who(past, 1, 7):
        for time, row, why in zip(each.times.tolist(), each.rows.tolist(), each.left_out, strict=True):
            reasons[time] = why
            assert (why == "skipped row") == (row == 7)
    assert {time for time, why in reasons.items() if why == "skipped time"} == {13, 14, 15} - {
        time for time, why in reasons.items() if why == "skipped row"
    }


def test_what_the_run_itself_leaves_out_is_told_apart(tmp_path):
    past = hand_made(tmp_path, skips=[Skip(start=20, stop=30, why="loss 81 in step 3")])
    left = {
        time
        for each in who(past, 1, STEPS + 1)
        for time, why in zip(each.times.tolist(), each.left_out, strict=True)
        if why == "skipped by the run"
    }
    assert left == set(range(20, 30))
    row = next(iter(who(past, 3))).rows[5]
    assert next(iter(when_seen(past, int(row)))).left_out == "skipped by the run"


def test_what_a_later_resume_leaves_out_was_not_left_out_before_it(tmp_path):
    digits(tmp_path / "run", max_samples=160, keep_last=1)
    past = resumed(tmp_path / "run", max_samples=320, skips=[Skip(start=20, stop=30), Skip(start=200, stop=210)])
    for saved in past.checkpoints()[:-1]:
        shutil.rmtree(saved.path)
    left = [
        time
        for each in who(past, 1, 21)
        for time, why in zip(each.times.tolist(), each.left_out, strict=True)
        if why == "skipped by the run"
    ]
    assert left == list(range(200, 210))
    assert replay(past, 2).exact
    assert replay(past, 13).exact
    rows = {each.line.step: each.rows.tolist() for each in who(past, 1, 21)}
    assert next(when_seen(past, rows[2][5])).left_out == ""
    assert next(when_seen(past, rows[13][9])).left_out == "skipped by the run"


def test_no_checkpoint_is_needed(tmp_path):
    past = hand_made(tmp_path)
    before = [each.rows.tolist() for each in who(past, 1, STEPS + 1)]
    for saved in past.checkpoints():
        for file in saved.path.iterdir():
            file.unlink()
    assert [each.rows.tolist() for each in who(past, 1, STEPS + 1)] == before


def test_shards_and_numbers_in_them_are_where_the_rows_lie(tmp_path):
    past = hand_made(tmp_path)
    dataset = Dataset.open(tmp_path / "data")
    firsts = dict(zip([s.file for s in dataset.manifest.shards], [0, 20, 40], strict=True))
    for each in who(past, 3, 6):
        rows = [firsts[shard] + place for shard, place in zip(each.shards, each.places.tolist(), strict=True)]
        assert rows == each.rows.tolist()


def test_rows_of_views_are_located_in_the_files_they_come_from(tmp_path):
    sets = []
    for name in "ab":
        with DatasetWriter(tmp_path / name, shard_rows=4, chunk_rows=2) as writer:
            writer.write({"x": np.arange(10)})
        sets.append(Dataset.open(tmp_path / name))
    both = views.concatenate(sets)
    picked = views.subset(both, [13, 2, 5])
    for dataset in (both, picked):
        shards, places = locate(dataset, np.arange(len(dataset)))
        for row, shard, place in zip(range(len(dataset)), shards, places.tolist(), strict=True):
            folder = tmp_path / shard.split("/")[-2]
            files = [s.file for s in Dataset.open(folder).manifest.shards]
            assert dataset.read([row])["x"][0] == files.index(shard.split("/")[-1]) * 4 + place


@pytest.mark.parametrize("source", [{}, {"skip": [(13, 31), SkipRows([11])]}])
def test_the_steps_of_a_row_are_those_that_had_it(source, tmp_path):
    past = hand_made(tmp_path, source=source)
    steps = list(who(past, 1, STEPS + 1))
    for row in (0, 11, 52):
        expected = [
            (time, each.line.step, why)
            for each in steps
            for r, time, why in zip(each.rows.tolist(), each.times.tolist(), each.left_out, strict=True)
            if r == row
        ]
        assert [(each.time, each.step, each.left_out) for each in when_seen(past, row)] == expected
        assert expected


def test_other_data_are_refused(tmp_path):
    past = hand_made(tmp_path)
    other = Past(past.folder, make=partial(made, past.make.args[0], source={"seed": 6}))
    with pytest.raises(CheckpointError, match=r"read other data: seed 5; .* has seed 6"):
        list(who(other, 1))
    with pytest.raises(CheckpointError, match="read other data"):
        list(when_seen(other, 1))


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))


def sequence_run(path, size, **source):
    """A run over sequences of 1 to 7 tokens; the model is a scale, the loss the tokens times it."""
    data = path / "data"
    with DatasetWriter(data, shard_rows=8, chunk_rows=4) as writer:
        writer.write({"tokens": [np.full(1 + i % 7, float(i)) for i in range(30)]})

    def outputs(model, batch):
        return batch["tokens"].reshape(len(batch.rows), -1) * model.scale

    def make(folder):
        model = Mean()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        opened = MinibatchSource(data, seed=3, **source)
        return Trainer(model, Term("sum", lambda outputs, batch: outputs), optimizer, opened, size, None, outputs,
                       folder=folder, log_every=1, announce=lambda text: None)  # fmt: skip

    with make(path / "run") as trainer, trainer.source:
        for _ in range(12):
            trainer.train_minibatch()
    return Past(path / "run", make=make), data


def test_whole_sequences_come_with_their_elements(tmp_path):
    past, data = sequence_run(tmp_path, 20)
    with MinibatchSource(data, seed=3) as source:
        for each in who(past, 1, 13):
            batch = source.next_minibatch(20)
            assert each.rows.tolist() == batch.rows.tolist()
            assert each.times.tolist() == batch.times.tolist()
            assert each.elements.tolist() == batch["tokens"].lengths.tolist()
            assert each.elements.sum() == each.line.samples
    (first, *_) = when_seen(past, 5)
    (step,) = who(past, first.step)
    assert 5 in step.rows


def test_packed_sequences_are_in_every_step_that_has_a_token_of_them(tmp_path):
    past, data = sequence_run(tmp_path, 8, sequences="packed", block=4)
    having = {}
    with MinibatchSource(data, seed=3, sequences="packed", block=4) as source:
        for each in who(past, 1, 13):
            batch = source.next_minibatch(8)
            assert each.rows.tolist() == batch.rows.tolist()
            assert each.elements.sum() == 8
            assert (each.elements > 0).all()
            for row in each.rows.tolist():
                having.setdefault(row, []).append(each.line.step)
    for row, steps in having.items():
        assert [each.step for each in when_seen(past, row)] == steps
    assert any(len(steps) > 1 for steps in having.values())


def test_a_ledger_of_a_step_that_is_not_written_yet_is_an_error(tmp_path):
    past = hand_made(tmp_path)
    with pytest.raises(ValueError, match=f"has no step 41: it has the steps 1 to {STEPS}"):
        list(who(past, 41))
    assert [each.line.step for each in who(past, 39, 90)] == [39, 40]
    assert len(read_ledger(past.folder)) == STEPS

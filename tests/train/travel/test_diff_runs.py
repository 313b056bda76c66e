"""Where two runs part: nowhere, at a rate, at a seed, at one value of the data; in which step and which tensor."""

import shutil

import pytest

from minibatch.train.running import run_recipe
from minibatch.train.travel import Past, diff_runs
from tests.train.small import fields, write
from tests.train.travel.runs import digits, files, hand_made

BITS = {"promise": "bits", "leaf_size": 4, "microbatch_size": None}


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return hand_made(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("digits") / "run")


def test_a_run_made_twice_is_the_same(past, tmp_path):
    found = diff_runs(past, hand_made(tmp_path))
    assert not found.any
    assert found.steps == (40, 40)
    assert "checkpoints at nominal time 360" in found.where


def test_a_rate_shows_in_the_line_and_in_the_weights_after_the_step(past, tmp_path):
    found = diff_runs(past, hand_made(tmp_path, schedules=None))
    assert found.any
    assert (found.first, set(found.differences)) == (1, {"lr"})
    assert found.where == "parameters after step 1"
    assert found.tensors[0].name == "body.layers.1.weight"


def test_one_value_of_the_data_shows_as_the_gradient_of_its_step(past, tmp_path):
    x = fields()["x"].copy()
    x[29] *= 1 + 1e-9  # all of it: dropout hides some
    other = hand_made(tmp_path, data=write(tmp_path / "data", x=x))
    found = diff_runs(past, other)
    (first,) = {step for step in [found.first] if step}
    assert 29 in _rows(past, first)
    assert all(29 not in _rows(past, step) for step in range(1, first))
    assert found.where in (f"gradient of step {first}", f"parameters after step {first}")
    assert found.tensors[0].relative < 1e-6


def _rows(past, step):
    from minibatch.train.travel import who

    return next(iter(who(past, step))).rows.tolist()


def test_other_first_weights_show_before_the_first_step(recipe, tmp_path):
    found = diff_runs(recipe, digits(tmp_path / "b", data=recipe.folder / "data", seed=8))
    assert found.first == 1
    assert found.where == "parameters before step 1"
    assert found.tensors[0].name == "layers.0.weight"
    assert any(line == "seed: 7 → 8" for line in found.configuration)


def test_a_microbatch_changes_the_configuration_and_under_bits_nothing_else(tmp_path):
    one = hand_made(tmp_path / "a", **BITS)
    two = hand_made(tmp_path / "b", data=tmp_path / "a" / "data", **{**BITS, "microbatch_size": 5})
    assert not diff_runs(one, two).any


def test_configurations_are_compared_by_name(recipe, tmp_path):
    found = diff_runs(recipe, digits(tmp_path / "b", data=recipe.folder / "data", log_every=20))
    assert found.configuration == ("log_every: 10 → 20",)
    assert not found.any
    assert [a.nominal_time for a, _ in found.validations] == [320, 640]
    assert all(dict(a) == dict(b) for a, b in found.validations)


def test_a_longer_run_differs_by_what_it_has_more(recipe, tmp_path):
    shutil.copytree(recipe.folder, tmp_path / "b", ignore=shutil.ignore_patterns(".lock"))
    # The schedule of the recipe ends with max_samples, so that a longer run of it is another one from the beginning.
    longer = Past(tmp_path / "b")
    (longer.folder / "ledger.jsonl").write_bytes(
        b"".join((longer.folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)[:33])
    )
    found = diff_runs(recipe, longer)
    assert (found.first, found.steps, found.any) == (None, (40, 33), True)
    assert not found.tensors


def test_without_replaying_checkpoints_are_compared(recipe, tmp_path):
    other = digits(tmp_path / "b", data=recipe.folder / "data", learning_rate=0.1)
    found = diff_runs(recipe, other, replay=False)
    assert (found.first, found.where) == (2, "checkpoints at nominal time 160")
    assert diff_runs(recipe, other).where == "parameters after step 2"  # the warm-up begins with a rate of 0
    assert found.tensors


def test_what_cannot_be_run_again_is_said_and_checkpoints_are_compared(past, tmp_path):
    other = hand_made(tmp_path, schedules=None)
    found = diff_runs(Past(past.folder), Past(other.folder))
    assert found.where == "checkpoints at nominal time 108"
    assert found.first == 1


def test_comparing_changes_nothing(recipe, tmp_path):
    other = digits(tmp_path / "b", data=recipe.folder / "data", learning_rate=0.1)
    before = files(recipe.folder), files(other.folder)
    diff_runs(recipe, other)
    assert (files(recipe.folder), files(other.folder)) == before


def test_a_run_that_was_killed_and_resumed_is_the_one_that_was_not(recipe, tmp_path):
    out = tmp_path / "b"
    options = {"max_samples": 640, "minibatch_size": 16, "save_every": 160, "validate_every": 320, "log_every": 10}

    def stop(trainer, result):
        return "enough" if result.step == 23 else None

    run_recipe("demo", out, options={**options, "keep_last": None}, data=recipe.folder / "data", callbacks=[stop],
               say=lambda text: None)  # fmt: skip
    run_recipe("demo", out, options={}, data=recipe.folder / "data", resume=True, say=lambda text: None)
    found = diff_runs(recipe, Past(out, data=recipe.folder / "data"))
    assert not found.any
    assert found.configuration == ()

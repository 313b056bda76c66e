"""Verifying a resume: silent where all bits are equal, and precise where one is not."""

import json

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint
from minibatch.train.running import run_recipe
from minibatch.train.travel import Past, verify_resume
from tests.train.small import TwoHeads
from tests.train.travel.runs import digits, files, hand_made, resumed, three_pieces

BITS = {"promise": "bits", "leaf_size": 4, "microbatch_size": None}


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return hand_made(tmp_path_factory.mktemp("verify"))


@pytest.fixture(scope="module")
def in_pieces(tmp_path_factory):
    return three_pieces(tmp_path_factory.mktemp("pieces") / "run")


def test_a_run_repeats_itself_and_is_left_as_it_was(past):
    before = files(past.folder)
    found = verify_resume(past)
    *_, one, last = past.checkpoints()
    assert found.holds
    assert (found.began, found.target) == (one, last)
    assert found.steps == found.lines == last.step - one.step
    assert found.digests[0] == found.digests[1]
    assert set(found.drift.values()) == {0.0}
    assert files(past.folder) == before


@pytest.mark.parametrize("steps", [1, 7, 12, 13, 40, 1000])
def test_so_many_steps_are_run_again_at_least(past, steps):
    found = verify_resume(past, steps=steps)
    assert found.holds
    assert min(steps, found.target.step) <= found.steps
    assert found.began in past.checkpoints()


def test_an_older_checkpoint_can_be_chosen(past):
    saved = past.checkpoints()
    assert verify_resume(past, at=saved[2].step + 1).target == saved[2]
    with pytest.raises(CheckpointError, match="nothing to verify"):
        verify_resume(past, at=saved[1].step - 1)


def changed(past, path, change):
    """The run with one tensor of its last checkpoint changed."""
    last = past.checkpoints()[-1]
    content = checkpoint.read(last.path)
    model = {name: tensor.clone() for name, tensor in content.model.items()}
    change(model)
    checkpoint.write(last.path, checkpoint.Content(**{**vars(content), "model": model}))


def test_one_bit_of_one_tensor_is_found(tmp_path):
    past = hand_made(tmp_path)

    def change(model):
        bias = model["classes.layers.0.bias"].view(torch.int64)
        bias[1] ^= 1

    changed(past, tmp_path, change)
    found = verify_resume(past)
    assert not found.holds
    assert found.first is None  # the ledger is as it was
    (tensor,) = found.tensors
    assert (tensor.name, tensor.elements, tensor.index) == ("classes.layers.0.bias", 1, (1,))
    assert 0 < tensor.largest < 1e-15
    assert found.digests[0] != found.digests[1]


def test_the_first_step_that_differs_is_named(tmp_path):
    past = hand_made(tmp_path)
    path = past.folder / "ledger.jsonl"
    lines = path.read_text().splitlines()
    document = json.loads(lines[37])
    document["terms"]["fit"][0] *= 1 + 1e-15
    path.write_text("\n".join([*lines[:37], json.dumps(document), *lines[38:]]) + "\n")
    found = verify_resume(past)
    assert (found.first, set(found.differences), found.holds) == (38, {"fit.numerator"}, False)
    assert not found.tensors


def test_other_microbatches_keep_the_promise_to_rounding(past):
    found = verify_resume(past, microbatch_size=2)
    assert found.holds
    assert 0 < found.tolerance < 1e-10
    assert 0 < max(found.drift.values()) < found.tolerance
    strict = verify_resume(past, microbatch_size=2, tolerance=0.0)
    assert not strict.holds
    assert strict.first is not None
    names = [tensor.name for tensor in strict.tensors if ":" not in tensor.name]
    assert names == sorted(names, key=list(TwoHeads(dropout=0.3).state_dict()).index)  # and not by name
    assert names


def test_under_bits_other_microbatches_change_no_bit(tmp_path):
    past = hand_made(tmp_path, **BITS)
    for size in (None, 1, 5):
        found = verify_resume(past, microbatch_size=size)
        assert found.holds
        assert (found.tolerance, set(found.drift.values())) == (0.0, {0.0})


def test_a_run_of_a_recipe_is_verified_from_its_folder_alone(tmp_path):
    past = digits(tmp_path / "run")
    found = verify_resume(past.folder, microbatch_size=5)
    assert found.holds
    assert found.promise == "math"
    assert verify_resume(past.folder, steps=40).holds


def test_steps_before_a_resume_are_run_with_what_was_set_then(tmp_path):
    past = digits(tmp_path / "run", max_samples=480)
    run_recipe(
        "demo", past.folder, options={"max_samples": 800, "learning_rate": 0.01}, resume=True, say=lambda text: None
    )
    past = Past(past.folder)
    for at in (30, 40, 50):
        assert verify_resume(past, at=at).holds


@pytest.mark.parametrize("steps", [10, 20, 25, 30, 45, 50])
def test_steps_across_resumes_with_other_options_have_the_bits_of_then(in_pieces, steps):
    found = verify_resume(in_pieces, steps=steps)
    assert found.holds
    assert (found.target.step, found.steps, found.lines) == (50, 50, 50)


def test_across_resumes_other_microbatches_are_taken_in_every_piece(in_pieces):
    found = verify_resume(in_pieces, microbatch_size=3)
    assert found.holds
    assert all(share > 0 for share in found.drift.values())
    assert not verify_resume(in_pieces, microbatch_size=3, tolerance=0.0).holds


def test_checkpoints_between_two_resumes_are_begun_from(tmp_path):
    past = digits(tmp_path / "run", max_samples=320)
    resumed(past.folder, max_samples=480)
    past = resumed(past.folder, max_samples=800)
    for steps, began in ((5, 40), (15, 30), (25, 20), (35, 10), (50, 0)):
        found = verify_resume(past, steps=steps)
        assert (found.holds, found.began.step) == (True, began)


def test_without_a_checkpoint_there_is_nothing_to_verify(tmp_path):
    past = hand_made(tmp_path, steps=3)
    for saved in past.checkpoints()[1:]:
        (saved.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="nothing to verify"):
        verify_resume(past)

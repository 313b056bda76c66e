"""`minibatch blame`: the ranking on the screen, as JSON and as pictures."""

import json
import shutil

import pytest
from PIL import Image

from tests.tools.samples import run
from tests.train.travel.runs import digits


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("blame") / "run")


def ranking(past, *arguments):
    result = run("blame", past.folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_worst_samples_come_first_with_place_label_share_and_norm(past):
    result = run("blame", past.folder, 30, "--count", 4)
    assert result.exit_code == 0
    title, head, *lines = result.stdout.splitlines()
    assert title.startswith("step 30: nominal time [464, 480), 16 samples, loss ")
    assert head.split() == ["row", "shard", "index", "label", "adds", "to", "loss", "share", "gradient", "norm"]
    samples = ranking(past, 30)["samples"]
    for line, sample in zip(lines[:4], samples, strict=False):
        shown = line.replace(",", "").split()
        assert shown[0] == shown[2] == str(sample["row"])
        assert shown[3] == sample["label"]
        assert shown[-1] == f"{sample['gradient_norm']:.6g}"
    assert "12 samples more" in lines[4]
    assert "gradients vmap; their sum is that of the step" in lines[5]


def test_by_gradient_the_order_is_another(past):
    by_loss, by_gradient = ranking(past, 30)["samples"], ranking(past, 30, "--by", "gradient")["samples"]
    norms = [sample["gradient_norm"] for sample in by_gradient]
    assert norms == sorted(norms, reverse=True)
    assert sorted(sample["row"] for sample in by_loss) == sorted(sample["row"] for sample in by_gradient)


def test_of_several_steps_the_one_that_stands_out_is_taken(past):
    document = ranking(past, "10:41", "--no-gradients")
    assert document["step"] == document["spike"]["step"]
    assert document["gradients"] is None
    assert f"of step {document['step']} is " in run("blame", past.folder, "10:41", "--no-gradients").stdout


def test_images_are_drawn_on_a_sheet(past, tmp_path):
    result = run("blame", past.folder, 30, "--images", tmp_path / "worst.png")
    assert result.exit_code == 0
    assert "16 images in" in result.stderr
    with Image.open(tmp_path / "worst.png") as image:
        assert min(image.size) > 100


def test_a_step_that_did_not_come_out_as_in_the_ledger_is_exit_code_1(past, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(past.folder, copy, ignore=shutil.ignore_patterns(".lock"))
    text = (copy / "ledger.jsonl").read_text()
    (copy / "ledger.jsonl").write_text(text.replace(repr(past.ledger.line_at(25).grad_norm), "0.5"))
    for step in (25, 27):
        result = run("blame", copy, step, "--no-gradients")
        assert result.exit_code == 1
        assert "the step did not come out with the bits of the ledger" in result.stdout
        result = run("blame", copy, step, "--no-gradients", "--json")
        assert result.exit_code == 1
        assert not json.loads(result.stdout)["exact"]
    assert run("blame", copy, 24, "--no-gradients").exit_code == 0


def test_a_step_that_is_not_there_is_one_line(past):
    result = run("blame", past.folder, 77)
    assert result.exit_code == 1
    assert "has no step 77" in " ".join(result.stderr.split())

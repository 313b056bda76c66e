"""LeNet on IDX files and on the digits: learns, prints LossMonitor's lines, ends with the same bits when resumed."""

import json
import re

import pytest

from minibatch import Dataset, MinibatchSource
from minibatch.storage import MANIFEST
from minibatch.train import read_ledger
from minibatch.train.config import Prepared
from minibatch.train.recipes.lenet import DIGITS, held_out, lenet, shuffled
from minibatch.train.running import run_recipe
from tests.tools.raw_data import mnist_folder
from tests.tools.samples import run

STEP = re.compile(
    r"Epoch:\[ *(\d+)/ *(\d+)\], step:\[ *(\d+)/ *(\d+)\], loss:\[ *[\d.]+/ *[\d.]+\], time: *[\d.]+ ms, lr:0\.01000"
)
EPOCH = re.compile(r"Epoch time: [\d.]+ ms, per step time: [\d.]+ ms, avg loss: ([\d.]+)")


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """640 and 160 digits in the four IDX files."""
    return mnist_folder(tmp_path_factory.mktemp("raw") / "mnist", train=640, test=160)


@pytest.fixture(scope="module")
def trained(mnist, tmp_path_factory):
    """A finished run of six epochs on them, with what it printed."""
    out = tmp_path_factory.mktemp("lenet") / "run"
    result = run("train", "lenet", "--out", out, "--data", mnist, "--progress", "mindspore",
                 "--set", "rows=640", "--set", "epochs=6")  # fmt: skip
    assert result.exit_code == 0, result.output
    return out, result


def test_it_learns_the_digits_of_idx_files(trained):
    out, _ = trained
    validation = json.loads((out / "result.json").read_text())["validation"]
    assert validation["accuracy"] > 0.6, "by chance it would be 0.1"
    assert len(read_ledger(out)) == 6 * 20


def test_the_lines_are_mindspores(trained):
    _, result = trained
    lines = result.stdout.splitlines()
    steps = [tuple(map(int, found.groups())) for found in map(STEP.fullmatch, lines) if found]
    assert steps == [(epoch, 6, 20, 20) for epoch in range(6)]
    losses = [float(found[1]) for found in map(EPOCH.fullmatch, lines) if found]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert [bool(STEP.fullmatch(line)) for line in lines[:4]] == [True, False, True, False]


@pytest.mark.parametrize("promise", ["math", "bits"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(trained, promise, tmp_path):
    data = trained[0] / "data"
    options = {"rows": 640, "max_samples": 640, "promise": promise}
    quiet = {"data": data, "say": lambda text: None}
    whole = run_recipe("lenet", tmp_path / "whole", options=options, **quiet)
    cut = {"microbatch_size": 32} if promise == "bits" else {}
    stop = [lambda trainer, result: "a test" if result.step == 7 else None]
    stopped = run_recipe("lenet", tmp_path / "cut", options=options, callbacks=stop, **quiet)
    assert stopped.stopped == "a test"
    ended = run_recipe("lenet", tmp_path / "cut", options=cut, resume=True, **quiet)
    assert ended.parameters_digest == whole.parameters_digest
    assert ended.validation == whole.validation


def test_rows_are_compared_with_the_data(trained, tmp_path):
    result = run("train", "lenet", "--out", tmp_path, "--data", trained[0] / "data")
    assert result.exit_code == 1
    assert "have 640 rows, and epochs are counted as if they had 1,449: pass --set rows=640" in " ".join(
        result.stderr.split()
    )


def test_images_are_32_by_32_and_standardised_alike_from_bytes_and_from_fractions(trained, tmp_path):
    result = run("train", "lenet", "--out", tmp_path, "--max-samples", "32", "--quiet")
    assert result.exit_code == 0, result.output
    assert len(Dataset.open(tmp_path / "data" / "train")) == DIGITS
    for data, rows in ((trained[0] / "data", 640), (tmp_path / "data", DIGITS)):
        prepared = Prepared(train=data / "train", valid=data / "valid")
        with shuffled(prepared, 1, rows=rows) as train, held_out(prepared, 1) as valid:
            assert isinstance(train, MinibatchSource)
            for batch in (train.next_minibatch(50), valid.next_minibatch(50)):
                images = batch["image"]
                assert images.shape == (50, 32, 32)
                assert images.min() == pytest.approx(-0.1307 / 0.3081, abs=1e-4), "the paper is 0"
                assert images.max() == pytest.approx((1 - 0.1307) / 0.3081, abs=0.02), "the ink is 1"
    assert (tmp_path / "data" / "valid" / MANIFEST).exists()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        lenet(epochs=0)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        lenet(rows=0)

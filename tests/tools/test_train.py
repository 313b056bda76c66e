"""`minibatch train`: runs, resumes, is interrupted, and says clearly what it cannot do."""

import json
import signal
import subprocess
import sys
import time

import pytest

from minibatch.train import read_ledger
from tests.tools.samples import ROOT, run

SHORT = ("--max-samples", "640")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished short run and its folder of data."""
    out = tmp_path_factory.mktemp("train") / "run"
    result = run("train", "demo", "--out", out, *SHORT)
    assert result.exit_code == 0, result.output
    return out, result


def test_it_ends_with_a_table_and_the_files(digits):
    out, result = digits
    for word in ("steps", "10", "640", "accuracy", "parameters", "checkpoint"):
        assert word in result.stdout
    assert "samples  step" in result.stderr
    assert (out / "result.json").exists()
    assert len(read_ledger(out)) == 10


def test_with_json_the_result_is_one_document(digits):
    out, _ = digits
    result = run("train", "demo", "--out", out, "--resume", "--json", "--quiet")
    document = json.loads(result.stdout)
    assert (document["steps"], document["samples"]) == (10, 640)
    assert document["validation"]["accuracy"] > 0
    assert document["parameters_digest"] == json.loads((out / "result.json").read_text())["parameters_digest"]


def test_help_lists_the_options_and_exit_codes():
    shown = " ".join(run("train", "--help").stdout.split())
    for option in ("--out", "--resume", "--minibatch-size", "--microbatch-size", "--max-samples", "--seed", "--data"):
        assert option in shown
    for option in ("--set", "--print-config", "--progress", "--tensorboard", "--wandb"):
        assert option in shown
    assert "130 stopped by Ctrl-C; 143 stopped by SIGTERM" in shown


def test_what_is_given_twice_is_refused(tmp_path):
    result = run("train", "demo", "--out", tmp_path / "run", "--max-samples", "100", "--set", "max_samples=200")
    assert result.exit_code == 1
    assert result.stderr == "error: --max-samples 100 and --set max_samples=200: give one of them\n"
    assert not (tmp_path / "run").exists()


def test_a_size_that_follows_a_schedule_and_one_regularizer_are_set_by_hand(digits, tmp_path):
    out, _ = digits
    result = run(
        "train", "demo", "--out", tmp_path, *SHORT, "--data", out / "data", "--quiet",
        "--set", "minibatch_size=Steps((32, 64), borders=(320,))", "--set", "regularizers=WeightL2(coefficient=1e-4)",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = read_ledger(tmp_path)
    assert [line.samples for line in lines] == [32] * 10 + [64] * 5
    assert lines[0].regularizers["weight_l2"] > 0
    assert run("train", "demo", "--out", tmp_path, "--resume", "--data", out / "data").exit_code == 0


def test_progress_as_cuda_convnet2_prints_it_and_a_line_of_json_a_report(digits, tmp_path):
    out, _ = digits
    result = run(
        "train", "demo", "--out", tmp_path, *SHORT, "--data", out / "data", "--progress", "convnet",
        "--set", "validate_every=320", "--set", "log_every=5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count("Test output") == 2
    reports = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [report["t"] for report in reports if report["kind"] == "train"] == [320, 640]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digist", "--out", "{new}"), "no recipe 'digist'; did you mean digits?"),
        (("demo", "--out", "{run}"), "already holds a run (10 steps in its ledger): pass --resume"),
        (("demo", "--out", "{new}", "--resume"), "holds no run to resume"),
        (("demo", "--out", "{new}", "--minibatch-size", "0"), "minibatch_size must be at least 1, got 0"),
        (("demo", "--out", "{new}", "--microbatch-size", "-3"), "microbatch_size must be at least 1, got -3"),
        (("demo", "--out", "{new}", "--seed", "-1"), "seed must be at least 0, got -1"),
        (("demo", "--out", "{new}", "--max-samples", "0"), "max_samples must be at least 1, got 0"),
        (
            ("demo", "--out", "{run}", "--resume", "--seed", "8"),
            "holds a run with seed 7, which a resume cannot change (given: 8)",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(digits, tmp_path, arguments, message):
    out, _ = digits
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    result = run("train", *(argument.format(new=tmp_path / "new", run=out) for argument in arguments))
    assert result.exit_code == 1, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "new").exists()
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def test_another_cut_gives_the_same_digits_to_rounding(digits, tmp_path):
    out, _ = digits
    result = run(
        "train", "demo", "--out", tmp_path, *SHORT, "--microbatch-size", "13", "--data", out / "data", "--quiet"
    )
    assert result.exit_code == 0
    assert "samples  step" not in result.stderr
    for ours, theirs in zip(read_ledger(out), read_ledger(tmp_path), strict=True):
        assert theirs.total_loss == pytest.approx(ours.total_loss, rel=1e-12)


def test_curves_for_tensorboard_are_written_on_request(digits, tmp_path):
    out, _ = digits
    run("train", "demo", "--out", tmp_path, *SHORT, "--data", out / "data", "--tensorboard")
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(digits, tmp_path, number, name, code):
    out, _ = digits
    command = [
        sys.executable,
        "-m",
        "minibatch.tools.cli",
        "train",
        "demo",
        "--out",
        str(tmp_path),
        "--data",
        out / "data",
    ]
    with subprocess.Popen(
        [*command, "--max-samples", "100000000"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        ledger = tmp_path / "ledger.jsonl"
        for _ in range(600):
            if ledger.exists() and read_ledger(ledger):
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"stopped by {name} after step" in said
    assert f"minibatch train demo --out {tmp_path} --data {out / 'data'} --resume" in " ".join(said.split())
    assert "Traceback" not in said
    steps = read_ledger(ledger)[-1]
    saved = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert json.loads((saved / "state.json").read_text())["step"] == steps.step
    result = run("train", "demo", "--out", tmp_path, "--data", out / "data", "--resume",
                 "--max-samples", steps.t1 + 640)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"resumed after step {steps.step:,}" in result.stderr

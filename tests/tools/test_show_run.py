"""`minibatch show RUN`: state, values and curves of a run in the terminal, as JSON and as PNG; several are compared."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from minibatch.tools import run_files, show_run
from minibatch.tools.run_files import Checkpoint
from minibatch.train import read_ledger
from minibatch.train.lock import FolderLock
from minibatch.train.progress import JsonLines
from tests.tools.samples import ROOT, run
from tests.train.small import make_source, make_trainer, write


def trained(data, folder, samples=900, lr=0.02, **config):
    """A run in `folder` with everything that a run's folder can have."""
    folder.mkdir()
    document = {"recipe": "small", "seed": 5, "max_samples": 900, "learning_rate": lr, "options": {}, **config}
    (folder / "config.json").write_text(json.dumps(document))
    with (
        make_source(data) as source,
        make_trainer(source, lr=lr, folder=folder, validation=data, keep_last=2, log_every=10) as trainer,
    ):
        trainer.fit(
            max_samples=samples,
            validate_every=100,
            save_every=200,
            progress=JsonLines(folder / "metrics.jsonl"),
        )
    if samples == 900:
        (folder / "result.json").write_text(json.dumps({"step": 100, "nominal_time": 900}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run and one that was stopped in its middle, with another rate."""
    place = tmp_path_factory.mktemp("show_run")
    data = write(place / "data")
    return trained(data, place / "whole"), trained(data, place / "half", samples=450, lr=0.002)


def test_the_screen_says_what_it_is_how_far_it_is_and_what_it_has_reached(folders, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("show", folders[0])
    assert result.exit_code == 0
    shown = result.stdout
    assert re.search(r"small, seed 5: finished, [\d,]+ samples/s", shown)
    assert "step 100 · 900 of 900 samples · 16.98 sweeps of 53 rows" in shown
    for title in (
        "total loss",
        "loss: class",
        "loss: fit",
        "accuracy on held-out data",
        "learning rate",
        "norm of the",
    ):
        assert title in shown
    assert "⠤ training ● held out" in shown
    assert re.search(r"^accuracy +0\.\d+ +0\.\d+ +[\d,]+ +0\.\d+ +[\d,]+", shown, re.MULTILINE)
    assert re.search(r"^t-000000000900 +900 +[\d.]+ kB", shown, re.MULTILINE)
    assert "9 validations, the last at 900 samples" in shown
    assert max(map(len, shown.splitlines()[1:])) <= 80


def test_a_run_that_is_given_twice_is_told_apart_by_number(folders):
    shown = run("show", folders[0], folders[0]).stdout
    assert "whole (1)" in shown
    assert "whole (2)" in shown
    assert "//" not in shown


def test_what_a_checkpoint_is_the_best_of_does_not_crowd_out_its_numbers(folders):
    checkpoints = [Checkpoint(nominal_time=t, name=f"t-{t:012}", bytes=123_456_789, complete=True) for t in (801, 900)]
    measured = {f"a quite long name {number}": number - 2.0 for number in range(4)}
    best = replace(run_files.read_run(folders[0]), checkpoints=checkpoints, validations=[(900, measured)])
    file = io.StringIO()
    show_run.print_checkpoints(best, Console(width=60, file=file))
    lines = file.getvalue().splitlines()
    assert lines[1].split() == ["checkpoint", "samples", "size"]
    assert lines[2].split()[:4] == ["t-000000000801", "801", "123.5", "MB"]
    assert lines[3].split()[:4] == ["t-000000000900", "900", "123.5", "MB"]
    assert "".join("".join(line.split()) for line in lines).count("aquitelongname3") == 2


def test_a_run_that_was_stopped_says_where(folders):
    assert "small, seed 5: stopped at 50 %" in run("show", folders[1]).stdout


def test_without_unicode_the_curves_are_ascii(folders):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    command = [sys.executable, "-m", "minibatch.tools.cli", "show", str(folders[0])]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert "?" not in shown
    assert "+-----" in shown
    assert "loss: class" in shown


def test_showing_a_run_does_not_wait_for_torch(folders):
    code = (
        "import sys; from minibatch.tools.cli import main\n"
        f"try: main(['show', {str(folders[0])!r}])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_json_has_the_curves_and_their_means_are_those_of_the_ledger(folders):
    found = json.loads(run("show", folders[0], "--json").stdout)
    ledger = read_ledger(folders[0])
    assert (found["step"], found["nominal_time"], found["rows"], found["state"]) == (100, 900, 53, "finished")
    assert found["sweeps"] == pytest.approx(900 / 53)
    curve = found["curves"]["losses"]["class"]
    present = [line for line in ledger if line.value("class") is not None]
    assert curve["t"] == [line.t1 for line in present]
    assert curve["mean"] == pytest.approx([line.value("class") for line in present], rel=1e-12)
    assert found["curves"]["losses"]["total_loss"]["mean"] == pytest.approx([line.total_loss for line in ledger])
    assert found["curves"]["learning_rates"][0]["mean"] == pytest.approx([line.lr[0] for line in ledger])
    assert [v["nominal_time"] for v in found["validations"]] == [108, 207, 306, 405, 504, 603, 702, 801, 900]
    values = [v["accuracy"] for v in found["validations"]]
    held_out = found["held_out"]["accuracy"]
    assert (held_out["last"], held_out["lowest"], held_out["highest"]) == (values[-1], min(values), max(values))
    assert [c["nominal_time"] for c in found["checkpoints"]] == [801, 900]
    assert all(c["complete"] and c["bytes"] > 1000 for c in found["checkpoints"])


def test_groups_of_steps_are_added_up_exactly(folders, monkeypatch):
    monkeypatch.setattr(run_files, "PLACES", 7)
    curve = run_files.read_run(folders[0]).losses["fit"]
    ledger = read_ledger(folders[0])
    groups = [ledger[place * 100 // 7 : (place + 1) * 100 // 7] for place in range(7)]
    assert list(curve.t) == [group[-1].t1 for group in groups]
    for place, group in enumerate(groups):
        pairs = [line.terms["fit"] for line in group]
        assert curve.mean[place] == pytest.approx(sum(p[0] for p in pairs) / sum(p[1] for p in pairs), rel=1e-12)
        assert (curve.low[place], curve.high[place]) == (
            min(line.value("fit") for line in group),
            max(line.value("fit") for line in group),
        )


def line(step, loss, finite="true"):
    return (
        f'{{"step": {step}, "t0": {64 * step - 64}, "t1": {64 * step}, "samples": 64, '
        f'"terms": {{"a": [{64 * loss}, 64.0]}}, "total_loss": {loss}, "grad_norm": 1.0, '
        f'"lr": [0.1], "finite": {finite}}}\n'
    )


def test_of_a_long_ledger_evenly_spread_stretches_are_read_and_its_end(tmp_path, monkeypatch):
    with open(tmp_path / "ledger.jsonl", "w") as file:
        file.writelines(
            line(step, 1000.0 / (step + 100), "false" if step % 7001 == 0 else "true") for step in range(1, 40_001)
        )
        file.write('{"step": 40001, "t0": 25')  # half written
    read = []
    real = run_files.parsed
    monkeypatch.setattr(run_files, "parsed", lambda content: read.append(len(content)) or real(content))
    found = run_files.read_run(tmp_path)
    assert sum(read) < 0.6 * (tmp_path / "ledger.jsonl").stat().st_size
    assert (found.step, found.nominal_time, found.nonfinite_steps) == (40_000, 64 * 40_000, 5)
    curve = found.losses["a"]
    assert len(curve.t) == run_files.PLACES
    assert curve.t[-1] == 64 * 40_000
    gaps = [later - earlier for earlier, later in zip(curve.t, curve.t[1:], strict=False)]
    assert max(gaps) < 1.5 * 64 * 40_000 / run_files.PLACES
    for t, mean, low, high in zip(curve.t, curve.mean, curve.low, curve.high, strict=True):
        assert low <= mean <= high
        assert low == pytest.approx(1000.0 / (t / 64 + 100), rel=1e-12)


def test_steps_that_were_not_finite_are_counted_and_not_drawn(tmp_path):
    text = line(1, 2.0) + line(3, 1.0)
    bad = (
        line(2, 1.0, "false")
        .replace('"total_loss": 1.0', '"total_loss": "nan"')
        .replace("[64.0, 64.0]", '["inf", 64.0]')
    )
    (tmp_path / "ledger.jsonl").write_text(text + bad)
    found = run_files.read_run(tmp_path)
    assert found.nonfinite_steps == 1
    assert list(found.losses["a"].mean) == [2.0, 1.0]
    assert "1 step with a loss or gradient that was not finite" in run("show", tmp_path).stdout


def test_the_png_has_a_panel_for_everything_and_is_not_empty(folders, tmp_path):
    result = run("show", folders[0], "--png", tmp_path / "curves.png")
    assert f"6 panels in {tmp_path / 'curves.png'}" in result.stderr
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width == 1500
        assert image.height > 1000
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # training and held-out data


def test_two_runs_are_compared_with_what_differs_in_their_configuration(folders, tmp_path):
    result = run("show", *folders, "--png", tmp_path / "both.png")
    assert result.exit_code == 0
    shown = result.stdout
    assert re.search(r"^ +whole +half$", shown, re.MULTILINE)
    assert re.search(r"^learning_rate +0.02 +0.002$", shown, re.MULTILINE)
    assert re.search(r"^state +finished +stopped at 50 %$", shown, re.MULTILINE)
    assert "⠤ whole training ⠤ half training" in shown
    assert (tmp_path / "both.png").stat().st_size > 20_000
    found = json.loads(run("show", *folders, "--json").stdout)
    assert found["differences"] == {"learning_rate": [0.02, 0.002]}
    assert [one["step"] for one in found["runs"]] == [100, 50]


def test_a_run_that_goes_on_is_said_to_run_and_its_lock_is_left_alone(folders, tmp_path):
    lock = FolderLock(tmp_path)
    (tmp_path / "ledger.jsonl").write_text(line(1, 2.0))
    try:
        found = run_files.read_run(tmp_path)
        assert (found.process, found.state) == (os.getpid(), "running")
        assert f"running in process {os.getpid()}" in run("show", tmp_path).stdout
    finally:
        lock.release()
    if os.path.exists("/proc/locks"):
        assert run_files.read_run(tmp_path).process is None
    FolderLock(tmp_path).release()


def test_a_run_without_a_step_and_one_with_damaged_files_are_shown_too(tmp_path, folders):
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    assert "no steps yet" in run("show", tmp_path / "new").stdout
    (tmp_path / "new" / "config.json").write_text("{")
    (tmp_path / "new" / "ledger.jsonl").write_text("damaged\n" + line(1, 2.0) + "{}"[:1])
    assert "step 1 · 64 samples" in run("show", tmp_path / "new").stdout
    result = run("show", tmp_path / "new", tmp_path)
    assert result.exit_code == 1
    assert "holds no run: it has no ledger.jsonl" in result.stderr


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart(tmp_path, folders):
    made = run_files.read_run(folders[0])
    runs = [type(made)(**{**vars(made), "path": tmp_path / a / "run"}) for a in ("x", "y")]
    assert show_run.short_names(runs) == ["x/run", "y/run"]
    assert show_run.short_names(runs[:1]) == ["run"]


def test_a_wide_screen_has_three_panels_beside_each_other(folders, capsys):
    console = Console(width=150, force_terminal=False)
    show_run.print_curves([run_files.read_run(folders[0])], ["whole"], console)
    shown = capsys.readouterr().out
    assert re.search(r"loss: class.*loss: fit.*accuracy on held-out data", shown)
    assert max(map(len, shown.splitlines())) <= 150

"""Which configuration a step had: written down at every beginning and resume, and cut back where the run goes back."""

import json

import torch

from minibatch.train.folder import RunFolder, note_config, noted_configs
from minibatch.train.spikes import Detector, Spikes
from minibatch.train.travel import Past, replay, verify_resume
from tests.train.travel.runs import digits, files, resumed


def steps_of(folder):
    return [step for step, _ in noted_configs(folder)]


def test_only_a_resume_that_changes_something_adds_a_line(tmp_path):
    past = digits(tmp_path / "run", max_samples=320)
    before = files(past.folder)["configs.jsonl"]
    assert steps_of(past.folder) == [0]
    resumed(past.folder)
    assert files(past.folder)["configs.jsonl"] == before
    resumed(past.folder, max_samples=480)
    (_, first), (step, second) = noted_configs(past.folder)
    assert (step, first["max_samples"], second["max_samples"]) == (20, 320, 480)
    assert second == json.loads((past.folder / "config.json").read_text())


def test_a_run_resumed_from_an_older_checkpoint_forgets_what_was_noted_later(tmp_path):
    past = digits(tmp_path / "run", max_samples=320)
    past = resumed(past.folder, max_samples=480)
    for saved in past.checkpoints():
        if saved.step >= 20:
            (saved.path / "manifest.json").unlink()
    past = resumed(past.folder, max_samples=640)
    assert steps_of(past.folder) == [0, 10]
    for step in (5, 10, 11, 25, 40):
        assert replay(past, step).exact


def test_a_run_killed_before_its_first_step_after_a_resume_leaves_one_line_for_it(tmp_path):
    note_config(tmp_path, 0, {"a": 1})
    note_config(tmp_path, 7, {"a": 2})
    note_config(tmp_path, 7, {"a": 3})
    assert noted_configs(tmp_path)[-1] == (7, {"a": 3})
    with open(tmp_path / "configs.jsonl", "a") as file:
        file.write('{"step": 9, "conf')  # half a line, of a machine that lost power
    note_config(tmp_path, 9, {"a": 4})
    assert noted_configs(tmp_path)[-1] == (9, {"a": 4})


def test_going_back_behind_a_resume_keeps_the_configuration_of_the_process(tmp_path):
    for step, rate in ((0, 0.1), (8, 0.2)):
        note_config(tmp_path, step, {"lr": rate})
    folder = RunFolder(tmp_path, ledger=True, keep_last=None, announce=lambda text: None)
    folder.begin(5, 40)
    folder.close()
    assert noted_configs(tmp_path) == [(0, {"lr": 0.1}), (5, {"lr": 0.2})]


def test_steps_after_a_rollback_behind_a_resume_have_the_configuration_of_then(tmp_path, monkeypatch):
    run = tmp_path / "run"
    digits(run, max_samples=320)
    judged = []

    def judge(detector, value, ended=None):
        judged.append(value)
        return torch.tensor(len(judged) == 4)  # step 24, the first time

    monkeypatch.setattr(Detector, "judge", judge)
    resumed(run, max_samples=640, spikes=Spikes(action="rollback", rollback_steps=8, factor=1e9), learning_rate=0.3)
    monkeypatch.undo()
    assert steps_of(run) == [0, 10]
    past = Past(run)
    assert past.ledger.line_at(20).terms == {"class": (0.0, 0.0)}  # left out now, so it was run after the rollback
    for step in (10, 11, 18, 24, 26, 40):
        assert replay(past, step).exact
    assert verify_resume(past, steps=40).holds

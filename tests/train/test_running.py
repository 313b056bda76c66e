"""A recipe in a folder: begun, resumed, finished; and what its folder refuses."""

import json
import shutil

import pytest

from minibatch.errors import CheckpointError
from minibatch.train import FolderInUseError, read_ledger, recipes
from minibatch.train.lock import FolderLock
from minibatch.train.running import run_recipe

SHORT = {"max_samples": 1000}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of the digits, uninterrupted."""
    out = tmp_path_factory.mktemp("digits") / "run"
    said = []
    return out, run_recipe("digits", out, options=SHORT, say=said.append), said


def stop_at(step):
    return lambda trainer, result: "a test" if result.step == step else None


def test_a_finished_run_has_everything(finished):
    out, outcome, _ = finished
    assert {path.name for path in out.iterdir()} >= {
        "config.json", "ledger.jsonl", "validation.jsonl", "result.json", "checkpoints", "data",
    }  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    assert result["parameters_digest"] == outcome.parameters_digest
    assert result["validation"] == outcome.validation
    assert result["nominal_time"] == outcome.nominal_time == 1000
    assert result["options"]["max_samples"] == 1000
    assert outcome.stopped is None
    assert len(read_ledger(out)) == outcome.step == 16
    assert json.loads((out / "config.json").read_text())["recipe"] == "digits"


def test_a_run_that_was_stopped_ends_with_the_same_bits(finished, tmp_path):
    out, outcome, _ = finished
    options = {**SHORT}
    for step in (1, 7, 8):
        stopped = run_recipe(
            "digits", tmp_path / "run", options=options, data=out / "data", resume=step > 1, callbacks=[stop_at(step)],
            say=lambda text: None,
        )  # fmt: skip
        assert (stopped.stopped, stopped.step) == ("a test", step)
        assert not (tmp_path / "run" / "result.json").exists()
        options = {}  # a resumed run knows them
    ended = run_recipe("digits", tmp_path / "run", options={}, data=out / "data", resume=True, say=lambda text: None)
    assert ended.parameters_digest == outcome.parameters_digest
    assert (tmp_path / "run" / "result.json").read_bytes() == (out / "result.json").read_bytes()
    assert read_ledger(tmp_path / "run") == read_ledger(out)
    again = run_recipe("digits", tmp_path / "run", options={}, data=out / "data", resume=True, say=lambda text: None)
    assert again == ended
    assert (tmp_path / "run" / "result.json").read_bytes() == (out / "result.json").read_bytes()


def test_a_run_may_be_prolonged_and_cut_otherwise(finished, tmp_path):
    out, _, _ = finished
    run_recipe("digits", tmp_path, options=SHORT, data=out / "data", say=lambda text: None)
    said = []
    ended = run_recipe(
        "digits", tmp_path, options={"max_samples": 1500, "microbatch_size": 10}, data=out / "data", resume=True,
        say=said.append,
    )  # fmt: skip
    assert ended.nominal_time == 1500
    assert "changed since the checkpoint: microbatch_size: null → 10" in said
    assert "changed since the checkpoint: max_samples: 1000 → 1500" in said
    assert len([line for line in said if "max_samples" in line]) == 1, "told once"
    assert "resumed after step 16, at nominal time 1,000" in said


def test_a_folder_with_a_run_and_one_without_are_told_apart(finished, tmp_path):
    out, _, _ = finished
    with pytest.raises(CheckpointError, match=r"already holds a run \(16 steps in its ledger\): pass --resume"):
        run_recipe("digits", out, options=SHORT)
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        run_recipe("digits", tmp_path, options={}, resume=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        run_recipe("digits", tmp_path, options={}, resume=True)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "letters", "options": {}}))
    with pytest.raises(CheckpointError, match="a run of the recipe letters, not of digits"):
        run_recipe("digits", tmp_path, options={}, resume=True)


def test_two_processes_do_not_share_a_folder(finished):
    from minibatch.train.lock import FolderLock

    out, _, _ = finished
    lock = FolderLock(out)
    with pytest.raises(FolderInUseError, match="in use by"):
        run_recipe("digits", out, options={}, resume=True)
    lock.release()


def test_unknown_recipes_and_options_get_the_nearest_names():
    with pytest.raises(ValueError, match=r"no recipe 'digit'; did you mean digits\?"):
        recipes.find("digit")
    with pytest.raises(ValueError, match=r"no recipe 'xyz'; All recipes: digits"):
        recipes.find("xyz")
    with pytest.raises(ValueError, match=r"no option 'max_sample'; did you mean max_samples\?"):
        recipes.configure("digits", {"max_sample": 3})


def test_every_recipe_has_defaults_and_names_itself():
    for name in recipes.RECIPES:
        config = recipes.configure(name, {})
        assert config.recipe == name
        assert recipes.configure(name, dict(config.options)) == config or config.options


def test_a_run_that_is_already_further_is_left_as_it_is(finished, tmp_path):
    out, _, _ = finished
    shutil.copytree(out, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
    with pytest.raises(CheckpointError, match="stands at nominal time 1,000, beyond max_samples = 500"):
        run_recipe("digits", tmp_path / "run", options={"max_samples": 500}, resume=True, say=lambda text: None)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")} == before


def test_while_another_process_prepares_the_data_a_second_run_is_refused(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUseError, match="is in use by"):
        run_recipe("digits", tmp_path, options=SHORT, say=lambda text: None)
    lock.release()
    assert not (tmp_path / "data").exists()


def test_a_ledger_that_was_removed_is_missed(finished, tmp_path):
    out, _, _ = finished
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run" / "ledger.jsonl").unlink()
    said = []
    run_recipe("digits", tmp_path / "run", options={"max_samples": 1100}, resume=True, say=said.append)
    assert "the ledger has no lines of steps 1 to 16: it was removed, or the run kept none" in said

"""A recipe in a folder: begun, resumed, finished; and what its folder refuses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import FolderInUseError, parameters_digest, read_ledger, recipes
from minibatch.train.checkpoint import checkpoints_in, time_of
from minibatch.train.config import described
from minibatch.train.foreign import first_model
from minibatch.train.lock import FolderLock
from minibatch.train.running import config_for, load_config, merged, run_recipe
from minibatch.train.saved_model import load_model
from tests.train import tiny_recipe

SHORT = {"max_samples": 1000}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of the digits, uninterrupted."""
    out = tmp_path_factory.mktemp("digits") / "run"
    said = []
    return out, run_recipe("demo", out, options=SHORT, say=said.append), said


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
    assert json.loads((out / "config.json").read_text())["recipe"] == "demo"


def test_a_run_that_was_stopped_ends_with_the_same_bits(finished, tmp_path):
    out, outcome, _ = finished
    options = {**SHORT}
    for step in (1, 7, 8):
        stopped = run_recipe(
            "demo", tmp_path / "run", options=options, data=out / "data", resume=step > 1, callbacks=[stop_at(step)],
            say=lambda text: None,
        )  # fmt: skip
        assert (stopped.stopped, stopped.step) == ("a test", step)
        assert not (tmp_path / "run" / "result.json").exists()
        options = {}  # a resumed run knows them
    ended = run_recipe("demo", tmp_path / "run", options={}, data=out / "data", resume=True, say=lambda text: None)
    assert ended.parameters_digest == outcome.parameters_digest
    assert (tmp_path / "run" / "result.json").read_bytes() == (out / "result.json").read_bytes()
    assert read_ledger(tmp_path / "run") == read_ledger(out)
    again = run_recipe("demo", tmp_path / "run", options={}, data=out / "data", resume=True, say=lambda text: None)
    assert again == ended
    assert (tmp_path / "run" / "result.json").read_bytes() == (out / "result.json").read_bytes()


def test_a_run_may_be_prolonged_and_cut_otherwise(finished, tmp_path):
    out, _, _ = finished
    run_recipe("demo", tmp_path, options=SHORT, data=out / "data", say=lambda text: None)
    said = []
    ended = run_recipe(
        "demo", tmp_path, options={"max_samples": 1500, "microbatch_size": 10}, data=out / "data", resume=True,
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
        run_recipe("demo", out, options=SHORT)
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        run_recipe("demo", tmp_path, options={}, resume=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        run_recipe("demo", tmp_path, options={}, resume=True)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "letters", "options": {}}))
    with pytest.raises(CheckpointError, match="a run of the recipe letters, not of demo"):
        run_recipe("demo", tmp_path, options={}, resume=True)


def test_two_processes_do_not_share_a_folder(finished):
    from minibatch.train.lock import FolderLock

    out, _, _ = finished
    lock = FolderLock(out)
    with pytest.raises(FolderInUseError, match="in use by"):
        run_recipe("demo", out, options={}, resume=True)
    lock.release()


def test_unknown_recipes_and_options_get_the_nearest_names():
    with pytest.raises(ValueError, match=r"no recipe 'digit'; did you mean digits\?"):
        recipes.find("digit")
    with pytest.raises(ValueError, match=r"no recipe 'xyz'; All recipes: .*, digits, "):
        recipes.find("xyz")
    with pytest.raises(ValueError, match=r"no option 'max_sample'; did you mean max_samples\?"):
        recipes.configure("demo", {"max_sample": 3})


def test_every_recipe_has_defaults_and_its_options_make_it_again():
    for name in recipes.RECIPES:
        config = recipes.configure(name, {})
        assert config.recipe == name
        assert described(replace(recipes.configure(name, config.options), set={})) == described(config)


def test_a_run_that_is_already_further_is_left_as_it_is(finished, tmp_path):
    out, _, _ = finished
    shutil.copytree(out, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
    with pytest.raises(CheckpointError, match="stands at nominal time 1,000, beyond max_samples = 500"):
        run_recipe("demo", tmp_path / "run", options={"max_samples": 500}, resume=True, say=lambda text: None)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")} == before


def test_while_another_process_prepares_the_data_a_second_run_is_refused(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUseError, match="is in use by"):
        run_recipe("demo", tmp_path, options=SHORT, say=lambda text: None)
    lock.release()
    assert not (tmp_path / "data").exists()


def test_a_ledger_that_was_removed_is_missed(finished, tmp_path):
    out, _, _ = finished
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run" / "ledger.jsonl").unlink()
    said = []
    run_recipe("demo", tmp_path / "run", options={"max_samples": 1100}, resume=True, say=said.append)
    assert "the ledger has no lines of steps 1 to 16: it was removed, or the run kept none" in said


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the tiny recipe; what importing it adds to Python's path is taken back."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Path(shutil.copy(tiny_recipe.__file__, tmp_path / "mine.py"))


def tiny_run(file, out, *, said=None, **options):
    return run_recipe(
        f"{file}:tiny", out, say=(lambda text: None) if said is None else said.append, **{"options": {}, **options}
    )


def test_the_configuration_of_a_run_is_made_again_from_its_folder(file, tmp_path):
    changes = {
        "rate": "0.1",
        "net.width": "4",
        "terms.class.coefficient": "0.5",
        "schedules.0": "Cosine(0.1, samples=90)",
    }
    tiny_run(file, tmp_path / "run", options=changes)
    said = []
    config = load_config(tmp_path / "run", said.append)
    assert not said
    assert described(config) == json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.options["rate"] == 0.1
    assert config.terms[0].coefficient == 0.5
    assert next(config.model(seed=1).parameters()).shape == (4, 6)
    state = json.loads((tmp_path / "run" / "checkpoints" / "t-000000000000" / "state.json").read_text())
    assert state["config"]["terms"][0]["coefficient"] == 0.5, "a checkpoint has the complete one, too"


def test_the_configuration_of_a_run_says_what_its_recipe_makes_otherwise_now(file, tmp_path):
    tiny_run(file, tmp_path / "run")
    file.write_text(file.read_text().replace("label_smoothing=0.1", "label_smoothing=0.3"))
    said = []
    config = load_config(tmp_path / "run", said.append)
    assert config.terms[0].loss.options == {"label_smoothing": 0.3}
    assert any("terms[0].loss.options.label_smoothing: 0.1 → 0.3" in line for line in said)
    assert any("recipe_digest: " in line for line in said)
    file.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        load_config(tmp_path / "run")


def test_a_resumed_run_follows_its_recipe_as_it_is_now_and_says_what_changed(file, tmp_path):
    out = tmp_path / "run"
    tiny_run(file, out, options={"net.width": "4"}, callbacks=[stop_at(7)])
    text = file.read_text()
    file.write_text(text.replace("rate: float = 0.05", "rate: float = 0.2").replace("width: int = 5", "width: int = 6"))
    said = []
    tiny_run(file, out, resume=True, said=said, options={"log_every": "5"})
    changes = [line.removeprefix("changed since the checkpoint: ") for line in said if line.startswith("changed")]
    assert "schedules[0].then.rate: 0.05 → 0.2" in changes, "what was edited in the file"
    assert "log_every: 50 → 5" in changes, "what was changed by hand"
    assert any(line.startswith("recipe_digest: ") for line in changes)
    assert not any("width" in line for line in changes), "what had been set by hand stays"
    config = load_config(out)
    assert (config.options["rate"], config.options["net"].width, config.log_every) == (0.2, 4, 5)
    assert config.set == {"net.width": "4", "log_every": 5}


def test_a_file_is_the_same_recipe_by_any_of_its_paths(file, tmp_path, monkeypatch):
    tiny_run(file, tmp_path / "run", callbacks=[stop_at(3)])
    monkeypatch.chdir(tmp_path)
    assert run_recipe("mine.py:tiny", Path("run"), options={}, resume=True, say=lambda text: None).stopped is None
    with pytest.raises(CheckpointError, match=r"a run of the recipe .*mine\.py:tiny, not of demo"):
        run_recipe("demo", Path("run"), options={}, resume=True)


def test_the_seed_of_a_run_stays_however_it_is_given(file, tmp_path):
    tiny_run(file, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"seed 3, which a resume cannot change \(given: 4\)"):
        config_for(f"{file}:tiny", tmp_path / "run", {"seed": "4"}, resume=True)
    file.write_text(file.read_text().replace("seed: int = 3", "seed: int = 5"))
    with pytest.raises(CheckpointError, match=r"seed 3, which a resume cannot change \(given: 5\)"):
        config_for(f"{file}:tiny", tmp_path / "run", {}, resume=True)


def test_other_data_are_refused_at_a_resume(file, tmp_path):
    tiny_run(file, tmp_path / "run", callbacks=[stop_at(3)])
    other = file.read_text().replace("small.write(folder / name)", "small.write(folder / name, rows=60)")
    file.write_text(other)
    with pytest.raises(CheckpointError, match="data"):
        tiny_run(file, tmp_path / "run", resume=True, data=tmp_path / "other")


def test_what_is_set_as_a_whole_forgets_what_was_set_inside():
    assert merged({"net.width": 4, "network": 1}, {"net": "Net()"}) == {"network": 1, "net": "Net()"}
    assert merged({"a": 1}, {"a": 2, "b.c": 3}) == {"a": 2, "b.c": 3}
    assert list(merged({"a": 1, "b": 1}, {"a": 2})) == ["b", "a"], "the newest comes last, as it was given"


def test_a_run_without_patience_left_is_finished_and_stays_so(file, tmp_path):
    changes = {
        "validate_every": "9", "patience": "1", "schedules.0": "Constant(0.0)", "restore_best": "yes",
    }  # fmt: skip
    outcome = tiny_run(file, tmp_path / "run", options=changes)
    assert outcome.stopped is None
    assert outcome.ended_by.startswith("patience: 2 validations without an improvement")
    assert outcome.nominal_time < 106
    result = (tmp_path / "run" / "result.json").read_bytes()
    again = tiny_run(file, tmp_path / "run", resume=True)
    assert again.nominal_time == outcome.nominal_time
    assert (tmp_path / "run" / "result.json").read_bytes() == result


def test_the_first_weights_of_a_model_of_torchs_layers_are_given_by_the_seed_and_stay_in_the_folder(file, tmp_path):
    file.write_text(
        file.read_text().replace(
            "    return MLP(sizes=sizes, dropout=dropout, activation=net.activation, seed=seed).double()",
            "    return torch.nn.Linear(sizes[0], sizes[-1], dtype=torch.float64)",
        )
    )
    outcomes = []
    for number in (1, 2):
        torch.rand(number)  # whatever else the process has drawn
        outcomes.append(tiny_run(file, tmp_path / f"run{number}", options={"keep_last": "1", "save_every": "9"}))
    assert outcomes[0].parameters_digest == outcomes[1].parameters_digest
    assert {time_of(path) for path in checkpoints_in(tmp_path / "run1" / "checkpoints")} == {0, 106}
    loaded = load_model(tmp_path / "run1", which=0)
    fresh = first_model(load_config(tmp_path / "run1").model, loaded.config.seed)
    assert parameters_digest(fresh) == parameters_digest(loaded.model)


def test_the_result_of_a_run_that_puts_back_its_best_weights_is_theirs(file, tmp_path):
    # It gets worse from the start, so that the best is not the last.
    changes = {"validate_every": "9", "schedules.0": "Constant(50.0)", "restore_best": "yes", "keep_last": "1"}
    outcome = tiny_run(file, tmp_path / "run", options=changes)
    assert outcome.best_nominal_time is not None
    assert outcome.best_nominal_time < outcome.nominal_time == 106
    assert time_of(outcome.checkpoint) == outcome.best_nominal_time
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best_nominal_time"] == outcome.best_nominal_time
    for which in ("best", outcome.checkpoint):
        assert result["parameters_digest"] == parameters_digest(load_model(tmp_path / "run", which=which).model)
    again = tiny_run(file, tmp_path / "run", resume=True)
    assert again == outcome


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": "3", "validate_every": "none"}, "patience= needs validations: pass validate_every="),
        ({"restore_best": "yes", "validate_every": "none"}, "restore_best= needs validations"),
        ({"validate_every": "Minutes(5)"}, "may only decide when to save"),
        ({"watch": "acuracy"}, "watch='acuracy' is neither a term nor a metric of the validation, which has class"),
        ({"schedules.0": "Plateau(rate=0.1, watches=clas)"}, r"schedules\.0 watches 'clas', which is neither a term"),
        (
            {"validate_every": "none", "schedules.0": "Plateau(rate=0.1, watches='class')"},
            r"schedules\.0 watches 'class', which nothing measures: it needs validate_every=",
        ),
    ],
)
def test_what_fit_would_refuse_is_refused_before_a_run_has_a_folder(file, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(file, tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


def test_what_only_data_and_optimizers_show_to_be_impossible_leaves_no_run(file, tmp_path):
    text = file.read_text()
    file.write_text(text.replace('valid=folder / "valid"', "valid=None"))
    with pytest.raises(ValueError, match="validate_every= needs something to validate on"):
        tiny_run(file, tmp_path / "run")
    text = text.replace("import Cosine, Warmup", "import Cosine, Plateau, Warmup")
    own = '"schedules": {"weight_decay": Plateau(rate=0.1, watches="clas")}'
    file.write_text(text.replace("(model.parameters(), lr", f'([{{"params": model.parameters(), {own}}}], lr'))
    with pytest.raises(ValueError, match=r"optimizers\[0\], .* of a group, watches 'clas', which is neither"):
        tiny_run(file, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"data", ".lock"}


def test_a_recipe_may_bring_its_own_sources(file, tmp_path):
    file.write_text(
        file.read_text().replace(
            "        threads=1,",
            "        threads=1,\n        source=partial(opened, part='train'),\n"
            "        validation_source=partial(opened, part='valid'),",
            1,
        )
        + "\n\ndef opened(prepared, seed, *, part):\n"
        "    from minibatch import MinibatchSource\n"
        "    return MinibatchSource(getattr(prepared, part), seed=seed, max_samples=40)\n"
    )
    outcome = tiny_run(file, tmp_path / "run", options={"max_samples": "30"})
    assert outcome.nominal_time == 30
    assert json.loads((tmp_path / "run" / "validation.jsonl").read_text().splitlines()[-1])["samples"] == 40


def test_an_error_in_the_users_loss_has_the_shapes_and_the_place(file, tmp_path):
    file.write_text(
        file.read_text().replace('on(cross_entropy, "label", label_smoothing=0.1)', "wrong")
        + "\n\ndef wrong(outputs, batch):\n    return outputs @ outputs\n"
    )
    with pytest.raises(RuntimeError) as caught:
        tiny_run(file, tmp_path / "run")
    notes = "\n".join(caught.value.__notes__)
    assert "the outputs are float64 (9, 3)" in notes
    assert "label: int64 (9,)" in notes
    assert f"raised at {file}:" in notes
    assert "in wrong: `return outputs @ outputs`" in notes


def test_a_run_has_all_fields_of_its_configuration_in_the_trainer(file, tmp_path):
    from inspect import signature

    from minibatch.train.loop import fit
    from minibatch.train.running import OF_FIT, OF_TRAINER
    from minibatch.train.trainer import Trainer

    elsewhere = {
        "recipe", "recipe_digest", "options", "set", "model", "terms", "optimizers", "data", "max_samples", "source",
        "transforms", "validation_source", "threads", "multiview", "start", "device", "report", "save_every",
        "deterministic",
    }  # fmt: skip
    config = recipes.configure(f"{file}:tiny", {})
    assert {*OF_TRAINER, *OF_FIT} | elsewhere == set(config.__dataclass_fields__)
    assert set(OF_TRAINER) <= set(signature(Trainer).parameters)
    assert set(OF_FIT) <= set(signature(fit).parameters)

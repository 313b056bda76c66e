"""What surrounds the loop of a recipe's run: the device, first weights from elsewhere, the report on what came out."""

import functools
import json
from dataclasses import replace

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import recipes, running
from minibatch.train.averaging import EMA
from minibatch.train.device import device_of, placed
from minibatch.train.finished import Finished
from tests.train import small, tiny_recipe


def quiet(text: str) -> None:
    pass


def run(config, out, monkeypatch, *, resume=False, **options):
    """Run a configuration as if a recipe had returned it."""
    monkeypatch.setattr(
        recipes, "configure", lambda name, changes: replace(config, recipe=name, set=changes, **changes)
    )
    return running.run_recipe("tests.train.tiny_recipe:tiny", out, options=options, resume=resume, say=quiet)


def test_a_report_sees_the_weights_that_were_measured_in_eval_mode_and_its_numbers_are_kept(tmp_path, monkeypatch):
    seen = []

    def report(finished: Finished) -> dict[str, float]:
        seen.append(finished)
        finished.out.joinpath("picture.png").write_bytes(b"")
        weights = {name: tensor.clone() for name, tensor in finished.model.state_dict().items()}
        seen.append((finished.model.training, weights, torch.is_grad_enabled()))
        return {"recall@10": torch.tensor(0.5)}

    config = replace(tiny_recipe.tiny(), report=report, averaging=EMA(halflife=30))
    outcome = run(config, tmp_path / "run", monkeypatch)
    finished, (training, weights, grad) = seen
    assert (training, grad) == (False, False)
    assert outcome.report == {"recall@10": 0.5}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["report"] == {"recall@10": 0.5}
    assert (finished.out, finished.prepared.valid) == (tmp_path / "run", tmp_path / "run" / "data" / "valid")
    # Afterwards the model has its own weights again, which are not the averaged ones that the report saw.
    assert any(not torch.equal(weights[name], tensor) for name, tensor in finished.model.state_dict().items())
    assert finished.model.training


def test_a_report_that_fails_leaves_the_result(tmp_path, monkeypatch):
    def report(finished: Finished) -> dict[str, float]:
        raise ZeroDivisionError("of the report")

    with pytest.raises(ZeroDivisionError, match="of the report"):
        run(replace(tiny_recipe.tiny(), report=report), tmp_path / "run", monkeypatch)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["report"] == {}


def test_first_weights_come_from_start_and_a_resume_takes_them_from_its_checkpoint(tmp_path, monkeypatch):
    calls = []

    def start(model, prepared, seed):
        calls.append((prepared.train, seed))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.125)

    config = replace(tiny_recipe.tiny(), start=start)
    whole = run(config, tmp_path / "whole", monkeypatch)
    assert calls == [(tmp_path / "whole" / "data" / "train", 3)]
    plain = run(tiny_recipe.tiny(), tmp_path / "plain", monkeypatch)
    assert plain.parameters_digest != whole.parameters_digest
    run(config, tmp_path / "cut", monkeypatch, max_samples=45)
    cut = run(config, tmp_path / "cut", monkeypatch, resume=True, max_samples=106)
    assert len(calls) == 2
    assert cut.parameters_digest == whole.parameters_digest


def test_averages_begin_with_the_weights_from_start(tmp_path, monkeypatch):
    def start(model, prepared, seed):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(2.0)

    frozen = functools.partial(tiny_recipe.make_optimizer, rate=1e-30)  # too small to change a 2.0
    averaged = []

    def report(finished):
        averaged.extend(parameter.clone() for parameter in finished.model.parameters())
        return {}

    config = replace(tiny_recipe.tiny(), start=start, averaging=EMA(halflife=30, debias=False), optimizers=frozen)
    run(replace(config, schedules=None, report=report), tmp_path / "run", monkeypatch)
    assert averaged
    assert all(torch.equal(parameter, torch.full_like(parameter, 2.0)) for parameter in averaged)


def test_a_model_is_moved_to_the_device_of_its_configuration(tmp_path, monkeypatch):
    model = placed(torch.nn.Linear(2, 1), "meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    model = torch.nn.Linear(2, 1)
    assert placed(model, None) is model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
        device_of(name)


def test_the_last_weights_are_saved_also_where_nothing_asks_for_checkpoints(tmp_path, monkeypatch):
    outcome = run(replace(tiny_recipe.tiny(), save_every=None), tmp_path / "run", monkeypatch)
    assert outcome.checkpoint.name == "t-000000000106"


def test_other_data_than_those_of_the_run_are_refused_and_a_copy_of_them_is_not(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    for folder, rows in ((one, small.ROWS), (copy, small.ROWS), (other, 20)):
        small.write(folder / "train", rows)
    out = tmp_path / "run"
    assert running.data_folder(out, one) == one
    assert running.data_folder(out, copy) == copy
    with pytest.raises(CheckpointError, match=r"run/data is other data than --data .*other"):
        running.data_folder(out, other)
    one.rename(tmp_path / "moved")
    running.data_folder(out, tmp_path / "moved")
    assert (out / "data").resolve() == tmp_path / "moved"

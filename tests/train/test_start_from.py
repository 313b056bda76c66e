"""First weights from another run: which tensors are taken, what is refused, and that a base that changed is noticed."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import minibatch.train.start_from as start_from_module
from minibatch.errors import CheckpointError
from minibatch.models import MLP
from minibatch.train.averaging import EMA
from minibatch.train.checkpoint import checkpoints_in, read
from minibatch.train.config import Prepared, described
from minibatch.train.running import load_config, run_recipe
from minibatch.train.saved_model import best_time, load_model
from minibatch.train.start_from import StartFrom, copy_by_name, digest_of, start_from, weights_of
from tests.train import small
from tests.train.tiny_recipe import Net, make_model, tiny

BASE = f"{__name__}:base_recipe"
ANOTHER = f"{__name__}:transferred_recipe"
NOWHERE = Prepared(train=Path("nowhere"))


def base_recipe(*, seed: int = 3, halflife: int = 0, width: int = 5, max_samples: int = 106, rate: float = 0.05):
    config = tiny(seed=seed, max_samples=max_samples, rate=rate)
    return replace(
        config,
        model=partial(make_model, net=Net(width=width), widths=(), dropout=0.0),
        averaging=EMA(halflife=halflife) if halflife else None,
    )


class Renewed(nn.Module):
    """A body named as the base's model is, and a head of its own."""

    def __init__(self, *, width: int, seed: int) -> None:
        super().__init__()
        self.body = MLP(sizes=(small.FEATURES, width, small.CLASSES), activation="tanh", seed=seed).double()
        self.head = MLP(sizes=(small.CLASSES, small.CLASSES), seed=seed + 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def transferred_recipe(*, base: str = "", seed: int = 8, width: int = 5, digest: str | None = None):
    config = base_recipe(seed=seed, rate=0.02)
    return replace(
        config, model=partial(Renewed, width=width), start=start_from(base, into="body", digest=digest), max_samples=54
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    run_recipe(BASE, folder, options={"halflife": 30, "save_every": 20, "keep_last": None}, say=lambda text: None)
    return folder


def begun(base, out, say=lambda text: None, **options):
    return run_recipe(ANOTHER, out, options={"base": str(base), **options}, say=say)


def files_of(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "data" not in p.parts}


def test_the_weights_of_a_run_are_those_of_the_checkpoint_that_is_named(base):
    before = files_of(base)
    newest = checkpoints_in(base / "checkpoints")[-1]
    found = weights_of(base, averaged=False)
    saved = read(newest).model
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    assert all(not tensor.requires_grad for tensor in found.values())
    average = weights_of(base)
    assert not torch.equal(average["layers.0.weight"], found["layers.0.weight"]), "as the run's validations measure"
    best = best_time(base, load_config(base))
    at_best = weights_of(base, "best", averaged=False)
    assert all(torch.equal(t, at_best[name]) for name, t in weights_of(base, best, averaged=False).items())
    assert files_of(base) == before


def test_a_digest_differs_exactly_where_weights_do(base, tmp_path):
    times = [int(path.name[2:]) for path in checkpoints_in(base / "checkpoints")]
    digests = {(time, mean): digest_of(base, time, averaged=mean) for time in times for mean in (True, False)}
    assert len(set(digests.values())) == len(digests)
    assert digest_of(base) == digests[times[-1], True]
    options = {"halflife": 30, "save_every": 20, "keep_last": None}
    run_recipe(BASE, tmp_path / "again", options=options, say=lambda text: None)
    assert digest_of(tmp_path / "again") == digest_of(base), "the same run again"


def test_tensors_are_copied_by_name_and_the_rest_is_fresh(base, capsys):
    model = Renewed(width=5, seed=1)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from(base, into="body")(model, NOWHERE, 7)
    told = capsys.readouterr().err
    weights = weights_of(base)
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(tensor, weights[rest] if part == "body" else fresh[name]), name
    assert "4 tensors" in told
    assert str(base) in told
    assert digest_of(base) in told
    assert "fresh: head.layers.0.weight, head.layers.0.bias; not taken: nothing" in told


def test_into_the_model_itself_and_only_part_of_the_names(base, capsys):
    model = MLP(sizes=(small.FEATURES, 5, 7, 2), seed=1).double()
    layers = nn.ModuleDict({"layers": nn.ModuleList([model.layers[0]])})
    StartFrom(run=str(base))(layers, NOWHERE, 7)
    assert torch.equal(layers["layers"][0].weight, weights_of(base)["layers.0.weight"])
    assert "2 tensors" in (told := capsys.readouterr().err)
    assert "fresh: nothing; not taken: layers.2.weight, layers.2.bias" in told


def test_shapes_names_and_modules_that_do_not_fit_are_refused(base):
    model = Renewed(width=4, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"layers.0.weight \(5, 6\), here \(4, 6\)"):
        start_from(base, into="body")(model, NOWHERE, 7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "nothing is half done"
    with pytest.raises(ValueError, match="no such module; it has body, head"):
        start_from(base, into="boddy")(model, NOWHERE, 7)
    with pytest.raises(ValueError, match="no tensor has a name of both"):
        start_from(base)(model, NOWHERE, 7)
    with pytest.raises(CheckpointError, match="holds no run"):
        start_from(base.parent / "other", into="body")(model, NOWHERE, 7)
    with pytest.raises(CheckpointError, match="has no checkpoint at nominal time 17"):
        StartFrom(run=str(base), which=17, into="body")(model, NOWHERE, 7)


def test_what_is_written_into_is_a_buffer_as_well_and_another_dtype():
    norm = nn.BatchNorm1d(3)
    given = {"running_mean": torch.full((3,), 2.0), "weight": torch.full((3,), 0.5, dtype=torch.float64)}
    assert copy_by_name(given, norm) == set(given)
    assert norm.running_mean.tolist() == [2.0] * 3
    assert norm.weight.dtype == torch.float32


def test_a_run_begins_with_them_and_is_resumed_without_them(base, tmp_path):
    first = begun(base, tmp_path / "run")
    start = read(checkpoints_in(tmp_path / "run" / "checkpoints")[0]).model
    for name, tensor in weights_of(base).items():
        assert torch.equal(start[f"body.{name}"], tensor)
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["start"]["digest"] == digest_of(base)
    moved = tmp_path / "moved"
    base.rename(moved)
    try:
        on = run_recipe(ANOTHER, tmp_path / "run", options={"max_samples": 72}, resume=True, say=lambda text: None)
        with pytest.raises(CheckpointError, match=r"first weights from another run: .* holds no run"):
            begun(base, tmp_path / "new")
    finally:
        moved.rename(base)
    assert (first.nominal_time, on.nominal_time) == (54, 72)
    whole = begun(base, tmp_path / "whole", max_samples=72)
    assert whole.parameters_digest == on.parameters_digest


def test_a_base_that_has_changed_since_is_refused_and_told(base, tmp_path):
    own = tmp_path / "base"
    quiet = {"say": lambda text: None}
    run_recipe(BASE, own, options={}, **quiet)
    config = transferred_recipe(base=str(own))
    before = digest_of(own)
    begun(own, tmp_path / "first")
    run_recipe(BASE, own, options={"max_samples": 130}, resume=True, **quiet)
    with pytest.raises(CheckpointError, match=f"has other weights .*{digest_of(own)}, and was {before}"):
        config.start(Renewed(width=5, seed=1), NOWHERE, 7)
    with pytest.raises(CheckpointError, match="has other weights"):
        begun(own, tmp_path / "pinned", digest=before)
    told: list[str] = []
    load_config(tmp_path / "first", told.append)
    assert [line for line in told if "start.digest" in line and before in line]
    begun(own, tmp_path / "second")
    assert load_config(tmp_path / "second").start.digest == digest_of(own)


def test_it_is_described_by_what_it_is(base):
    document = described(start_from(base, "best", into="body", averaged=False))
    assert document["run"] == str(base)
    assert (document["which"], document["averaged"], document["into"]) == ("best", False, "body")
    assert document["digest"] == digest_of(base, "best", averaged=False)


def test_a_damaged_checkpoint_is_refused_and_an_older_one_is_named(base, tmp_path, capsys):
    run_recipe(BASE, tmp_path / "base", options={}, say=lambda text: None)
    older, newest = checkpoints_in(tmp_path / "base" / "checkpoints")[-2:]
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        StartFrom(run=str(tmp_path / "base"), which=106, into="body")(Renewed(width=5, seed=1), NOWHERE, 7)
    StartFrom(run=str(tmp_path / "base"), into="body")(Renewed(width=5, seed=1), NOWHERE, 7)
    said = capsys.readouterr().err
    assert f"are from {older} (digest" in said
    assert f"newer, but not taken: {newest.name} is not used: {file} is damaged" in said


def test_the_weights_that_are_taken_are_those_whose_digest_was_compared(base, tmp_path, monkeypatch):
    copied = tmp_path / "run"
    shutil.copytree(base, copied, symlinks=True)
    newest = checkpoints_in(copied / "checkpoints")[-1]
    kept = newest.rename(tmp_path / newest.name)
    start, expected = start_from(copied, into="body", averaged=False), weights_of(copied, averaged=False)
    load = load_model

    def later(*arguments, **options):
        kept.rename(newest)  # the base goes on
        return load(*arguments, **options)

    monkeypatch.setattr(start_from_module, "load_model", later)
    model = Renewed(width=5, seed=1)
    start(model, NOWHERE, 1)
    found = model.body.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    monkeypatch.undo()
    after = weights_of(copied, averaged=False)
    assert not all(torch.equal(found[name], tensor) for name, tensor in after.items())

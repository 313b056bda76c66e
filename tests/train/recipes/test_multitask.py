"""The recipe multitask: what it says of its loss and its missing labels, and that a run ends with the same bits."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minibatch import rng
from minibatch.train import recipes
from minibatch.train.batches import TensorBatch
from minibatch.train.recipes.atis import SLOTS
from minibatch.train.recipes.multitask import Hidden
from minibatch.train.running import load_config, make_trainer, opened_source, run_recipe
from tests.tools.samples import DATA, converted

STREAMS = ("words=S0:943:ids:sequence", "intent=S1:26:ids:single", "slots=S2:129:ids:sequence")
OPTIONS = [word for stream in STREAMS for word in ("--stream", stream)]
NAMES = ("B-fromloc.city_name", "B-toloc.city_name", "B-depart_time.time", "O")
FROM, TO, TIME, OUTSIDE = map(SLOTS.index, NAMES)
SMALL = {"hidden": 24, "max_samples": 6000, "learning_rate": 5e-3, "word_dropout": 0.0, "dropout": 0.1, "threads": 1}
FEW = {**SMALL, "minibatch_size": 96, "max_samples": 600, "save_every": 50, "validate_every": 200}


def queries(count, begin):
    """Queries in CNTK's text format: a price or a flight, from one city to another, at a time or not."""
    lines = []
    for number in range(begin, begin + count):
        kind, start, end, time = (int(w) for w in rng.integers(rng.key(1, "queries", number), np.arange(4), 40))
        intent = 14 if kind % 2 else 3
        words = [(100 + intent, OUTSIDE), (3, OUTSIDE), (200 + start, FROM), (4, OUTSIDE), (200 + end, TO)]
        words += [(300 + time, TIME)] if time < 20 else []
        for place, (word, slot) in enumerate(words):
            first = f"|S1 {intent}:1 " if place == 0 else ""
            lines.append(f"{number} |S0 {word}:1 {first}|S2 {slot}:1\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atis")
    for name, count, begin in (("train", 300, 0), ("valid", 60, 300)):
        (folder / f"{name}.ctf").write_text(queries(count, begin))
        converted(folder / f"{name}.ctf", folder / name, *OPTIONS)
    return folder


def run(out, data, options, **more):
    return run_recipe("multitask", out, options=options, data=data, say=lambda text: None, **more)


def test_it_learns_both_tasks(data, tmp_path):
    outcome = run(tmp_path, data, SMALL)
    assert outcome.validation["intent accuracy"] > 0.95
    assert outcome.validation["slot/f1"] > 0.95


def test_the_loss_is_3_tenths_of_the_mean_of_the_intents_there_are_plus_the_mean_of_slots(data, tmp_path):
    config = recipes.configure(
        "multitask", {**SMALL, "dropout": 0.0, "minibatch_size": 50, "missing": 0.5, "averaging": None}
    )
    prepared = config.data(data)
    gradients = []
    for microbatch in (None, 7):
        with opened_source(config, prepared) as source:
            trainer = make_trainer(config, source, None, lambda text: None, microbatch_size=microbatch)
            trainer.model.double()
            result = trainer.train_minibatch()
            gradients.append(result.grad_norm)
    with opened_source(config, prepared) as source:
        trainer = make_trainer(config, source, None, lambda text: None)
        model = trainer.model.double().train()
        for parameter in model.parameters():
            parameter.grad = None
        batch = TensorBatch(source.next_minibatch(50))
        known = batch["intent"] >= 0
        assert 10 < int(known.sum()) < 40
        outputs = model(batch["words"], batch["words_lengths"])
        mask = batch["slots_mask"]
        intent = F.cross_entropy(outputs["intent"][known], batch["intent"][known])
        slots = F.cross_entropy(outputs["slots"].transpose(1, 2)[mask], batch["slots"][mask])
        total = 0.3 * intent + slots
        total.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()
    assert result["total_loss"] == pytest.approx(total.item(), rel=1e-12)
    assert gradients == pytest.approx([norm, norm], rel=1e-12)


def test_always_the_same_rows_have_no_intent(data):
    config = recipes.configure("multitask", {"missing": 0.3})
    hidden = []
    for seed in (1, 2):
        with config.source(config.data(data), seed) as source:
            batches = [source.next_minibatch(100) for _ in range(6)]  # two sweeps
        rows = np.concatenate([batch.rows for batch in batches])
        intents = np.concatenate([batch["intent"] for batch in batches])
        assert (intents[np.argsort(rows)[::2]] == intents[np.argsort(rows, kind="stable")].reshape(-1, 2).T).all()
        hidden.append(set(rows[intents < 0].tolist()))
    assert hidden[0] == hidden[1]
    assert 60 < len(hidden[0]) < 120
    assert Hidden(share=0.3) in source.arguments["transforms"]
    plain = recipes.configure("multitask", {"missing": 0.0})
    with plain.source(plain.data(data), 1) as source:
        assert (source.next_minibatch(300)["intent"] >= 0).all()


def test_a_run_that_is_stopped_and_cut_otherwise_ends_with_the_same_bits(data, tmp_path):
    options = {**FEW, "promise": "bits"}
    whole = run(tmp_path / "whole", data, options)
    stopped = run(
        tmp_path / "run", data, options, callbacks=[lambda trainer, result: "a test" if result.step == 3 else None]
    )
    assert stopped.stopped == "a test"
    resumed = run(tmp_path / "run", data, {"microbatch_size": 64}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert load_config(tmp_path / "run").microbatch_size == 64
    assert resumed.validation == whole.validation


def test_without_the_promise_the_cut_changes_bits(data, tmp_path):
    """The test above can fail."""
    digests = {run(tmp_path / str(size), data, {**FEW, "microbatch_size": size}).parameters_digest for size in (32, 96)}
    assert len(digests) == 2


def test_the_slots_are_those_of_the_files():
    assert len(SLOTS) == len(set(SLOTS)) == 129
    path = DATA / "atis.test.ctf"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    for line in path.read_text().splitlines():
        number, _, name = line.partition("|S2 ")[2].partition(":1 |# ")
        assert SLOTS[int(number)] == name

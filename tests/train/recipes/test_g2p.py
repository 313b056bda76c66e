"""The recipe g2p: it learns an alphabet from words alone, counts errors as said, and ends with the same bits."""

import pytest
import torch

from minibatch import Dataset
from minibatch.models.transcriber import Transcriber
from minibatch.tools.sources.pronunciations import LETTERS, PHONES
from minibatch.train import recipes
from minibatch.train.batches import Samples, TensorBatch
from minibatch.train.recipes import g2p
from minibatch.train.running import run_recipe
from tests.tools.samples import converted
from tests.train.recipes.test_joint import ALIKE, dictionary

SMALL = {
    "hidden": 16, "layers": 1, "minibatch_size": 64, "max_samples": 16_000, "learning_rate": 1e-2, "dropout": 0.0,
    "threads": 1, "schedules": None, "validate_every": 16_000, "averaging": None,
}  # fmt: skip
FEW = {**SMALL, "max_samples": 192 * 4, "minibatch_size": 192, "validate_every": 384, "dropout": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    for name, count, begin in (("train", 1500, 0), ("valid", 200, 1500)):
        (folder / f"{name}.dict").write_text(dictionary(count, begin) + ALIKE)
        converted(folder / f"{name}.dict", folder / name)
    return folder


def run(out, data, options, **more):
    return run_recipe("g2p", out, options=options, data=data, say=lambda text: None, **more)


def test_it_learns_which_letter_writes_which_phone(data, tmp_path):
    outcome = run(tmp_path, data, SMALL)
    assert outcome.validation["phone error"] < 0.05
    assert outcome.validation["word error"] < 0.15
    words = set(Dataset.open(data / "valid").read(range(203), ["word"])["word"])
    (found,) = outcome.report.items()
    assert found[0] == f"word error of {len(words)} words"
    # Of CAT there are two pronunciations, of which at most one is found: a word that is right, an entry that is wrong.
    assert found[1] < outcome.validation["word error"]


def test_a_run_that_is_stopped_and_cut_otherwise_ends_with_the_same_bits(data, tmp_path):
    options = {**FEW, "promise": "bits", "report": None}
    whole = run(tmp_path / "whole", data, options)
    run(tmp_path / "run", data, options, callbacks=[lambda trainer, result: "a test" if result.step == 2 else None])
    resumed = run(tmp_path / "run", data, {"microbatch_size": 64}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert resumed.validation == whole.validation


def test_errors_are_counted_in_phones():
    found, right = [1, 2, 2, 3], [1, 2, 4]
    path = [1, 2, 0, 2, 3]  # the blank keeps the two apart
    outputs = {"logits": torch.eye(5)[torch.tensor([path, path])], "steps": torch.tensor([5, 5])}
    fields = {"phones": torch.tensor([[*right, 0], found]).numpy(), "phones_lengths": torch.tensor([3, 4]).numpy()}
    batch = TensorBatch(Samples(fields, time=0))
    assert g2p.is_wrong(outputs, batch).tolist() == [1.0, 0.0]
    counter = g2p.phone_error()
    counter.update(*g2p.transcripts(outputs, batch))
    assert float(counter.compute()) == pytest.approx(2 / 7)  # one substituted, one too many, of seven


def test_every_letter_has_its_own_steps():
    model = Transcriber(letters=9, classes=5, signs=3, embedding=4, hidden=3, layers=1, seed=1).double().eval()
    words, lengths = torch.tensor([[3, 1, 4], [2, 7, 0]]), torch.tensor([3, 2])
    outputs = model(words, lengths)
    states = model.encoder(words, lengths)
    assert outputs["steps"].tolist() == [9, 6]
    for sign in range(3):
        weight, bias = model.linear.weight[5 * sign : 5 * sign + 5], model.linear.bias[5 * sign : 5 * sign + 5]
        assert torch.allclose(outputs["logits"][:, sign::3], states @ weight.T + bias, rtol=1e-12)


def test_the_alphabets_are_those_of_the_converter():
    assert (len(LETTERS) + 1, len(PHONES) + 1) == (g2p.LETTERS, g2p.PHONES)
    assert recipes.configure("g2p", {}).terms[0].loss.options["zero_infinity"] is True

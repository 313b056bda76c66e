"""The recipe charlm on a few made-up lines: what it predicts, what it writes, and that bits survive a resume."""

import math

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.train import recipes
from minibatch.train.batches import TensorBatch
from minibatch.train.config import Prepared
from minibatch.train.recipes.charlm import charlm, drawn, held_out, is_known, letters, nats, packed, written
from minibatch.train.running import load_config, run_recipe
from minibatch.train.saved_model import load_model
from tests.tools.samples import converted

WORDS = ["the", "king", "speaks", "to", "a", "lord", "of", "night"]
SMALL = {
    "model.layers": 1, "model.heads": 2, "model.width": 32, "source.block": 24, "validation_source.block": 24,
    "report.block": 24, "validation_size": 240, "minibatch_size": 192, "max_samples": 60_000, "learning_rate": 1e-2,
    "validate_every": 30_000, "texts": 2, "characters": 60, "threads": 1,
}  # fmt: skip
FEW = {**SMALL, "max_samples": 12 * 192, "dropout": 0.2, "save_every": 3 * 192, "validate_every": 4 * 192}


def lines(count):
    """Lines of words, each word told by the one before it but for one of two choices."""
    choice = rng.integers(rng.key(1, "lines"), np.arange(6 * count), 2)
    place, found = 0, []
    for number in range(count):
        words = []
        for step in choice[6 * number : 6 * number + 6]:
            place = (3 * place + 1 + int(step)) % len(WORDS)
            words.append(WORDS[place])
        found.append(" ".join(words) + ".\n")
    return "".join(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charlm")
    (folder / "text.txt").write_text(lines(400))
    for name, rows, part in (("train", "100", "first:90%"), ("valid", "1000000", "last:10%")):
        converted(folder / "text.txt", folder / name, "--text-as", "characters", "--row-tokens", rows, "--subset", part)
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("charlm") / "run"
    return out, run(out, data, SMALL)


def run(out, data, options, **more):
    return run_recipe("charlm", out, options=options, data=data, say=lambda text: None, **more)


def prepared(data):
    return Prepared(train=data / "train", valid=data / "valid")


def test_it_learns_words_and_writes_some(finished):
    out, outcome = finished
    # Two choices a word of about four characters with its space: the text has about 0.17 nats per character.
    assert outcome.validation["nats"] < 0.6, "its characters alone have 2.7"
    assert outcome.validation["bits"] == pytest.approx(outcome.validation["nats"] / math.log(2.0), rel=1e-6)
    texts = (out / "samples.txt").read_text().split("\n\n" + "-" * 80 + "\n\n")
    assert len(texts) == 2
    assert texts[0] != texts[1]
    assert [len(text.removesuffix("\n")) for text in texts] == pytest.approx([60, 60], abs=1)
    known = [word in WORDS for text in texts for word in text.replace(".", " ").split()[:-1]]
    assert sum(known) / len(known) > 0.8


def test_what_it_writes_is_a_function_of_its_seed_and_each_text_of_its_own_key(finished, data):
    model = load_model(finished[0]).model.eval()
    options = {"begin": 0, "length": 40, "block": 24, "temperature": 1.0, "top_k": None}
    keys = [rng.key(5, "charlm.samples", number) for number in range(3)]
    with torch.no_grad():
        three = written(model, keys, **options)
        assert written(model, keys, **options) == three
        assert written(model, keys[1:2], **options) == three[1:2]
        assert written(model, [rng.key(6, "charlm.samples", 0)], **options) != three[:1]
        assert written(model, [], **options) == []


@pytest.mark.parametrize("block", [24, 7])
def test_each_character_held_out_is_predicted_once_but_the_first(data, block):
    text = lines(400)
    text = text[int(len(text) * 0.9) :]
    known = letters(data / "valid")
    with held_out(prepared(data), 1, block=block) as source:
        batches = [TensorBatch(batch) for batch in source.minibatches(10 * block)]
        found = [batch["next"][is_known(batch)] for batch in batches]
    assert "".join(known[number] for number in torch.cat(found)) == text[1:]


def test_training_text_is_cut_elsewhere_in_the_next_sweep(data):
    with packed(prepared(data), 3, block=24) as source:
        total = len(lines(400)) * 9 // 10
        sweeps = []
        for _ in range(2):
            blocks = source.next_minibatch(total // 24 * 24)
            sweeps.append(
                {row.tobytes() for row, ids in zip(blocks["text"], blocks.segment_ids, strict=True) if ids[-1] == 1}
            )
    assert all(len(blocks) > 300 for blocks in sweeps)
    assert len(sweeps[0] & sweeps[1]) < 0.3 * len(sweeps[0])


def test_the_loss_is_minus_the_log_of_the_probability_of_what_follows(data):
    with packed(prepared(data), 3, block=24) as source:
        batch = TensorBatch(source.next_minibatch(240))
    logits = torch.randn(10, 24, 65, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, known = nats(logits, batch), is_known(batch)
    assert not known.all()
    expected = -logits.log_softmax(-1).gather(2, batch["next"].long().clamp(min=0).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(values[known], expected[known])


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(data, tmp_path, precision):
    options = {**FEW, "promise": "bits", "leaf_size": 2, "precision": precision}
    whole = run(tmp_path / "whole", data, options)

    def stop(trainer, result):
        return "stop" if result.step == 5 else None

    assert run(tmp_path / "cut", data, options, callbacks=[stop]).stopped == "stop"
    resumed = run(tmp_path / "cut", data, {"microbatch_size": 96}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert resumed.validation == whole.validation
    assert (tmp_path / "cut" / "samples.txt").read_text() == (tmp_path / "whole" / "samples.txt").read_text()
    assert load_config(tmp_path / "cut").microbatch_size == 96


def test_a_text_of_more_characters_than_the_net_knows_is_refused(data, tmp_path):
    count = len(letters(data / "train"))
    with pytest.raises(ValueError, match=rf"{count} different characters, the net knows 7: --set vocabulary={count}"):
        run(tmp_path, data, {**FEW, "vocabulary": 7})


def test_data_without_a_vocabulary_are_refused(data, tmp_path):
    for name in ("train", "valid"):
        converted(data / "text.txt", tmp_path / name, "--text-as", "bytes", "--row-tokens", "100")
    with pytest.raises(ValueError, match="--text-as characters"):
        run(tmp_path / "run", tmp_path, FEW)


def test_sizes_are_whole_configurations():
    base = charlm(size="base")
    assert (base.minibatch_size, base.precision, base.max_samples) == (64 * 256, "bf16", 60_000_000)
    assert sum(parameter.numel() for parameter in base.model(seed=1).parameters()) == 10_646_784
    assert charlm(size="base", learning_rate=0.5).schedules[0](base.max_samples // 20) == pytest.approx(0.5, rel=0.01)
    small = recipes.configure("charlm", {"dropout": "0.1", "max_samples": "5000"})
    assert (small.max_samples, small.precision) == (5000, None)


def test_drawn_inverts_the_distribution():
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]]))
    uniform = (np.arange(1000) + 0.5) / 1000
    many = logits.repeat(1000, 0)

    def shares(**options):
        return np.bincount(drawn(many, uniform, **options), minlength=4) / 1000

    assert shares().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert shares(top_k=2).tolist() == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=2e-3)
    assert shares(temperature=0.5).tolist() == pytest.approx([1 / 30, 4 / 30, 9 / 30, 16 / 30], abs=2e-3)
    assert shares(temperature=0.0).tolist() == [0, 0, 0, 1]
    assert drawn(np.zeros((2, 3)), np.array([0.0, np.nextafter(1.0, 0.0)])).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"temperature=-1.*top_k=None"):
        drawn(logits, uniform[:1], temperature=-1.0)
    with pytest.raises(ValueError, match="top_k=0"):
        drawn(logits, uniform[:1], top_k=0)

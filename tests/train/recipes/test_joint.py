"""The recipe joint: what it measures, that its loss is exact for any cut, and that a run ends with the same bits."""

import numpy as np
import pytest

from minibatch import Dataset, rng
from minibatch.tools.sources.pronunciations import LETTERS, PHONES
from minibatch.train import recipes
from minibatch.train.recipes import joint
from minibatch.train.running import make_trainer, opened_source, run_recipe
from tests.tools.samples import converted

SMALL = {
    "hidden": 16, "size": 16, "minibatch_size": 64, "max_samples": 12_000, "candidates": 100, "learning_rate": 1e-2,
    "dropout": 0.0, "threads": 1, "schedules": None, "validate_every": 6000, "averaging": None,
}  # fmt: skip
FEW = {**SMALL, "max_samples": 192 * 4, "minibatch_size": 192, "validate_every": 192}
ALIKE = "CAT  K AE T\nKAT  K AE T\nCAT  K AE D\n"
CONSONANTS, VOWELS = "BDFGKLMNPRSTVZ", {"A": "AE", "E": "EH", "I": "IH", "O": "AA", "U": "AH"}


def dictionary(count, begin):
    """Words of consonants and vowels in turn, each letter with a sound of its own, but that C and K sound alike."""
    lines = []
    for number in range(begin, begin + count):
        draws = rng.integers(rng.key(1, "words", number), np.arange(8), 70).tolist()
        word, sounds = "", []
        for place in range(2 + draws[6] % 5):
            letter = CONSONANTS[draws[place] % 14] if place % 2 == 0 else list(VOWELS)[draws[place] % 5]
            sounds.append(VOWELS.get(letter, letter))
            word += "C" if letter == "K" and draws[7] % 2 else letter
        lines.append(f"{word}  {' '.join(sounds)}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    for name, count, begin in (("train", 1500, 0), ("valid", 200, 1500)):
        (folder / f"{name}.dict").write_text(dictionary(count, begin) + ALIKE)
        converted(folder / f"{name}.dict", folder / name)
    return folder


def run(out, data, options, **more):
    return run_recipe("joint", out, options=options, data=data, say=lambda text: None, **more)


def test_spellings_and_pronunciations_find_each_other(data, tmp_path):
    outcome = run(tmp_path, data, SMALL)
    for way in ("spoken", "spelled"):
        assert outcome.validation[f"{way}/recall@1"] > 0.5  # 0.01 by chance
        assert outcome.validation[f"{way}/recall@10"] > 0.9
    whole = len(joint.chosen(Dataset.open(data / "valid"), 203))
    assert outcome.report.keys() >= {f"{way}/recall@{k} of {whole}" for way in ("spoken", "spelled") for k in (1, 10)}
    assert (tmp_path / "scores.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_words_that_are_measured_are_all_different_and_always_the_same(data):
    dataset = Dataset.open(data / "valid")
    some, more = (joint.chosen(dataset, count).read(range(count), ["word", "phones"]) for count in (20, 60))
    assert some["word"].tolist() == more["word"].tolist()[:20]
    assert len(set(more["word"])) == len({phones.tobytes() for phones in more["phones"]}) == 60
    everything = dataset.read(range(len(dataset)), ["word", "phones"])
    sounds = {phones.tobytes() for phones in everything["phones"]}
    assert len(sounds) < len(set(everything["word"])) < len(dataset) == 203  # there is something to leave out
    assert len(joint.chosen(dataset, 10_000)) <= len(sounds)


def test_homophones_have_one_sound_and_are_no_negatives(data):
    config = recipes.configure("joint", SMALL)
    with config.source(config.data(data), 1) as source:
        batch = source.next_minibatch(1500)
    by_phones = {}
    for sound, phones in zip(batch["sound"].tolist(), batch["phones"], strict=True):
        by_phones.setdefault(tuple(phones.tolist()), set()).add(sound)
    assert all(len(sounds) == 1 for sounds in by_phones.values())
    assert len(set.union(*by_phones.values())) == len(by_phones) < len(set(batch["word"]))
    assert config.terms[0].loss.options["keys"].field == "sound"


def test_any_cut_of_a_minibatch_has_the_same_gradient(data):
    config = recipes.configure("joint", {**SMALL, "dropout": 0.3})
    results = []
    for microbatch in (None, 7, 40):
        with opened_source(config, config.data(data)) as source:
            trainer = make_trainer(config, source, None, lambda text: None, microbatch_size=microbatch)
            trainer.model.double()
            results.append(trainer.train_minibatch())
    for result in results[1:]:
        assert result["total_loss"] == pytest.approx(results[0]["total_loss"], rel=1e-12)
        assert result.grad_norm == pytest.approx(results[0].grad_norm, rel=1e-10)


def test_a_run_that_is_stopped_and_cut_otherwise_ends_with_the_same_bits(data, tmp_path):
    options = {**FEW, "promise": "bits", "dropout": 0.2, "report": None}
    whole = run(tmp_path / "whole", data, options)
    stopped = run(
        tmp_path / "run", data, options, callbacks=[lambda trainer, result: "a test" if result.step == 2 else None]
    )
    assert stopped.stopped == "a test"
    resumed = run(tmp_path / "run", data, {"microbatch_size": 64}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert resumed.validation == whole.validation


def test_the_alphabets_are_those_of_the_converter():
    assert (len(LETTERS) + 1, len(PHONES) + 1) == (joint.LETTERS, joint.PHONES)

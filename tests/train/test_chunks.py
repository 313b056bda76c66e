"""Chunk scores against a twin that reads word by word, and on cases whose counts CoNLL's script documents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train.chunks import ChunkScores
from tests.plain import chunks as plain

TAGS = ("O", *(f"{kind}-{type_}" for kind in "BIESLU" for type_ in ("NP", "VP")))


def padded(sentences, names=TAGS):
    """Class numbers (n, longest), padded with the last class, and where words are."""
    longest = max(map(len, sentences), default=0)
    numbers = [[names.index(tag) for tag in tags] + [len(names) - 1] * (longest - len(tags)) for tags in sentences]
    mask = [[True] * len(tags) + [False] * (longest - len(tags)) for tags in sentences]
    shape = (len(sentences), longest)
    return torch.tensor(numbers, dtype=torch.int64).view(shape), torch.tensor(mask, dtype=torch.bool).view(shape)


def scores_of(minibatches, names=TAGS):
    scores = ChunkScores(names)
    for pairs in minibatches:
        found, mask = padded([guessed for guessed, _ in pairs], names)
        right, _ = padded([right for _, right in pairs], names)
        scores.update(found, right, mask)
    return scores


def sentences(tags=TAGS):
    word = st.tuples(st.sampled_from(tags), st.sampled_from(tags))
    # Equal tags on both sides more often than by chance, so that whole chunks agree.
    same = st.sampled_from(tags).map(lambda tag: (tag, tag))
    return st.lists(st.one_of(same, same, word), max_size=8).map(
        lambda words: ([guessed for guessed, _ in words], [right for _, right in words])
    )


@given(st.lists(st.lists(sentences(), min_size=1, max_size=4), max_size=3))
def test_it_counts_what_the_twin_counts_however_sentences_come(minibatches):
    scores = scores_of(minibatches)
    pairs = [pair for minibatch in minibatches for pair in minibatch]
    assert scores.compute() == pytest.approx(plain.scores(pairs))
    assert scores.found == sum(len(plain.chunks(guessed)) for guessed, _ in pairs)
    assert scores.there == sum(len(plain.chunks(right)) for _, right in pairs)
    whole = scores_of([pairs]).compute() if pairs else scores.compute()
    assert whole == scores.compute()


# The sentences of https://www.clips.uantwerpen.be/conll2000/chunking/output.html, and the rules of the script one by
# one: what was found, what is right, and how many chunks are correct, found and there.
CASES = {
    "the example of CoNLL-2000": ("B-NP B-NP I-NP I-NP O", "B-NP B-NP I-NP I-NP O", (2, 2, 2)),
    "its second sentence, with one chunk begun too early": ("I-NP B-VP B-NP I-NP", "B-NP B-VP B-NP I-NP", (3, 3, 3)),
    "I after O begins a chunk (IOB1)": ("O I-NP I-NP O", "O B-NP I-NP O", (1, 1, 1)),
    "B after I of the same type begins another": ("I-NP B-NP", "I-NP I-NP", (0, 2, 1)),
    "a change of type ends a chunk even without B": ("B-NP I-VP", "B-NP I-NP", (0, 2, 1)),
    "I of another type than B before it is a chunk of its own": ("B-NP I-VP", "B-NP B-VP", (2, 2, 2)),
    "a chunk that ends too late is wrong": ("B-NP I-NP I-NP", "B-NP I-NP O", (0, 1, 1)),
    "a chunk that ends too early is wrong": ("B-NP O O", "B-NP I-NP O", (0, 1, 1)),
    "the right words of the wrong type are wrong": ("B-VP I-VP", "B-NP I-NP", (0, 1, 1)),
    "E ends a chunk and S is one (IOBES)": ("B-NP E-NP S-NP I-NP", "B-NP I-NP B-NP B-NP", (3, 3, 3)),
    "L and U are E and S (BILOU)": ("B-NP L-NP U-NP", "B-NP E-NP S-NP", (2, 2, 2)),
    "nothing found": ("O O", "B-NP O", (0, 0, 1)),
    "nothing there": ("O B-NP", "O O", (0, 1, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_the_script(case):
    found, right, counts = CASES[case]
    scores = scores_of([[(found.split(), right.split())]])
    assert (scores.correct, scores.found, scores.there) == counts


def test_documented_totals_give_the_documented_scores():
    """539 phrases found, 371 of them correct, of 459: precision 68.83 %, recall 80.83 %, FB1 74.35."""
    scores = ChunkScores(TAGS)
    scores.correct, scores.found, scores.there = 371, 539, 459
    percent = {name: round(100 * value, 2) for name, value in scores.compute().items()}
    assert percent == {"precision": 68.83, "recall": 80.83, "f1": 74.35}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'NP' is no tag: expected O, or B, I, E"):
        ChunkScores(["O", "NP"])
    with pytest.raises(ValueError, match="'B-' is no tag"):
        ChunkScores(["B-"])
    scores = ChunkScores(["O", "B"])
    with pytest.raises(ValueError, match=r"int64 \(2, 3\), int64 \(2, 2\)"):
        scores.update(torch.zeros(2, 3, dtype=int), torch.zeros(2, 2, dtype=int), torch.ones(2, 3, dtype=bool))

"""CMUdict: how a word is spoken, from its letters alone (CNTK's grapheme to phoneme), without knowing which letter
writes which phone.

    minibatch convert cmudict.train data/cmudict/train
    minibatch convert cmudict.test data/cmudict/valid
    minibatch train g2p --data data/cmudict --out runs/g2p

The data are those of the recipe joint: the CMU Pronouncing Dictionary of Carnegie Mellon University (BSD licence),
114,399 and 12,855 entries with no word in common, split as in CNTK's example SequenceToSequence/CMUDict.

A recurrent net reads the letters in both directions, and each letter writes up to four phones or none; connectionist
temporal classification (`ctc`) sums over all alignments. Five entries need more than that (AAA, "triple A") and have
the loss 0. Phones are read greedily. Phone error: insertions, deletions and substitutions in 100 phones, of all
entries; word error: the share of entries that are not exactly right. Where a word has several pronunciations, each is
an entry; the report also has the share of words of which none of the pronunciations was found, as papers count it.
All is measured with a moving average of the weights (`averaging`).

Expected: phone error 9 % (seeds 1 and 7: 9.2 and 9.3), word error 40 % of entries and 36 % of words, in about 3 min on
one core.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minibatch import Dataset, LengthGroups, MinibatchSource
from minibatch.errors import require
from minibatch.models.transcriber import Transcriber
from minibatch.train.averaging import EMA
from minibatch.train.batches import TensorBatch, forward_function
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.finished import Finished
from minibatch.train.losses import ctc, of_batch, of_outputs, on
from minibatch.train.metrics import Collected, Metric
from minibatch.train.optimizers import optimizer
from minibatch.train.recipes.converted import converted
from minibatch.train.schedules import Cosine, Warmup
from minibatch.train.terms import Term
from minibatch.train.transcripts import greedy

LETTERS, PHONES = 69, 40  # of the converter, with the 0 of padding, which is the blank
INPUTS = ("letters", "letters_lengths")


def g2p(
    *,
    seed: int = 7,
    minibatch_size: int = 128,
    microbatch_size: int | None = None,
    max_samples: int = 400_000,
    learning_rate: float = 2e-3,
    hidden: int = 128,
    layers: int = 2,
    dropout: float = 0.2,
    threads: int | None = 1,
) -> RunConfig:
    """The configuration of a run that learns to pronounce; sizes in words.

    >>> g2p(hidden=8).model(seed=1).encoder.width
    16
    """
    loss = on(
        ctc,
        "phones",
        output="logits",
        input_lengths=of_outputs("steps"),
        target_lengths=of_batch("phones_lengths"),
        zero_infinity=True,
    )
    return RunConfig(
        model=partial(make_model, hidden=hidden, layers=layers, dropout=dropout),
        inputs=INPUTS,
        terms=(Term("phones", loss),),
        metrics=(Collected("phone error", phone_error, arguments=transcripts), Metric("word error", is_wrong)),
        optimizers=partial(adam, learning_rate=learning_rate),
        schedules=(Warmup(samples=20_000, then=Cosine(learning_rate, samples=max_samples)),),
        clip_grad_norm=5.0,
        averaging=EMA(halflife=10_000),
        data=partial(converted, "g2p"),
        source=open_source,
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=100_000,
        save_every=100_000,
        threads=threads,
        device="auto",
        report=by_words,
    )


def make_model(*, hidden: int, layers: int, dropout: float, seed: int) -> nn.Module:
    """The network for the alphabets of letters and phones."""
    return Transcriber(
        letters=LETTERS, classes=PHONES, signs=4, hidden=hidden, layers=layers, dropout=dropout, seed=seed
    )


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with a weight decay of 0.01 on all but biases."""
    return optimizer("adamw", model, lr=learning_rate, weight_decay=0.01)


def open_source(prepared: Prepared, seed: int) -> MinibatchSource:
    """The dictionary by rows, 32 words of similar length side by side."""
    return MinibatchSource(prepared.train, seed=seed, sequences="rows", shuffle=LengthGroups(rows=4096, group=32))


def phone_error() -> object:
    """What counts errors: torchmetrics' word error rate, in which a phone is a word."""
    require("torchmetrics", "train", "counting wrong phones")
    from torchmetrics.text import WordErrorRate

    return WordErrorRate()


def transcripts(outputs: Mapping[str, Tensor], batch: TensorBatch) -> Sequence[list[str]]:
    """The phones that were written and those that are right, as numbers in a text, one of each entry."""
    right = [
        phones[:length].tolist()
        for phones, length in zip(batch["phones"].cpu(), batch["phones_lengths"].tolist(), strict=True)
    ]
    found = greedy(outputs["logits"], outputs["steps"])
    return [" ".join(map(str, phones)) for phones in found], [" ".join(map(str, phones)) for phones in right]


def is_wrong(outputs: Mapping[str, Tensor], batch: TensorBatch) -> Tensor:
    """1 where not all phones are right, else 0: (n,)."""
    found, right = transcripts(outputs, batch)
    wrong = [one != other for one, other in zip(found, right, strict=True)]
    return torch.tensor(wrong, dtype=torch.float64, device=outputs["logits"].device)


def by_words(finished: Finished) -> Mapping[str, float]:
    """The share of held-out words of which no pronunciation was found."""
    assert finished.prepared.valid is not None
    dataset = Dataset.open(finished.prepared.valid)
    device = next(finished.model.parameters()).device
    known: dict[str, bool] = {}
    with MinibatchSource(dataset, shuffle=None, sequences="rows", max_sweeps=1) as source:
        for batch in source.minibatches(1000):
            tensors = TensorBatch(batch, device=device)
            found, right = transcripts(forward_function(INPUTS)(finished.model, tensors), tensors)
            for word, one, other in zip(batch["word"], found, right, strict=True):
                known[word] = known.get(word, False) or one == other
    return {f"word error of {len(known):,} words": 1.0 - sum(known.values()) / len(known)}

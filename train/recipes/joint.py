"""CMUdict: how words are spelled and how they sound, two towers trained jointly through their score (CNTK's joint
training of two pipelines: q_embed, a_embed and qa_score).

    minibatch convert cmudict.train data/cmudict/train
    minibatch convert cmudict.test data/cmudict/valid
    minibatch train joint --data data/cmudict --out runs/joint

The data are the CMU Pronouncing Dictionary of Carnegie Mellon University (BSD licence), 114,399 and 12,855 entries with
no word in common, split as in CNTK's example of grapheme to phoneme: https://github.com/microsoft/CNTK,
Examples/SequenceToSequence/CMUDict. Any dictionary in that format will do.

One tower reads letters, the other phones. Neither has labels: each word's own pronunciation is to score higher than
those of all other words of the minibatch, and the other way round (`contrastive`, over="minibatch"). So the loss needs
the outputs of the whole minibatch, and is exact all the same where that is cut into microbatches. Homophones are not
each other's negatives. Measured among 1,000 held-out words, all spelled and pronounced differently and always the same:
how many find their pronunciation first or among ten (spoken), and pronunciations their spelling (spelled).
All is measured with a moving average of the weights (`averaging`).

Expected: recall@1 of 99 % and recall@10 of 100 % both ways (seeds 1, 2 and 3: spoken 99.6, 99.5 and 99.5, spelled 98.6,
98.7 and 99.0; among all 11,748 held-out words that differ 94.5 and 93.7), in about 2 min on one core. scores.png shows
30 neighbours of the dictionary.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibatch import Dataset, MinibatchSource, rng
from minibatch.errors import require
from minibatch.models.two_towers import TwoTowers
from minibatch.train.averaging import EMA
from minibatch.train.batches import TensorBatch, forward_function
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.finished import Finished
from minibatch.train.losses import contrastive, of_batch, on
from minibatch.train.metrics import Collected
from minibatch.train.optimizers import optimizer
from minibatch.train.recipes.converted import converted
from minibatch.train.retrieval import Recall
from minibatch.train.schedules import Cosine, Warmup
from minibatch.train.terms import Term
from minibatch.train.validation import evaluate
from minibatch.transforms import Fields
from minibatch.views import subset

LETTERS, PHONES = 69, 40  # of the converter, with the 0 of padding
SHOWN = 30  # words, in the picture
VALIDATION_SIZE = 1000
INPUTS = ("letters", "letters_lengths", "phones", "phones_lengths")


def joint(
    *,
    seed: int = 7,
    minibatch_size: int = 256,
    microbatch_size: int | None = None,
    max_samples: int = 400_000,
    learning_rate: float = 2e-3,
    temperature: float = 0.05,
    hidden: int = 96,
    size: int = 128,
    dropout: float = 0.1,
    candidates: int = 1000,
    threads: int | None = 1,
) -> RunConfig:
    """The configuration of a run on pronunciations; sizes in words. candidates: held-out words to be told apart.

    >>> config = joint(microbatch_size=64)
    >>> config.terms[0].over
    'minibatch'
    """
    score = on(contrastive, output=("first", "second"), keys=of_batch("sound"), temperature=temperature)
    return RunConfig(
        model=partial(make_model, hidden=hidden, size=size, dropout=dropout),
        inputs=INPUTS,
        terms=(Term("score", score, over="minibatch"),),
        metrics=(
            Collected("spoken", Recall, arguments=letters_first),
            Collected("spelled", Recall, arguments=phones_first),
        ),
        optimizers=partial(adam, learning_rate=learning_rate),
        schedules=(Warmup(samples=20_000, then=Cosine(learning_rate, samples=max_samples)),),
        clip_grad_norm=5.0,
        averaging=EMA(halflife=10_000),
        data=partial(converted, "joint"),
        source=open_source,
        validation_source=partial(held_out, candidates=candidates),
        validation_size=candidates,
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=50_000,
        save_every=100_000,
        threads=threads,
        device="auto",
        report=show_scores,
    )


def make_model(*, hidden: int, size: int, dropout: float, seed: int) -> nn.Module:
    """Two towers for the alphabets of letters and phones."""
    return TwoTowers(first_words=LETTERS, second_words=PHONES, hidden=hidden, size=size, dropout=dropout, seed=seed)


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with a weight decay of 0.01 on all but biases."""
    return optimizer("adamw", model, lr=learning_rate, weight_decay=0.01)


def open_source(prepared: Prepared, seed: int) -> MinibatchSource:
    """The dictionary by rows, with a number that homophones have in common."""
    return MinibatchSource(prepared.train, seed=seed, sequences="rows", transforms=[Sound()])


def held_out(prepared: Prepared, seed: int, *, candidates: int) -> MinibatchSource:
    """The words that are measured, one sweep of them."""
    assert prepared.valid is not None
    return MinibatchSource(
        chosen(Dataset.open(prepared.valid), candidates), shuffle=None, sequences="rows", transforms=[Sound()]
    )


def chosen(dataset: Dataset, count: int) -> Dataset:
    """The first `count` rows, in an order of their own that no seed changes, whose words and sounds are all different.

    Fewer if the data set has no more of them.
    """
    order = np.argsort(rng.bits(rng.key(0, "joint.candidates"), np.arange(len(dataset))), kind="stable")
    rows = dataset.read(order, ["word", "phones"])
    words, sounds, found = set[str](), set[bytes](), list[int]()
    for row, word, phones in zip(order.tolist(), rows["word"], rows["phones"], strict=True):
        if word not in words and phones.tobytes() not in sounds and len(found) < count:
            words.add(word)
            sounds.add(phones.tobytes())
            found.append(row)
    return subset(dataset, np.array(found))


def letters_first(outputs: Mapping[str, Tensor], batch: TensorBatch) -> Sequence[Tensor]:
    """Spellings look for pronunciations."""
    return outputs["first"], outputs["second"]


def phones_first(outputs: Mapping[str, Tensor], batch: TensorBatch) -> Sequence[Tensor]:
    """Pronunciations look for spellings."""
    return outputs["second"], outputs["first"]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A further field `sound`, int64 (n,): equal for words of equal phones (and, once in 2^32, for others).

    >>> from minibatch.ragged import Ragged
    >>> phones = Ragged(np.array([3, 4, 3, 4, 5]), np.array([0, 2, 4, 5]))
    >>> sound = Sound()({"phones": phones}, rng.Draws(7, "Sound", np.arange(3)))["sound"]
    >>> bool(sound[0] == sound[1]), bool(sound[0] == sound[2])
    (True, False)
    """

    def __call__(self, fields: Fields, draws: rng.Draws) -> Fields:
        sounds = [zlib.crc32(np.ascontiguousarray(phones).tobytes()) for phones in fields["phones"]]
        return {**fields, "sound": np.array(sounds, np.int64)}


def show_scores(finished: Finished) -> Mapping[str, float]:
    """Recall among all held-out words that differ, and scores.png: those of neighbours in the dictionary."""
    assert finished.prepared.valid is not None
    whole = Dataset.open(finished.prepared.valid)
    different = chosen(whole, len(whole))
    found = evaluate(
        finished.model, different, inputs=INPUTS, metrics=finished.config.metrics, minibatch_size=VALIDATION_SIZE
    )
    words = different.read(range(len(different)), ["word"])["word"]
    middle = np.argsort(words)[len(words) // 3 :][:SHOWN]
    draw_scores(finished.model, subset(different, middle), finished.out / "scores.png")
    return {f"{name} of {len(different):,}": value for name, value in found.items() if value is not None}


def draw_scores(model: nn.Module, dataset: Dataset, path: Path) -> None:
    """The score of every word of a small data set with every pronunciation there, as a PNG."""
    require("matplotlib", "train", "drawing the scores")
    from matplotlib.figure import Figure

    device = next(model.parameters()).device
    with MinibatchSource(dataset, shuffle=None, sequences="rows") as source:
        batch = source.next_minibatch(len(dataset))
    vectors = forward_function(INPUTS)(model, TensorBatch(batch, device=device))
    scores = (vectors["first"] @ vectors["second"].T).float().cpu().numpy()
    names = json.loads(next(f for f in dataset.fields.values() if f.name == "phones").metadata["vocabulary"])
    sounds = [" ".join(names[phone] for phone in phones) for phones in batch["phones"]]
    places = np.arange(len(sounds))
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(scores, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(places, sounds, rotation=90, fontsize=8)
    axes.set_yticks(places, batch["word"], fontsize=8)
    axes.set_title("score of a spelling (row) and a pronunciation (column), words held out", fontsize=11, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.6)
    figure.savefig(path, dpi=130)

"""ATIS: what a traveller wants and which words say it, two tasks on one recurrent net (CNTK's multitask learning).

    STREAMS="--stream words=S0:943:ids:sequence --stream intent=S1:26:ids:single --stream slots=S2:129:ids:sequence"
    minibatch convert atis.train.ctf data/atis/train $STREAMS
    minibatch convert atis.test.ctf data/atis/valid $STREAMS
    minibatch train multitask --data data/atis --out runs/multitask

The data are 4,978 and 893 queries from the Air Travel Information System (Hemphill, Godfrey and Doddington 1990) in
CNTK's text format, from its tutorial on language understanding: https://github.com/microsoft/CNTK,
Examples/LanguageUnderstanding/ATIS. A query has 3 to 48 words, its beginning and end counted, one of 26 intents, and
for each word one of 129 slots.

The loss is 0.3 · intent + slots, the means over the labels that are there: one row in five has no intent here, chosen
by a key of its own that no seed changes (`--set missing=0` gives them all). Its denominator is counted before the
forward pass, so that any cut into microbatches has the same gradient. Minibatches are of sentences of similar length,
padded; what is padded counts nowhere. Slots are measured by chunks as CoNLL's script does, see train/chunks.py.
All is measured with a moving average of the weights (`averaging`).

Expected: 95.8 % of the intents and F1 0.953 of the slots (seeds 1, 2 and 3: 95.7, 96.1 and 95.6; 0.954, 0.952 and
0.954), in about 2 min on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibatch import LengthGroups, MinibatchSource, rng
from minibatch.arguments import checked_number
from minibatch.models.tagger import Tagger
from minibatch.train.averaging import EMA
from minibatch.train.batches import TensorBatch
from minibatch.train.chunks import ChunkScores
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.losses import cross_entropy, on, present
from minibatch.train.metrics import Collected, Metric, accuracy
from minibatch.train.optimizers import optimizer
from minibatch.train.recipes.atis import SLOTS
from minibatch.train.recipes.converted import converted
from minibatch.train.schedules import Cosine, Warmup
from minibatch.train.terms import Term
from minibatch.transforms import Fields, named

WORDS, INTENTS = 943, 26
NO_INTENT = -1


def multitask(
    *,
    seed: int = 7,
    minibatch_size: int = 32,
    microbatch_size: int | None = None,
    max_samples: int = 150_000,
    learning_rate: float = 2e-3,
    intent_coefficient: float = 0.3,
    missing: float = 0.2,
    hidden: int = 160,
    dropout: float = 0.5,
    word_dropout: float = 0.1,
    threads: int | None = 1,
) -> RunConfig:
    """The configuration of a run on ATIS; sizes in sentences. missing: the share of rows whose intent is not shown.

    >>> config = multitask(intent_coefficient=0.5)
    >>> [(term.name, term.coefficient) for term in config.terms]
    [('intent', 0.5), ('slots', 1.0)]
    """
    checked_number(missing, "missing", least=0, most=1)
    intents = on(cross_entropy, "intent", output="intent", missing=NO_INTENT)
    return RunConfig(
        model=partial(make_model, hidden=hidden, dropout=dropout, word_dropout=word_dropout),
        inputs=("words", "words_lengths"),
        terms=(
            Term("intent", intents, mask=present("intent", missing=NO_INTENT), coefficient=intent_coefficient),
            Term("slots", on(cross_entropy, "slots", output="slots"), mask="slots_mask"),
        ),
        metrics=(
            Metric("intent accuracy", on(accuracy, "intent", output="intent")),
            Collected("slot", partial(ChunkScores, SLOTS), arguments=found_slots),
        ),
        optimizers=partial(adam, learning_rate=learning_rate),
        schedules=(Warmup(samples=2000, then=Cosine(learning_rate, samples=max_samples)),),
        clip_grad_norm=5.0,
        averaging=EMA(halflife=3000),
        data=partial(converted, "multitask"),
        source=partial(open_source, missing=missing),
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=20_000,
        save_every=20_000,
        threads=threads,
        device="auto",
    )


def make_model(*, hidden: int, dropout: float, word_dropout: float, seed: int) -> nn.Module:
    """The network for the words, intents and slots of ATIS."""
    return Tagger(
        words=WORDS,
        intents=INTENTS,
        slots=len(SLOTS),
        hidden=hidden,
        dropout=dropout,
        word_dropout=word_dropout,
        seed=seed,
    )


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with a weight decay of 0.01 on all but biases."""
    return optimizer("adamw", model, lr=learning_rate, weight_decay=0.01)


def open_source(prepared: Prepared, seed: int, *, missing: float) -> MinibatchSource:
    """Sentences by rows, 32 of similar length side by side, some of them without their intent."""
    return MinibatchSource(
        prepared.train,
        seed=seed,
        sequences="rows",
        shuffle=LengthGroups(rows=1024, group=32),
        transforms=[Hidden(share=missing)] if missing else [],
    )


def found_slots(outputs: Any, batch: TensorBatch) -> Sequence[Tensor]:
    """What `ChunkScores` compares: the slots that were found, those that are right, and where words are."""
    return outputs["slots"].argmax(1), batch["slots"], batch["slots_mask"]


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """The class numbers of `field` with -1 in a `share` of the rows: always the same rows, whatever the seed.

    >>> hidden = Hidden(share=0.5, field="label")
    >>> draws = rng.Draws(7, "Hidden", np.arange(4), rows=np.arange(4))
    >>> hidden({"label": np.array([5, 6, 7, 8])}, draws)["label"].tolist()
    [5, 6, -1, -1]
    """

    share: float
    field: str = "intent"

    def __call__(self, fields: Fields, draws: rng.Draws) -> Fields:
        labels = named(self.field, fields)
        assert draws.rows is not None  # of a data set that was converted
        hidden = rng.uniform(rng.key(0, "multitask.hidden"), draws.rows) < self.share
        return {**fields, self.field: np.where(hidden, NO_INTENT, labels)}

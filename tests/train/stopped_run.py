"""A run that is stopped by a signal: `python stopped_run.py DATA FOLDER [resume]`; exits with what `fit` says.

Every step takes 20 ms more than it needs, and says on stdout that it has begun and ended, so that a test knows when to
send its signal. With `hang` in the environment variable SLOW, the fifth step does not end by itself.
"""

import os
import sys
import time
from pathlib import Path

import torch

from minibatch.train import parameters_digest
from minibatch.train.losses import cross_entropy, on
from minibatch.train.terms import Term
from tests.train.small import make_source, make_trainer


def loss(outputs, batch):
    print("step begins", flush=True)
    CALLS.append(batch.num_samples)
    time.sleep(60.0 if os.environ.get("SLOW") == "hang" and len(CALLS) == 5 else 0.02)
    return CROSS(outputs, batch)


CALLS: list[int] = []
CROSS = on(cross_entropy, "label", output="logits")


def main(data: Path, folder: Path, resume: bool) -> int:
    torch.set_num_threads(1)
    with (
        make_source(data) as source,
        make_trainer(
            source, terms=Term("class", loss), folder=folder, microbatch_size=None, check_unreached=False
        ) as trainer,
    ):
        if resume:
            trainer.restore_from_checkpoint()
        ended = trainer.fit(
            max_samples=9 * 30,
            stop_on_signals=True,
            callbacks=[lambda trainer, result: print(f"step {result.step} ended", flush=True)],
        )
        print(f"fit ended: {ended.stopped}", flush=True)
        print(f"digest {parameters_digest(trainer.model)}", flush=True)
    return ended.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "resume" in sys.argv[3:]))

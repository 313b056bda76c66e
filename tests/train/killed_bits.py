"""A run of promise="bits" that is killed again and again: `python killed_bits.py DATA FOLDER SEED KILLS`, prints JSON.

As killed_run.py, and every life has another microbatch, another order of leaves and other habits of saving: checkpoints
are written by a thread, so that the signal often comes while one is.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from minibatch.train import EMA, Spikes, WeightL2, every, parameters_digest
from minibatch.train.digest import tensors_digest
from tests.train.killed_run import saved_time
from tests.train.small import make_source, make_trainer

SAMPLES = 1900
SIZES = (9, 17, 5)


def size(t):
    return SIZES[t // 100 % len(SIZES)]


def live(data: Path, folder: Path, draw: random.Random) -> str:
    """One life of the run, to its end if nobody ends it; the digest of weights, averages and skips."""
    with (
        make_source(data) as source,
        make_trainer(
            source,
            folder=folder,
            keep_last=3,
            log_every=draw.choice([1, 4, 50]),
            validation=data,
            promise="bits",
            leaf_size=4,
            minibatch_size=size,
            microbatch_size=draw.choice([None, 4, 6, 11]),
            averaging=EMA(halflife=300),
            regularizers=[WeightL2(coefficient=1e-3)],
            spikes=Spikes(action="rollback", rollback_steps=2, warmup=4, window=8, factor=8.0, most=100),
        ) as trainer,
    ):
        trainer.gradient.order = lambda cuts: draw.sample(cuts, len(cuts))
        if trainer.holds_a_run():
            trainer.restore_from_checkpoint()
        else:
            trainer.save_checkpoint(wait=draw.random() < 0.5)
        # Rollbacks go back to checkpoints, so what is a checkpoint is part of the run: one after every step. A life may
        # save more often than that, which writes the same one again.
        again = draw.randint(2, 9)
        trainer.fit(
            max_samples=SAMPLES,
            save_every=every.Steps(1),
            validate_every=400,
            callbacks=[
                lambda trainer, result: (
                    trainer.save_checkpoint(wait=False) and None if result.step % again == 0 else None
                )
            ],
        )
        averages = tensors_digest(trainer.averaging.tensors())
        return f"{parameters_digest(trainer.model)} {averages} {[(s.start, s.stop) for s in trainer.streams.skips]}"


def forked(data: Path, folder: Path, seed: int) -> int:
    """Start a life in a process of its own; its id. It leaves its digest beside the folder."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            (folder.with_suffix(".digest")).write_text(live(data, folder, random.Random(seed)))
            status = 0
        finally:
            os._exit(status)
    return child


def main(data: Path, folder: Path, seed: int, kills: int) -> None:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with make_source(data) as source:
        source.next_minibatch(1)
    whole = folder.with_name("whole")
    _, status = os.waitpid(forked(data, whole, 0), 0)
    draw = random.Random(seed)
    moments = []
    for number in range(kills):
        child = forked(data, folder, seed + number + 1)
        place = (number + draw.random()) / (kills + 1) * SAMPLES if number else -1
        while saved_time(folder) < place and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        moments.append([os.WIFSIGNALED(ended), saved_time(folder)])
    _, last = os.waitpid(forked(data, folder, seed), 0)
    digests = [path.with_suffix(".digest").read_text() for path in (whole, folder)]
    print(json.dumps({"status": [status, last], "moments": moments, "digests": digests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

"""A run that is killed again and again: `python killed_run.py DATA FOLDER SEED KILLS`, prints one line of JSON.

Everything is imported once, and each life of the run is a forked process that is ended by SIGKILL at a random moment,
wherever it then is: in a step, writing its ledger, saving. The last one may finish.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from minibatch.train import parameters_digest, read_ledger
from minibatch.train.checkpoint import checkpoints_in, time_of
from tests.train.small import make_source, make_trainer

SAMPLES = 9 * 300


def live(data: Path, folder: Path) -> str:
    """One life of the run: begin or resume, train to the end; the final digest."""
    with (
        make_source(data) as source,
        make_trainer(source, folder=folder, keep_last=2, log_every=5, validation=data, schedules=None) as trainer,
    ):
        if trainer.holds_a_run():
            trainer.restore_from_checkpoint()
        else:
            trainer.save_checkpoint()
        trainer.fit(max_samples=SAMPLES, save_every=31, validate_every=400)
        return parameters_digest(trainer.model)


def forked(data: Path, folder: Path) -> int:
    """Start a life in a process of its own; its id. It leaves its digest beside the folder."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            (folder.with_suffix(".digest")).write_text(live(data, folder))
            status = 0
        finally:
            os._exit(status)
    return child


def saved_time(folder: Path) -> int:
    """The nominal time of the newest checkpoint, complete or not."""
    return max(map(time_of, checkpoints_in(folder / "checkpoints")), default=-1)


def main(data: Path, folder: Path, seed: int, kills: int) -> None:
    torch.set_num_threads(1)
    # What every life would do first and slowly: the first optimizer imports half of torch, the first read the kernels.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with make_source(data) as source:
        source.next_minibatch(1)
    whole = folder.with_name("whole")
    _, status = os.waitpid(forked(data, whole), 0)
    draw = np.random.default_rng(seed)
    moments = []
    for number in range(kills):
        child = forked(data, folder)
        # A random place of the run, then a random moment; the first at its very start. By time alone, a busy machine
        # would never get beyond that.
        place = (number + draw.uniform()) / (kills + 1) * SAMPLES if number else -1
        while saved_time(folder) < place and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        ledger = folder / "ledger.jsonl"
        moments.append([os.WIFSIGNALED(ended), len(read_ledger(ledger)) if ledger.exists() else 0])
    last = forked(data, folder)
    os.waitpid(last, 0)
    digests = [path.with_suffix(".digest").read_text() for path in (whole, folder)]
    print(json.dumps({"status": status, "moments": moments, "digests": digests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

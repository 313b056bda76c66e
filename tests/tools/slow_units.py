"""A source whose units do what a test needs, in whatever process they are read."""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from minibatch.tools.sources import BadRecord
from minibatch.tools.workers import notice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Gives `pieces` pieces of `rows` rows that tell its number; `act` names what happens after them."""

    number: int
    pieces: int = 1
    rows: int = 10
    seconds: float = 0.0
    act: str = ""
    folder: str = ""
    bad: int = 0

    def batches(self):
        for piece in range(self.pieces):
            time.sleep(self.seconds)
            if self.folder:
                Path(self.folder, f"{self.number}-{piece}").touch()
            for place in range(self.bad):
                notice(BadRecord(f"file {self.number}", f"line {piece * self.bad + place}", "not good"))
            yield {
                "unit": np.full(self.rows, self.number),
                "piece": np.full(self.rows, piece),
                "torch": np.full(self.rows, "torch" in sys.modules),
            }
        getattr(self, f"_{self.act}", lambda: None)()

    def _raise(self):
        raise ValueError(f"unit {self.number} is damaged")

    def _raise_foreign(self):
        class StrangeError(Exception):
            """Known in this function alone."""

        raise StrangeError(f"unit {self.number} is strange")

    def _die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def _wait(self):
        Path(self.folder, f"pid-{os.getpid()}").touch()
        time.sleep(60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units:
    """The source of these units."""

    given: tuple[Unit, ...]
    rows = None
    metadata = {}  # noqa: RUF012

    def describe(self):
        return f"{len(self.given)} units"

    def units(self):
        return iter(self.given)

    def batches(self):
        for unit in self.given:
            yield from unit.batches()

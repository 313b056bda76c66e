"""Points: text files with two numbers a line, `x y`. As a stranger would add them to tools/sources in 30 lines."""

import dataclasses
import glob
from pathlib import Path

import numpy as np

from minibatch.tools.sources import BadRecord, Options


@dataclasses.dataclass(frozen=True)
class Points:
    files: tuple[str, ...]
    options: Options
    rows = None
    metadata = {"point": {"unit": "metre"}}  # noqa: RUF012

    def describe(self):
        return f"{len(self.files)} files of points"

    def units(self):
        return (Points((file,), self.options) for file in self.files)

    def batches(self):
        for file in self.files:
            points = []
            for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
                try:
                    x, y = line.split()
                    points.append((float(x), float(y)))
                except ValueError as error:
                    self.options.bad(BadRecord(file, f"line {number}", str(error)))
            yield {"point": np.array(points).reshape(-1, 2)}


def open_source(text, options):
    return Points(tuple(sorted(glob.glob(f"{text}/*.points"))), options)

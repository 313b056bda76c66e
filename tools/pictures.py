"""The two pictures of `make demo`: who read which sample when, and the loss curves that must coincide.

Both are drawn from what was recorded while running, never from what should have happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import require

CELL = 10  # pixels from one sample of the strip to the next: an image of 8 and a gap
BAR = 3  # pixels of the bar that says which reader gave a sample


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One row of the strip: the rows in the order they came, the reader each came from, and where minibatches ended."""

    title: str
    rows: NDArray[np.int64]
    readers: NDArray[np.int64]
    borders: Sequence[int]


def draw_strip(path: Path, lanes: Sequence[Lane], images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Write the strip as PNG: one lane of samples under another, each sample its 8×8 image in the colour of its label.

    `images` (M, 8, 8) are in [0, 1] and `labels` (M,) in 0 … 9, both indexed by row.
    """
    require("matplotlib", "train", "drawing the strip")
    import matplotlib
    from matplotlib.figure import Figure

    colours = matplotlib.colormaps["tab10"](np.arange(10))[:, :3]
    shades = matplotlib.colormaps["Greys"](np.linspace(0.35, 0.95, 4))[:, :3]
    figure = Figure(figsize=(15, 0.36 * len(lanes) + 0.6), layout="constrained")
    axes = figure.subplots(len(lanes), 1, sharex=True)
    for axis, lane in zip(np.atleast_1d(axes), lanes, strict=True):
        strip = np.ones((CELL + 2 * BAR, CELL * len(lane.rows), 3))
        for i, (row, reader) in enumerate(zip(lane.rows, lane.readers, strict=True)):
            left = i * CELL + 1
            ink = images[row][:, :, None]
            strip[1:9, left : left + 8] = 1 - ink * (1 - colours[labels[row]]) - 0.06 * (1 - ink)
            strip[CELL + 1 : CELL + 1 + BAR, i * CELL : (i + 1) * CELL] = shades[reader % len(shades)]
        axis.imshow(strip, interpolation="nearest")
        for border in lane.borders:
            axis.axvline(border * CELL - 0.5, color="black", linewidth=1.2)
        axis.set_ylabel(lane.title, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(yticks=[], xlim=(-0.5, CELL * len(lane.rows) - 0.5))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    ticks = np.arange(0, len(lanes[0].rows) + 1, 32)
    last = np.atleast_1d(axes)[-1]
    last.set_xticks(ticks * CELL - 0.5, [str(tick) for tick in ticks], fontsize=8)
    last.set_xlabel("nominal time   ·   line: end of a minibatch   ·   bar: which reader, one grey each", fontsize=9)
    figure.savefig(path, dpi=200)


def draw_curves(
    path: Path,
    times: NDArray[np.int64],
    uninterrupted: NDArray[np.float64],
    resumed: NDArray[np.float64],
    killed_at: int,
) -> None:
    """Write the loss of both runs over nominal time as PNG, and beneath it their difference on a scale of its own.

    `times`, `uninterrupted` and `resumed` are (steps,); `killed_at` is the nominal time from which the run was resumed.
    """
    require("matplotlib", "train", "drawing the loss curves")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot(times, uninterrupted, color="C0", linewidth=3, alpha=0.5, label="uninterrupted")
    upper.plot(times, resumed, color="C3", linewidth=1, label="killed and resumed")
    upper.axvline(
        killed_at, color="black", linewidth=1, linestyle="--", label=f"killed, resumed from t = {killed_at:,}"
    )
    upper.set(yscale="log", ylabel="training loss")
    upper.legend()
    difference = resumed - uninterrupted
    lower.plot(times, difference, color="C3", linewidth=1)
    lower.axvline(killed_at, color="black", linewidth=1, linestyle="--")
    most = float(np.abs(difference).max())
    lower.set(ylim=(-1e-9, 1e-9) if most == 0 else None, xlabel="nominal time (samples)", ylabel="difference")
    lower.set_title("exactly zero at every step" if most == 0 else f"largest difference {most:.3g}", fontsize=10)
    figure.savefig(path, dpi=200)

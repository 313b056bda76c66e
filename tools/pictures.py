"""Pictures as PNG: the curves of runs, and the two of `make demo`, who read which sample when, and the loss curves that
must coincide.

All are drawn from what was recorded while running, never from what should have happened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import require
from minibatch.tools.braille import better_in_log, short_number
from minibatch.tools.run_files import Run

if TYPE_CHECKING:
    from minibatch.tools.show_run import Panel

CELL = 10  # pixels from one sample of the strip to the next: an image of 8 and a gap
BAR = 3  # pixels of the bar that says which reader gave a sample
# Colours that are told apart with any kind of colour vision: Okabe and Ito 2008, "Color Universal Design".
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "0.4"


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


def draw_runs(path: Path, runs: Sequence[Run], names: Sequence[str]) -> None:
    """Write the curves of the runs as PNG, one panel for each loss, metric, the learning rate and the gradient.

    Training is a line smoothed over a fortieth of the run, above what it was smoothed from; held-out values are points.
    The axis of values is logarithmic where that spreads them more evenly. `names`: one a run.
    """
    require("matplotlib", "train", "drawing the curves of a run")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from minibatch.tools.show_run import panels_of, progress_text, title_of

    panels = panels_of(runs)
    if not panels:
        raise ValueError(f"there is nothing to draw yet: {', '.join(names)} without a step or a validation")
    across = min(3, max(1, len(panels) - 1))
    rows = 1 + -(-(len(panels) - 1) // across)
    figure = Figure(figsize=(10, 3.6 + 2.5 * (rows - 1)), layout="constrained")
    grid = figure.add_gridspec(rows, 6, height_ratios=(1.5, *[1.0] * (rows - 1)))
    first = None
    for place, panel in enumerate(panels):
        if first is None:
            axis = first = figure.add_subplot(grid[0, :])
        else:
            row, column = divmod(place - 1, across)
            in_row = min(across, len(panels) - 1 - row * across)  # a last row that is not full is stretched
            columns = slice(6 * column // in_row, 6 * (column + 1) // in_row)
            axis = figure.add_subplot(grid[1 + row, columns], sharex=first)
        _draw_panel(axis, panel, names)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        if place == 0 or (place - 1) // across == rows - 2:
            axis.set_xlabel("samples of nominal time" if place == 0 else "samples", fontsize=9, color=GREY)
    assert first is not None
    if len(runs) == 1 and runs[0].rows:
        _sweeps_above(first, runs[0].rows)
    if len(runs) == 1:
        figure.suptitle(f"{names[0]}   ", x=0.01, ha="left", fontsize=13, fontweight="bold")
        about = f"{title_of(runs[0])}, {runs[0].state}  ·  {progress_text(runs[0])}"
        figure.text(0.99, 0.995, about, ha="right", va="top", fontsize=8.5, color=GREY)
    figure.savefig(path, dpi=150)


def _draw_panel(axis: Any, panel: Panel, names: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from minibatch.tools.show_run import line_name, smoothed

    several = len(names) > 1
    bounds: list[float] = []
    for place, line in enumerate(panel.lines):
        curve, name = line.curve, line_name(line, names)
        colour = LINES[(line.run if several or panel.alone else place) % len(LINES)]
        bounds += curve.mean
        if line.held_out:
            style = "--" if several and not panel.alone else "-"
            points = {"marker": "o", "markersize": 4, "markerfacecolor": "white", "markeredgewidth": 1.3}
            axis.plot(curve.t, curve.mean, color=colour, linewidth=1.3, linestyle=style, label=name, zorder=4, **points)
            continue
        smooth = smoothed(curve.mean, len(curve.mean) // 40 if panel.noisy else 0)
        if panel.noisy and not several:
            axis.fill_between(curve.t, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if smooth != list(curve.mean):
            axis.plot(curve.t, curve.mean, color=colour, linewidth=0.6, alpha=0.25 if several else 0.35)
        axis.plot(curve.t, smooth, color=colour, linewidth=1.7, label=name, zorder=3)
    if max(bounds) - min(bounds) <= 1e-9 * abs(max(bounds)):  # a constant, but for roundings
        axis.set_ylim(*sorted((0.5 * bounds[0], 1.5 * bounds[0])) if bounds[0] else (-1.0, 1.0))
    elif better_in_log(bounds):
        axis.set_yscale("log")
        decades = math.log10(max(bounds) / min(bounds))
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_title(panel.title, loc="left", fontsize=10.5, color="0.15")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("0.7")
    axis.tick_params(which="both", colors=GREY, labelsize=8.5, length=3)
    axis.tick_params(which="minor", length=0)
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.015)
    if len(panel.lines) > 1:
        axis.legend(frameon=False, fontsize=8.5, labelcolor="0.25", handlelength=1.6)


def _sweeps_above(axis: Any, rows: int) -> None:
    """A second scale on top: the same positions in sweeps of the data."""
    above = axis.secondary_xaxis("top", functions=(lambda t: t / rows, lambda sweeps: sweeps * rows))
    above.set_xlabel("sweeps", fontsize=8.5, color=GREY)
    above.tick_params(colors=GREY, labelsize=8, length=3)
    above.spines["top"].set_visible(False)

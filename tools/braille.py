"""Curves in the terminal: dots of braille characters, two across and four down in each, with axes and a legend.

An own drawing and no library: what is needed is a hundred lines, it has to go into rich's columns and colours, and the
libraries that do it (plotext, uniplot) draw into global state or print by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

COLOURS = ("bright_blue", "yellow", "bright_magenta", "bright_green", "bright_red", "cyan")
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of the dot at [column][row] of a character


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: points x, y (n,), ascending in x. marks: drawn as single points with this character, not as a line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[0]
    marks: str = ""


def draw(
    title: str, series: Sequence[Series], *, width: int, height: int, unicode: bool = True, xlabel: str = ""
) -> list[Text]:
    """The lines of a panel: title with legend, `height` rows of the curves with their axis, and the axis of x.

    width: columns of the whole. The axis of values is logarithmic where `better_in_log` says so. Without `unicode` in
    ASCII. Values that are not finite are left out.

    >>> from rich.text import Text
    >>> for line in draw("loss", [Series(name="a", x=[0, 10, 20], y=[1, 2, 4])], width=24, height=3): print(line)
    loss
      4┤              ⣀⡠⠤⠒⠉
      2┤         ⣀⡠⠔⠒⠉
       │⣀⡠⠤⠤⠒⠒⠊⠉⠉⠁
       └┬────────┬────────┬
        0       10       20
    """
    points = [(x, y) for one in series for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    if not points:
        return [Text(title, "bold"), Text("(no values yet)", "dim")]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    left = 0 if 0 < left < right / 10 else left
    low, high = min(y for _, y in points), max(y for _, y in points)
    logarithmic = better_in_log([y for _, y in points])
    ticks = log_ticks(low, high) if logarithmic else nice_ticks(low, high, max(2, height // 3 + 1))
    if high - low <= 1e-9 * abs(high):  # a constant, but for roundings
        ticks = [high]
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if high else (-1.0, 1.0)
    scale = math.log10 if logarithmic else float
    bottom, top = scale(low), scale(high)
    labels = distinct_numbers(ticks)
    margin = max(map(len, labels)) + 3
    canvas = Canvas(max(8, width - margin - 1), height)
    for one in series:
        dots = [
            (
                canvas.columns * ((x - left) / (right - left) if right > left else 0.5),
                canvas.rows * (top - scale(y)) / (top - bottom),
            )
            for x, y in zip(one.x, one.y, strict=True)
            if math.isfinite(y)
        ]
        canvas.draw(dots, one.colour, one.marks)
    return [
        heading(title + (" (log)" if logarithmic else ""), series, width, unicode),
        *rows_with_axis(canvas, ticks, labels, margin, scale, bottom, top, unicode),
        *x_axis(left, right, canvas.width, margin, xlabel, unicode),
    ]


class Canvas:
    """Characters `width` × `height`, each of 2 × 4 dots of one colour: that of the curve drawn last."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.columns, self.rows = 2 * width - 1, 4 * height - 1  # of the last dot in each direction
        self.bits = [[0] * width for _ in range(height)]
        self.colour = [[""] * width for _ in range(height)]
        self.marks = [[""] * width for _ in range(height)]

    def draw(self, dots: Sequence[tuple[float, float]], colour: str, marks: str) -> None:
        """A line through all dots (column, row), or a mark on each."""
        if marks:
            for x, y in dots:
                row, column = round(y) // 4, round(x) // 2
                self.marks[row][column], self.colour[row][column] = marks, colour
            return
        for x, y in dots[:1]:
            self._dot(round(x), round(y), colour)
        for (x0, y0), (x1, y1) in pairwise(dots):
            steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
            for step in range(1, steps + 1):
                self._dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps), colour)

    def _dot(self, x: int, y: int, colour: str) -> None:
        self.bits[y // 4][x // 2] |= DOTS[x % 2][y % 4]
        self.colour[y // 4][x // 2] = colour

    def row(self, number: int, unicode: bool) -> Text:
        text = Text()
        for bits, mark, colour in zip(self.bits[number], self.marks[number], self.colour[number], strict=True):
            dots = (chr(0x2800 + bits) if unicode else ".") if bits else " "
            text.append(mark if mark and unicode else "o" if mark else dots, colour or None)
        return text


def rows_with_axis(
    canvas: Canvas,
    ticks: Sequence[float],
    labels: Sequence[str],
    margin: int,
    scale: object,
    bottom: float,
    top: float,
    unicode: bool,
) -> list[Text]:
    """The rows of the canvas, each with what stands on the axis of y beside it."""
    assert callable(scale)
    at = {
        round(canvas.rows * (top - scale(tick)) / (top - bottom)) // 4: label
        for tick, label in zip(ticks, labels, strict=True)
    }
    lines = []
    for number in range(canvas.height):
        label = at.get(number)
        edge = ("┤" if label else "│") if unicode else ("+" if label else "|")
        line = Text(f"{label or '':>{margin - 1}}{edge}", "dim")
        line.append_text(canvas.row(number, unicode))
        line.rstrip()
        lines.append(line)
    return lines


def x_axis(left: float, right: float, width: int, margin: int, xlabel: str, unicode: bool) -> list[Text]:
    """The two lines beneath a canvas."""
    corner, dash, tick_mark = ("└", "─", "┬") if unicode else ("+", "-", "+")
    ticks = [left, right]
    for wanted in range(max(2, width // 10), 1, -1):
        inner = [tick for tick in nice_ticks(left, right, wanted) if left <= tick <= right]
        ticks = sorted({left, *inner}) if inner and inner[0] - left > (right - left) / 12 else inner or ticks
        if len(ticks) * 9 <= width + 8:
            break
    edge, names = [dash] * width, [" "] * (width + margin)
    for tick in ticks:
        place = round((width - 1) * ((tick - left) / (right - left) if right > left else 0.5))
        text = short_number(tick)
        begin = min(max(0, margin + place - len(text) // 2), width + margin - len(text))
        if any(character != " " for character in names[max(0, begin - 1) : begin + len(text) + 1]):
            continue
        edge[place] = tick_mark
        names[begin : begin + len(text)] = text
    label = "".join(names)
    if xlabel and label[-len(xlabel) - 2 :].strip() == "":
        label = label[: -len(xlabel)] + xlabel
    return [Text(" " * (margin - 1) + corner + "".join(edge), "dim"), Text(label.rstrip(), "dim")]


def heading(title: str, series: Sequence[Series], width: int, unicode: bool) -> Text:
    """The title, and behind it which curve is which if there are several."""
    line = Text(title, "bold")
    legend = Text(" ")
    for one in series:
        if one.name:
            sign = (one.marks if unicode else "o") if one.marks else ("⠤" if unicode else ".")
            legend.append(f" {sign}", one.colour)
            legend.append(f" {one.name}", "not bold")
    if len(series) > 1 and line.cell_len + legend.cell_len <= width:  # half a legend would be none
        line.append_text(legend)
    line.truncate(width, overflow="ellipsis")
    return line


def better_in_log(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis spreads these values more evenly: they are above 0, differ by more than a factor of 4,
    and their median lies nearer to the middle there.

    >>> better_in_log([2.0, 0.3, 0.1, 0.05]), better_in_log([1e-6, 0.3, 0.5, 0.7, 1.0]), better_in_log([0.0, 10.0])
    (True, False, False)
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered or ordered[0] <= 0 or ordered[-1] <= 4 * ordered[0]:
        return False
    low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    linear = (middle - low) / (high - low)
    return abs(math.log(middle / low) / math.log(high / low) - 0.5) < abs(linear - 0.5)


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` and at least two multiples of 1, 2 or 5 times a power of ten in [low, high].

    >>> nice_ticks(0.13, 0.98, 4), nice_ticks(3.0, 3.0, 4)
    ([0.2, 0.4, 0.6, 0.8], [3.0])
    """
    if high <= low:
        return [low]
    for wanted in range(max(1, count), 12):
        rough = (high - low) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(low / step - 1e-9)
        found = [float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]
        if len(found) > 1:
            return found
    return [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; with fewer than three of them also 2 and 5 times those, or 3 times."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{factor}e{power}") for power in decades for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= 3:
            break
    if len(found) > 6:
        found = found[:: -(-len(found) // 6)]
    return found or [low, high]


def distinct_numbers(values: Sequence[float]) -> list[str]:
    """Numbers in as few digits as tell them apart.

    >>> distinct_numbers([1.0, 1.0005, 1.001])
    ['1', '1.0005', '1.001']
    """
    for digits in range(3, 17):
        found = [short_number(value, digits) for value in values]
        if len(set(found)) == len(set(values)):
            break
    return found


def short_number(value: float, digits: int = 3) -> str:
    """A number in few characters.

    >>> [short_number(v) for v in (0, 0.25, 1500, 20_000, 1_250_000, 3e-7, 12.0)]
    ['0', '0.25', '1.5k', '20k', '1.25M', '3e-07', '12']
    """
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.{max(4, digits)}g}{unit}"
    return f"{value:.{digits}g}"

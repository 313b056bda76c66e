"""What the commands on the past of a run share: which steps are asked for, how rows and labels of them are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from minibatch import Dataset
from minibatch.tools import show_images
from minibatch.tools.run_options import require_training
from minibatch.tools.show_values import class_name, row_of, scalar_text

if TYPE_CHECKING:
    from minibatch.train.travel import Past

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Folder of its data sets (default: RUN/data).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
LABEL_WIDTH = 16


def open_past(run: Path, data: Path | None) -> Past:
    """The past of the run in a folder."""
    require_training("looking into the past of a run")
    from minibatch.train.travel import Past

    return Past(run, data=data)


def asked_steps(text: str) -> tuple[int, int]:
    """First step and the one behind the last of `A` or `A:B`.

    >>> asked_steps("7"), asked_steps("7:10")
    ((7, 8), (7, 10))
    """
    first, colon, last = text.partition(":")
    try:
        start = int(first)
        stop = int(last) if colon else start + 1
    except ValueError:
        raise typer.BadParameter(f"step {text!r}: expected a number, or A:B for the steps A … B - 1") from None
    if not 1 <= start < stop:
        raise typer.BadParameter(f"step {text}: expected 1 <= A < B, steps are counted from 1")
    return start, stop


def labels_of(dataset: Dataset, rows: Any) -> tuple[str | None, list[str]]:
    """The field that names rows best (a class, a label, a title), if there is one, and what it says of each."""
    name = show_images.caption_field(dataset.fields)
    if name is None:
        return None, [""] * len(rows)
    field = dataset.fields[name]
    column = dataset.read(np.asarray(rows, np.int64), [name])[name]
    texts = []
    for place in range(len(rows)):
        value = row_of(column, place)
        named = class_name(int(value), field) if field.dtype.kind in "iu" else ""
        texts.append((scalar_text(value) + named)[:LABEL_WIDTH])
    return name, texts


def number_text(value: float | None) -> str:
    """A number with six digits; an absent one as a dash.

    >>> number_text(0.1234567), number_text(None)
    ('0.123457', '-')
    """
    return "-" if value is None else f"{value:.6g}"


def interval_text(t0: int, t1: int) -> str:
    """An interval of nominal time.

    >>> interval_text(1024, 1088)
    '[1,024, 1,088)'
    """
    return f"[{t0:,}, {t1:,})"


def shortened(name: str, most: int = 30) -> str:
    """A name of at most `most` characters, its end kept: there it says which one it is.

    >>> shortened("optimizer:0/layers.0.weight/momentum_buffer", 20)
    '…ght/momentum_buffer'
    """
    return name if len(name) <= most else "…" + name[1 - most :]

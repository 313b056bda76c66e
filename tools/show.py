"""`minibatch show DIR`: what a data set holds, on one screen; `--images` draws a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from minibatch import Dataset
from minibatch.columns import LIST, SPARSE_WIDTH
from minibatch.errors import MissingExtraError, SchemaError
from minibatch.limits import Memory, available_memory
from minibatch.order import make_order
from minibatch.tools import show_images
from minibatch.tools.run_files import holds_a_run
from minibatch.tools.screen import counted, plain_table, print_json, screen, size_text
from minibatch.tools.show_run import show_runs
from minibatch.tools.show_values import classes_of, plain_value, row_of, type_text, value_text

SHARDS_SHOWN = 10
SAMPLES_SHOWN, SHEET_IMAGES = 3, 64  # if nobody says how many
LENGTHS_READ = 2_000_000  # rows whose lengths are looked at; of larger data sets as many, evenly spread
WINDOWS_IN_MEMORY = 4  # a window as large as a quarter of memory: it and the next one fit, and the trainer


def show(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="The data set; or a run, or several.", show_default=False)
    ],
    samples: Annotated[int | None, typer.Option(min=0, help="How many rows to show (default: 3).")] = None,
    rows: Annotated[str | None, typer.Option(metavar="A:B", help="Show rows A … B - 1, not the first ones.")] = None,
    seed: Annotated[int | None, typer.Option(help="Show the rows that a source with this seed gives first.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Draw the images on a contact sheet.")] = None,
    field: Annotated[str | None, typer.Option(help="The field with the images, if there are several.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Of runs: draw their curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """What a data set holds: fields, rows, shards, sizes, lengths, a few samples. Of a run: its state and its curves.

    Rows are shown as numbers, beginnings of texts and lists, and small images where the terminal has the colours.
    Several runs are compared.
    """
    directory = directories[0]
    if len(directories) > 1 or png is not None or holds_a_run(directory):
        return show_runs(directories, png=png, as_json=as_json)
    dataset = Dataset.open(directory)
    default = SAMPLES_SHOWN if images is None else SHEET_IMAGES
    numbers = chosen_rows(dataset, rows, seed, samples, default)
    if images is not None:
        count = draw_sheet(dataset, numbers, field, images)
        numbers = numbers[:SAMPLES_SHOWN]
        screen(stderr=True).print(Text(f"{counted(count, 'image')} in {images}"), soft_wrap=True)
    view = View(dataset=dataset, numbers=numbers, columns=dataset.read(numbers), lengths=length_statistics(dataset))
    if as_json:
        print_json(as_document(view, available_memory()))
    else:
        print_summary(view, screen(), available_memory())


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown: the data set, the rows `numbers` int64 (n,), their `columns`, and statistics of list fields."""

    dataset: Dataset
    numbers: NDArray[np.int64]
    columns: dict[str, Any]
    lengths: dict[str, dict[str, Any]]


def chosen_rows(
    dataset: Dataset, span: str | None, seed: int | None, samples: int | None, default: int
) -> NDArray[np.int64]:
    """The rows to show: the first ones, those of A:B, or those that come first in the full order of `seed`."""
    if span is None:
        count = min(default if samples is None else samples, len(dataset))
        if seed is None:
            return np.arange(count)
        if not count:
            return np.zeros(0, np.int64)
        order = make_order("full", rows=len(dataset), chunk_rows=dataset.chunk_rows, seed=seed)
        return order.rows_at(0, count)
    if seed is not None:
        raise typer.BadParameter("give --rows or --seed, not both")
    first, colon, last = span.partition(":")
    try:
        start = int(first or 0)
        stop = int(last or len(dataset)) if colon else start + 1
    except ValueError:
        raise typer.BadParameter(f"--rows {span!r}: expected A:B, for example 100:103") from None
    if not 0 <= start < stop <= len(dataset):
        raise typer.BadParameter(f"--rows {span}: expected 0 <= A < B <= {len(dataset)}, the number of rows")
    return np.arange(start, stop if samples is None else min(stop, start + samples))


def length_statistics(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Of each list field: how long its lists are, least, mean, median, 95 of 100, most and total."""
    names = [name for name, field in dataset.fields.items() if field.layout == LIST or field.depth]
    if not names or not len(dataset):
        return {}
    looked = min(len(dataset), LENGTHS_READ)
    rows = np.arange(looked) * len(dataset) // looked
    found = {}
    for name in names:
        lengths = dataset.lengths(rows, [name])
        found[name] = {
            "rows": looked,
            "least": int(lengths.min()),
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "percentile_95": float(np.percentile(lengths, 95)),
            "most": int(lengths.max()),
            "total": int(lengths.sum()),
        }
    return found


def draw_sheet(dataset: Dataset, numbers: NDArray[np.int64], wanted: str | None, path: Path) -> int:
    """Draw the images of the given rows on a sheet; how many they are."""
    name = image_field(dataset, numbers, wanted)
    beneath = show_images.caption_field({other: field for other, field in dataset.fields.items() if other != name})
    columns = dataset.read(numbers, [name] if beneath is None else [name, beneath])
    images = [pixels_of_row(columns[name][place], name, row) for place, row in enumerate(numbers.tolist())]
    captions = captions_of(dataset, numbers, columns, beneath)
    show_images.write_sheet(path, images, captions)
    return len(images)


def image_field(dataset: Dataset, numbers: NDArray[np.int64], wanted: str | None) -> str:
    """The field whose images are drawn: `wanted`, or the first that has any."""
    names = dataset.select(None if wanted is None else [wanted])
    columns = dataset.read(numbers[:1], names)
    for name in names if len(numbers) else ():
        if show_images.is_image(dataset.fields[name], row_of(columns[name], 0)):
            return name
    kinds = ", ".join(f"{name} {type_text(dataset.fields[name])}" for name in names)
    raise ValueError(
        f"there is no image in {dataset.name}: {kinds}; expected bytes of JPEG, PNG, … or arrays of the shape "
        f"(height, width), (height, width, 1 to 4) or (1 to 4, height, width)"
    )


def pixels_of_row(value: Any, name: str, row: int) -> show_images.Pixels:
    """The image of a row; an error names the row."""
    try:
        return show_images.pixels_of(value)
    except SchemaError as error:
        raise SchemaError(f"field {name!r}, row {row}: {error}") from None


def captions_of(dataset: Dataset, numbers: Any, columns: dict[str, Any], beneath: str | None) -> list[str]:
    """The number of each row, and its label if there is one."""
    if beneath is None:
        return [str(row) for row in numbers.tolist()]
    field = dataset.fields[beneath]
    labels = [show_images.caption_of(value, field) for value in columns[beneath]]
    return [f"{row} {label}" for row, label in zip(numbers.tolist(), labels, strict=True)]


def advice(dataset: Dataset, memory: Memory | None) -> int | None:
    """The rows of a window that this machine's memory suggests; None where the data fit.

    Two windows, the one that is read and the next, then fill at most half of what is available.
    """
    if memory is None or dataset.stored_bytes <= memory.available:
        return None
    row = dataset.stored_bytes / len(dataset)
    chunks = int(memory.available / WINDOWS_IN_MEMORY / row / dataset.chunk_rows)
    return min(len(dataset), max(1, chunks) * dataset.chunk_rows)


def as_document(view: View, memory: Memory | None) -> dict[str, Any]:
    """Everything that is shown, and the whole of what is shown shortened."""
    dataset, manifest = view.dataset, view.dataset.manifest
    return {
        "path": dataset.name,
        "rows": manifest.rows,
        "bytes": dataset.stored_bytes,
        "chunk_rows": manifest.chunk_rows,
        "fingerprint": manifest.fingerprint or None,
        "source": manifest.source,
        "created_by": manifest.created_by,
        "fields": [
            {
                "name": name,
                "type": type_text(field),
                "shape": field.shape,
                "classes": classes_of(field) or None,
                "lengths": view.lengths.get(name),
                "metadata": field.metadata,
            }
            for name, field in dataset.fields.items()
        ],
        "shards": [{"file": shard.file, "rows": shard.rows, "bytes": shard.bytes} for shard in manifest.shards],
        "sample_rows": view.numbers.tolist(),
        "samples": {
            name: [plain_value(row_of(values, place), dataset.fields[name]) for place in range(len(view.numbers))]
            for name, values in view.columns.items()
        },
        "memory_available": None if memory is None else memory.available,
        "window_advised": advice(dataset, memory),
    }


def print_summary(view: View, console: Console, memory: Memory | None) -> None:
    """The data set in a few lines, its fields with values, lengths and notes, its images, its shards, advice."""
    dataset, manifest = view.dataset, view.dataset.manifest
    console.print(Text(dataset.name, "bold"), soft_wrap=True)
    size = f"{size_text(dataset.stored_bytes)} in {counted(len(manifest.shards), 'shard')}"
    console.print(f"{counted(manifest.rows, 'row')}, {size}, chunks of {counted(manifest.chunk_rows, 'row')}")
    if manifest.fingerprint:
        console.print(f"fingerprint {manifest.fingerprint}")
        console.print(Text(f"written by {manifest.created_by} from {manifest.source or 'rows of a program'}\n"))
    else:
        console.print("read where they lie: no manifest, so no fingerprint or digests\n")
    print_fields(view, console)
    print_lengths(view, console)
    print_notes(dataset, console)
    print_images(view, console)
    print_shards(dataset, console)
    if (window := advice(dataset, memory)) is not None and memory is not None:
        share = size_text(window * dataset.stored_bytes / len(dataset))
        console.print()
        console.print(
            f"The data ({size_text(dataset.stored_bytes)}) exceed the memory that is available "
            f"({size_text(memory.available)}: {memory.bound}). A full shuffle would read from the disk for every row: "
            f"use shuffle=Window(rows={window}), {share} a window."
        )


def print_fields(view: View, console: Console) -> None:
    """Each field with its type and the values of the rows, one beneath the other."""
    numbers = view.numbers
    titles = ["field", "type"]
    if len(numbers):
        last = numbers[0] + len(numbers) - 1
        together = (numbers == np.arange(numbers[0], last + 1)).all()
        span = f"{numbers[0]}–{last}" if together and last > numbers[0] else " ".join(map(str, numbers[:6].tolist()))
        titles.append(f"row{'s' * (len(numbers) > 1)} {span}{' …' * (not together and len(numbers) > 6)}")
    table = plain_table(*titles)
    for name, field in view.dataset.fields.items():
        column = view.columns[name]
        cells = [Text(name, "bold"), Text(type_text(field))]
        if len(numbers):
            lines = (value_text(row_of(column, place), field) for place in range(len(numbers)))
            cells.append(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))
        table.add_row(*cells)
    if len(numbers):
        table.columns[2].no_wrap = False  # so that it gives way first where it is narrow
    console.print(table)


def print_lengths(view: View, console: Console) -> None:
    """How long the lists of each field are."""
    if not view.lengths:
        return
    titles = ("least", "mean", "median", "95 %", "most", "total")
    table = plain_table("length", *titles, right=titles)
    for name, found in view.lengths.items():
        numbers = (found[key] for key in ("least", "mean", "median", "percentile_95", "most", "total"))
        table.add_row(Text(name, "bold"), *(f"{number:,.1f}".removesuffix(".0") for number in numbers))
    console.print()
    console.print(table)
    looked = next(iter(view.lengths.values()))["rows"]
    if looked < len(view.dataset):
        console.print(f"of {looked:,} rows, evenly spread")


def print_notes(dataset: Dataset, console: Console) -> None:
    """The names of classes, and what else is noted beside the fields."""
    for name, field in dataset.fields.items():
        notes = dict(field.metadata)
        if classes := classes_of(field):
            notes["classes"] = f"{len(classes)}: {', '.join(f'{number} {text}' for number, text in enumerate(classes))}"
        for key, note in notes.items():
            if key != SPARSE_WIDTH:  # the type tells it
                console.print(Text(f"{name} {key}: {note}"), no_wrap=True, overflow="ellipsis")


def print_images(view: View, console: Console) -> None:
    """The images of each field that has some, where the terminal can show them."""
    if not len(view.numbers) or not show_images.can_draw(console):
        return
    for name, field in view.dataset.fields.items():
        column = view.columns[name]
        if not show_images.is_image(field, row_of(column, 0)):
            continue
        beneath = show_images.caption_field({key: each for key, each in view.dataset.fields.items() if key != name})
        try:
            images = [pixels_of_row(column[place], name, row) for place, row in enumerate(view.numbers[:3].tolist())]
        except (MissingExtraError, SchemaError) as error:
            console.print(Text(f"{name}: {error}"), soft_wrap=True)
            continue
        console.print()
        show_images.draw(console, images, captions_of(view.dataset, view.numbers, view.columns, beneath)[:3])


def print_shards(dataset: Dataset, console: Console) -> None:
    """The first shards with their rows and sizes."""
    shards = dataset.manifest.shards
    table = plain_table("shard", "rows", "size", right=("rows", "size"))
    for shard in shards[:SHARDS_SHOWN]:
        table.add_row(Text(shard.file), f"{shard.rows:,}", size_text(shard.bytes))
    if len(shards) > SHARDS_SHOWN:
        table.add_row(f"… {len(shards) - SHARDS_SHOWN:,} more")
    console.print()
    console.print(table)

"""`minibatch show DIR`: what a data set holds, on one screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minibatch import Dataset
from minibatch.columns import Field, element_type
from minibatch.storage import MANIFEST

SHARDS_SHOWN = 10
ELEMENTS_SHOWN = 6  # of an array; of larger ones the range


def show(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data set.", show_default=False)],
    samples: Annotated[int, typer.Option(min=0, help="How many of the first rows to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """What a data set holds: fields, rows, shards, sizes, a few samples."""
    if not (directory / MANIFEST).exists() and (directory / "ledger.jsonl").exists():
        raise ValueError(
            f"{directory} holds a run, not a data set: its data sets are in data/, its steps in ledger.jsonl, its "
            "values on held-out data in validation.jsonl, its result in result.json"
        )
    dataset = Dataset.open(directory)
    rows = dataset.read(np.arange(min(samples, len(dataset))))
    if as_json:
        print(json.dumps(as_document(dataset, rows), indent=1, ensure_ascii=False))
    else:
        print_summary(dataset, rows)


def as_document(dataset: Dataset, rows: dict[str, Any]) -> dict[str, Any]:
    """Everything that is shown, and the whole of what is shown shortened."""
    manifest = dataset.manifest
    return {
        "path": str(dataset.folder),
        "rows": manifest.rows,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "chunk_rows": manifest.chunk_rows,
        "fingerprint": manifest.fingerprint,
        "source": manifest.source,
        "created_by": manifest.created_by,
        "fields": [
            {"name": name, "type": type_text(field), "shape": field.shape, "metadata": field.metadata}
            for name, field in dataset.fields.items()
        ],
        "shards": [{"file": shard.file, "rows": shard.rows, "bytes": shard.bytes} for shard in manifest.shards],
        "samples": {name: [plain_value(value) for value in values] for name, values in rows.items()},
    }


def plain_value(value: Any) -> Any:
    """A value for JSON: itself, or what there is to say about bytes, larger arrays and what JSON has no numbers for."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if np.size(value) > ELEMENTS_SHOWN:
        return {"shape": value.shape, "min": plain_value(value.min()), "max": plain_value(value.max())}
    return value.tolist() if np.isfinite(value).all() else str(value)


def print_summary(dataset: Dataset, rows: dict[str, Any]) -> None:
    """The data set in a few lines, its fields with their first values, what is noted beside them, its shards."""
    console, manifest = Console(highlight=False), dataset.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    shards = f"{len(manifest.shards):,} shard{'s' * (len(manifest.shards) != 1)}"
    console.print(Text(str(dataset.folder), "bold"), soft_wrap=True)
    console.print(
        f"{manifest.rows:,} rows, {size / 1e6:,.1f} MB in {shards}, "
        f"chunks of {manifest.chunk_rows:,} row{'s' * (manifest.chunk_rows != 1)}\nfingerprint {manifest.fingerprint}"
    )
    console.print(Text(f"written by {manifest.created_by} from {manifest.source or 'rows of a program'}\n"))

    shown = len(next(iter(rows.values())))
    fields = Table(box=None, pad_edge=False)
    for title in ("field", "type", "first rows" if shown else ""):
        fields.add_column(title, no_wrap=title in ("field", "type"))  # the others give way first where it is narrow
    for name, field in dataset.fields.items():
        values = "\n".join(value_text(value, field) for value in rows[name])
        fields.add_row(Text(name, "bold"), Text(type_text(field)), Text(values, no_wrap=True, overflow="ellipsis"))
    console.print(fields)
    for name, field in dataset.fields.items():
        for key, note in field.metadata.items():
            console.print(Text(f"{name} {key}: {note}"), no_wrap=True, overflow="ellipsis")

    files = Table(box=None, pad_edge=False)
    for title in ("shard", "rows", "MB"):
        files.add_column(title, justify="left" if title == "shard" else "right")
    for shard in manifest.shards[:SHARDS_SHOWN]:
        files.add_row(shard.file, f"{shard.rows:,}", f"{shard.bytes / 1e6:,.1f}")
    if len(manifest.shards) > SHARDS_SHOWN:
        files.add_row(f"… {len(manifest.shards) - SHARDS_SHOWN:,} more")
    console.print()
    console.print(files)


def type_text(field: Field) -> str:
    """The type of a row: `float32 (8, 8)`, `int64`, `text`; of dates and durations the unit too."""
    if field.dtype == object:
        return "text" if field.is_text else "bytes"
    element = element_type(field.arrow_type)
    kind = str(element) if pa.types.is_temporal(element) else str(field.dtype)
    return f"{kind} {field.shape}" if field.shape else kind


def value_text(value: Any, field: Field) -> str:
    """One value in a few words.

    >>> import pyarrow as pa
    >>> from minibatch.columns import field_of
    >>> value_text(np.arange(100), field_of(pa.field("x", pa.list_(pa.int64(), 100))))
    '0 to 99, mean 49.5'
    """
    if isinstance(value, str):
        return value if len(value) <= 60 and value.isprintable() else repr(value[:60]) + "…" * (len(value) > 60)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes ({value[:8].hex(' ')}{' …' * (len(value) > 8)})"
    if np.size(value) > ELEMENTS_SHOWN:
        return f"{number_text(value.min())} to {number_text(value.max())}, mean {number_text(value.mean())}"
    if np.ndim(value):
        return " ".join(number_text(element) for element in value.ravel())
    return number_text(value) + (class_name(int(value), field) if field.dtype.kind in "iu" else "")


def number_text(number: Any) -> str:
    """A number as it is; of a floating-point one six digits."""
    return f"{number:.6g}" if isinstance(number, np.floating) else str(number)


def class_name(label: int, field: Field) -> str:
    """The name of class `label` in brackets, if the field notes the names of its classes."""
    try:
        classes = json.loads(field.metadata.get("classes", "[]"))
        return f" ({classes[label]})" if 0 <= label < len(classes) else ""
    except (ValueError, TypeError, KeyError):  # "classes" may mean anything to whoever wrote the data set
        return ""

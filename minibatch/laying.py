"""What a user asks of a source, as an order of rows and an axis over them."""

from collections.abc import Sequence
from typing import Any

from minibatch import order as orders
from minibatch import timeline
from minibatch.arguments import checked_integer
from minibatch.axis import Axis, RowAxis
from minibatch.columns import LIST
from minibatch.dataset import Dataset
from minibatch.errors import SchemaError
from minibatch.fetch import Fetcher
from minibatch.lanes import LaneAxis
from minibatch.length_groups import LengthGroups, make_grouped_order
from minibatch.mixture import Mixture
from minibatch.packing import PackedAxis
from minibatch.readahead import ReadAhead
from minibatch.sequences import Lengths, WholeAxis
from minibatch.timeline import Holes
from minibatch.views import concatenate

SEQUENCES = ("whole", "rows", "packed", "truncated")


def open_data(data: Any, fields: Sequence[str] | None, nulls: Any) -> tuple[Dataset, dict[str, Dataset]]:
    """The data set to lay on the axis, and for a mixture the one of each source by name."""
    if not isinstance(data, Mixture):
        return Dataset.open(data, fields, nulls), {}
    sources = {name: Dataset.open(each, fields, nulls) for name, each in data.data.items()}
    first, *others = sources.values()
    if not others:
        return first, sources
    lists = [
        name for name, field in first.fields.items() if field.depth and all(name in each.fields for each in others)
    ]
    # Lists that nobody picked are there all the same: their lengths may count.
    wanted = None if fields is None else list(dict.fromkeys([*fields, *lists]))
    return concatenate(list(sources.values()), wanted), sources


def lay_order(
    data: Any, dataset: Dataset, sources: dict[str, Dataset], shuffle: Any, names: list[str], seed: int
) -> Any:
    """The order of the rows: `shuffle`'s; for a mixture, that of each of its sources, mixed."""

    def own(dataset: Dataset, seed: int) -> Any:
        rows, chunk_rows = len(dataset), dataset.chunk_rows
        if not isinstance(shuffle, LengthGroups):
            return orders.make_order(shuffle, rows=rows, chunk_rows=chunk_rows, seed=seed)
        if not names:
            raise SchemaError(f"LengthGroups needs a list field whose lengths count; {dataset.name} has none")
        return make_grouped_order(
            shuffle,
            rows=rows,
            chunk_rows=chunk_rows,
            seed=seed,
            lengths=lambda rows: dataset.lengths(rows, names),
            length_of=" ".join(names),
        )

    if isinstance(data, Mixture):
        return data.order(lambda name, seed: own(sources[name], seed), seed=seed)
    return own(dataset, seed)


def length_fields(dataset: Dataset, length_field: str | None) -> list[str]:
    """The fields whose lengths count: `length_field`, or all lists."""
    lists = [name for name, field in dataset.fields.items() if field.depth]
    if length_field is None:
        return lists
    if length_field not in lists:
        dataset.select([length_field])
        raise SchemaError(f"length_field={length_field!r} is no list of {dataset.name}: its lists are {lists}")
    return [length_field]


def lay_axis(
    mode: str,
    fetcher: Fetcher,
    reader: ReadAhead,
    holes: Holes,
    names: list[str],
    end: int,
    max_samples: int | None,
    block: int | None,
    lanes: int | None,
) -> Axis:
    """The axis that `sequences=mode` lays over the rows; `end` is where that of rows ends."""
    for name, value, of in (("block", block, "packed"), ("lanes", lanes, "truncated")):
        if (value is None) == (mode == of):
            raise ValueError(
                f"sequences={of!r} needs {name}=…"
                if value is None
                else f"{name}= belongs to sequences={of!r}, not to {mode!r}"
            )
    if mode == "rows":
        return RowAxis(fetcher.order, reader, end)
    lengths = Lengths(fetcher.dataset, fetcher.order, names, end)
    if max_samples is not None:
        checked_integer(max_samples, "max_samples", least=0)
    if mode == "whole":
        return WholeAxis(lengths, reader, holes, max_samples)
    refuse_unpackable(mode, fetcher, names)
    if mode == "packed":
        return PackedAxis(lengths, reader, holes, max_samples, checked_integer(block, "block", least=1))
    return LaneAxis(lengths, fetcher, holes, max_samples, checked_integer(lanes, "lanes", least=1))


def refuse_unpackable(mode: str, fetcher: Fetcher, names: list[str]) -> None:
    """Raise `SchemaError` unless there is a list of numbers to lay end to end."""
    fields = {name: fetcher.dataset.fields[name] for name in fetcher.names}
    if not any(field.depth for field in fields.values()) or not names:
        raise SchemaError(f"sequences={mode!r} needs a list field to lay end to end; the fields are {list(fields)}")
    for name, field in fields.items():
        if field.depth > 1 or (field.depth and (field.layout != LIST or field.is_bytes)) or field.width:
            raise SchemaError(f"field {name!r} cannot be packed: it is no list of numbers; pick others with fields=…")


def end_of_rows(mode: str, order: Any, max_samples: int | None, max_sweeps: int | None) -> int:
    """The place on the axis of rows at which it ends."""
    end = getattr(order, "end", None)
    if end is not None and max_sweeps is not None:
        raise ValueError("a mixture has no sweeps of its own: give max_sweeps to Mixture, by source")
    counted = timeline.end_of_axis(order.rows, max_samples if mode == "rows" else None, max_sweeps)
    return counted if end is None else min(counted, int(end))

"""Data sets made of others without copying a row: some rows of one, its parts, several end to end.

A view is a `Dataset`: it has a length, fields, a fingerprint derived from its parents' and from what defines it, and
`MinibatchSource` takes it. Its rows are numbered from 0 on. A copy, also one pickled into another process, opens its
parents again. Views hold 8 bytes for each of their rows; a concatenation of whole data sets holds none. Joining two
data sets by a key is in `minibatch.joining`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from minibatch import rng
from minibatch.chunks import Chunks
from minibatch.columns import SPARSE, Field
from minibatch.dataset import Dataset, Part, known
from minibatch.errors import SchemaError
from minibatch.kernels import keys, permute
from minibatch.manifest import canonical
from minibatch.memory import Pool
from minibatch.ragged import Ragged

ROWS_AT_ONCE = 1 << 18  # keys are read block by block

Rows = slice | range | Sequence[int] | NDArray[np.integer[Any]]


def subset(dataset: Dataset, rows: Rows) -> Dataset:
    """The given rows of `dataset`, in the given order, as a data set of their own.

    `rows` is a slice, a range, or integers (n,) in 0 … len(dataset) − 1, repetitions allowed. Raises `IndexError` for a
    row that does not exist, `TypeError` for rows that are no integers.

    >>> import tempfile
    >>> from minibatch import Dataset, DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10) ** 2})
    >>> odd = subset(Dataset.open(folder), slice(1, None, 2))
    >>> len(odd), odd.read([0, 4])["x"].tolist()
    (5, [1, 81])
    """
    found = chosen_rows(dataset, rows)
    defined_by = rows if isinstance(rows, slice | range) else found  # short to pickle; an array might change later
    return picked(dataset, found, f"subset({dataset.name})", (subset, (dataset, defined_by)))


def split(dataset: Dataset, parts: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> dict[str, Dataset]:
    """The rows of `dataset` divided among the names of `parts`: one data set for each.

    With shares, as in {"train": 0.9, "valid": 0.1}, a row's side is decided by a hash of its number, or of its field
    `by` (an integer, text or bytes) where one is given: all rows with one key are on one side, and a row never changes
    sides when rows are appended, or, with `by`, whatever is added, removed or reordered. Shares are met on average.
    With slices or ranges, as in {"train": slice(900), "valid": slice(900, None)}, by the number of the row; they may
    not overlap, and rows in none of them are left out.

    >>> import tempfile
    >>> from minibatch import Dataset, DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(1000)})
    >>> sides = split(Dataset.open(folder), {"train": 0.9, "valid": 0.1}, seed=7)
    >>> {name: len(side) for name, side in sides.items()}
    {'train': 898, 'valid': 102}
    """
    if not isinstance(parts, Mapping) or not parts:
        raise TypeError(f'split takes {{"train": 0.9, "valid": 0.1}} or slices in their place, got {parts!r}')
    spans = [isinstance(part, slice | range) for part in parts.values()]
    if any(spans):
        if by is not None or not all(spans):
            raise TypeError(f"split takes shares (and perhaps by=), or slices and ranges alone, got {dict(parts)!r}")
        found = {name: chosen_rows(dataset, part) for name, part in parts.items()}
        seen = np.concatenate(list(found.values()))
        shown, times = np.unique(seen, return_counts=True)
        if len(shown) < len(seen):
            raise ValueError(f"the parts overlap: row {shown[times > 1][0]} is in more than one, in {dict(parts)!r}")
    else:
        side = np.searchsorted(thresholds(parts), side_words(dataset, by, seed), side="right")
        found = {name: np.flatnonzero(side == i) for i, name in enumerate(parts)}
    return {
        name: picked(dataset, rows, f"{name} of {dataset.name}", (one_side, (dataset, dict(parts), by, seed, name)))
        for name, rows in found.items()
    }


def one_side(dataset: Dataset, parts: Mapping[str, Any], by: str | None, seed: int, name: str) -> Dataset:
    """One data set of a split; how it is opened again."""
    return split(dataset, parts, by=by, seed=seed)[name]


def concatenate(datasets: Sequence[Dataset], fields: Sequence[str] | None = None) -> Dataset:
    """The rows of all data sets, one after another: row r of data set i is row r + (the rows of those before it).

    All must have the same fields, of the same types; with `fields` only those matter. A windowed order counts in the
    largest of their chunks. Raises `SchemaError` naming what differs.

    >>> import tempfile
    >>> from minibatch import Dataset, DatasetWriter
    >>> folders = [tempfile.mkdtemp() for _ in range(2)]
    >>> for i, folder in enumerate(folders):
    ...     with DatasetWriter(folder) as writer:
    ...         writer.write({"x": np.arange(3) + 10 * i})
    >>> concatenate([Dataset.open(folder) for folder in folders]).read(range(6))["x"].tolist()
    [0, 1, 2, 10, 11, 12]
    """
    datasets = list(datasets)
    if not datasets or not all(isinstance(dataset, Dataset) for dataset in datasets):
        raise TypeError(f"concatenate takes a list of data sets, at least one, got {datasets!r}")
    names = [dataset.select(fields) for dataset in datasets]
    if len(datasets) == 1 and set(names[0]) == set(datasets[0].fields):
        return datasets[0]
    for dataset, found in zip(datasets[1:], names[1:], strict=True):
        if set(found) != set(names[0]):
            raise SchemaError(
                f"{dataset.name} has the fields {found}, {datasets[0].name} has {names[0]}: "
                f"pass fields=[…] to take those that all have"
            )
    layouts = [parts_with(dataset, names[0]) for dataset in datasets]
    for dataset, layout in zip(datasets, layouts, strict=True):
        if len(layout) != len(layouts[0]):
            raise SchemaError(
                f"{dataset.name} has its fields in {len(layout)} data sets joined, {datasets[0].name} in "
                f"{len(layouts[0])}: concatenate first, then join"
            )
    parts = [laid_end_to_end(datasets, each, names[0]) for each in zip(*layouts, strict=True)]
    return Dataset(
        parts,
        rows=sum(map(len, datasets)),
        chunk_rows=max(dataset.chunk_rows for dataset in datasets),
        fingerprint=lambda: digest("concatenate", [dataset.fingerprint for dataset in datasets]),
        reopen=(concatenate, (datasets, fields)),
        name=f"concatenate([{', '.join(dataset.name for dataset in datasets)}])",
    )


def parts_with(dataset: Dataset, names: Sequence[str]) -> list[Part]:
    """The parts of a data set in which some of the fields `names` lie; one of them if there are none."""
    return [part for part in dataset.parts if not part.fields.keys().isdisjoint(names)] or [dataset.parts[-1]]


def laid_end_to_end(datasets: Sequence[Dataset], parts: Sequence[Part], names: Sequence[str]) -> Part:
    """One part of each of several data sets as one part, of the fields among `names`."""
    fields = {name: field for name, field in parts[0].fields.items() if name in names}
    for dataset, part in zip(datasets[1:], parts[1:], strict=True):
        for name, field in fields.items():
            if name not in part.fields:
                raise SchemaError(
                    f"field {name!r} lies with others in {dataset.name} than in {datasets[0].name}, which are joins: "
                    f"concatenate first, then join"
                )
            ours, theirs = stored_as(field, parts[0].chunks), stored_as(part.fields[name], part.chunks)
            if ours != theirs:
                raise SchemaError(
                    f"field {name!r} is {theirs} in {dataset.name} and {ours} in {datasets[0].name}: "
                    f"convert one of them to the type of the other"
                )
    stored = {field.name: field for field in fields.values()}
    # Copies: a data set that is there twice has two places, and a view shows that it is one.
    places = [replace(place) for part in parts for place in part.chunks.places]
    nulls = {name: value for name, value in parts[0].chunks.nulls.items() if name in stored}
    rows = None
    if any(part.picked is not None for part in parts):
        bases = np.cumsum([0, *(part.chunks.rows for part in parts)])
        whole = (np.arange(part.chunks.rows) if part.picked is None else part.picked for part in parts)
        rows = np.concatenate([base + own for base, own in zip(bases, whole, strict=False)])
    return Part(chunks=Chunks(places, stored, nulls), fields=fields, picked=rows)


def stored_as(field: Field, chunks: Chunks) -> list[Any]:
    """What must be alike in two fields for one kernel to read both: type, column, where it lies, and nulls."""
    where = [[leaf.dtype.name, leaf.shape, leaf.levels, leaf.path] for leaf in field.leaves]
    return [*field.describe(), field.layout, field.width, field.column, where, repr(chunks.nulls.get(field.name))]


def picked(
    dataset: Dataset,
    rows: NDArray[np.int64],
    name: str,
    reopen: tuple[Callable[..., Dataset], tuple[Any, ...]],
) -> Dataset:
    """The view of `dataset` that has its `rows`, int64 (n,), all of them there."""
    return Dataset(
        [picked_part(part, rows) for part in dataset.parts],
        rows=len(rows),
        chunk_rows=dataset.chunk_rows,
        fingerprint=lambda: digest("rows", [dataset.fingerprint], xxhash.xxh3_128_hexdigest(rows.tobytes())),
        reopen=reopen,
        name=name,
    )


def picked_part(part: Part, rows: NDArray[np.int64]) -> Part:
    """A part with its `rows`, int64 (n,), in place of all of them."""
    return replace(part, picked=rows if part.picked is None else part.picked[rows])


def digest(kind: str, parents: Sequence[str], *defined_by: Any) -> str:
    """The fingerprint of a view: of its parents' and of what defines it, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(canonical([kind, list(parents), *defined_by]))


def chosen_rows(dataset: Dataset, rows: Rows) -> NDArray[np.int64]:
    """`rows` as int64 (n,), all of them rows of `dataset`."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(len(dataset)), dtype=np.int64)
    if isinstance(rows, range):
        wanted = np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)
    else:
        wanted = np.asarray(rows)
    if wanted.size == 0:
        wanted = wanted.astype(np.int64)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        hint = "; of a mask take np.flatnonzero(mask)" if wanted.dtype == np.bool_ else ""
        raise TypeError(f"rows must be a slice or integers (n,), got {wanted.dtype} of shape {wanted.shape}{hint}")
    bad = np.flatnonzero((wanted < 0) | (wanted >= len(dataset)))
    if len(bad):
        raise IndexError(f"row {wanted[bad[0]]} of {dataset.name}, which has rows 0 … {len(dataset) - 1}")
    return np.array(wanted, np.int64)  # a copy: what defines a view must not change


def thresholds(shares: Mapping[str, Any]) -> NDArray[np.uint64]:
    """Where on the 63-bit words each side but the last ends: uint64 (sides − 1,)."""
    exact: list[Fraction] = []
    for name, share in shares.items():
        try:
            exact.append(Fraction(str(share)) if isinstance(share, float) else Fraction(share))
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"the share of {name!r} must be a number such as 0.9, got {share!r}") from None
        if isinstance(share, bool) or exact[-1].numerator < 0:
            raise ValueError(f"the share of {name!r} must be a number from 0 on, got {share!r}")
    ends = [sum(exact[: i + 1], Fraction(0)) for i in range(len(exact))]
    if abs(ends[-1] - 1) > Fraction(1, 10**9):  # 1/3 as a float is a little less
        raise ValueError(
            f"shares must add up to 1, these add up to {float(ends[-1]):g}: {dict(shares)!r}; name what is left over "
            f"too, for example as 'rest'"
        )
    return np.array([min(int(end * 2**63), 2**63) for end in ends[:-1]], np.uint64)


def side_words(dataset: Dataset, by: str | None, seed: int) -> NDArray[np.uint64]:
    """The word that decides the side of each row, uint64 (rows,) below 2^63: a hash of seed and key."""
    key = np.uint64(rng.key(seed, "split"))
    words = np.empty(len(dataset), np.uint64)
    begin = 0
    for block in row_blocks(dataset) if by is None else key_blocks(dataset, by):
        if isinstance(block, Ragged):
            given = np.empty(len(block), np.uint64)
            keys.text_words(block.values, block.offsets, given)
        else:
            given = block.astype(np.uint64)  # negative ones wrap
        part = words[begin : begin + len(given)]
        permute.fill_keyed(key, given.view(np.int64), 0, part.reshape(-1, 1))
        begin += len(given)
    return words >> np.uint64(1)


def row_blocks(dataset: Dataset) -> Iterator[NDArray[np.int64]]:
    """The numbers of all rows, int64, block by block."""
    for begin in range(0, len(dataset), ROWS_AT_ONCE):
        yield np.arange(begin, min(begin + ROWS_AT_ONCE, len(dataset)), dtype=np.int64)


def key_blocks(dataset: Dataset, name: str) -> Iterator[Any]:
    """The keys of all rows, block by block: integers (n,), or the bytes of text as a `Ragged`.

    Raises `SchemaError` for a field whose values are no keys.
    """
    field = dataset.fields[known(name, dataset.fields, dataset.name)]
    single = field.depth == 0 and field.shape == () and field.layout != SPARSE
    if not single or not (field.is_bytes or field.dtype.kind in "iub"):
        raise SchemaError(
            f"field {name!r} of {dataset.name} is {field.describe()[1:3]}: a key is an integer, text or bytes"
        )
    gatherings, pool = dataset.gatherings([name]), Pool()
    for rows in row_blocks(dataset):
        yield dataset.gather(rows, gatherings, pool)[name].values

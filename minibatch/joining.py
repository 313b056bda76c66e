"""Two data sets as one, row by row where their keys are equal: CNTK's composite reader.

The order and the number of rows are the left one's; each gets the fields of its one partner on the right. Which row
that is, is found once by a hash join and kept beside the left data set in `join-<digest>.npy`: the digest is of both
fingerprints and both keys, so an index of other data is never taken for this one's.
"""

import io
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from minibatch.columns import VALID
from minibatch.dataset import Dataset, Part, known
from minibatch.errors import DatasetError, SchemaError
from minibatch.ragged import Ragged
from minibatch.storage import sync_folder
from minibatch.views import digest, key_blocks, picked_part

INDEX_VERSION = 1
MOST_PARTNERS = 2**31 - 1  # Arrow looks values up as 32-bit numbers
ABSENT = -1
DIGEST_WORDS = 4  # 128 bits behind the index, as int32

On = str | tuple[str, str]


class JoinedDataset(Dataset):
    """What `join` gives: a `Dataset` that also says how many rows of the left one were `dropped`."""

    dropped: int = 0


def join(
    left: Dataset,
    right: Dataset,
    on: On,
    missing: Literal["error", "drop"] = "error",
    prefix: str = "",
    suffix: str = "",
) -> JoinedDataset:
    """The rows of `left`, each with the fields of the row of `right` that has the same key.

    `on` is the field with the key, an integer, text or bytes, or a (left, right) pair of fields. Keys on the left may
    repeat; on the right a repeated key is an error that names it. A row of the left without a partner is an error too,
    or is left out with `missing="drop"`; `dropped` of the result says how many were. Fields of the right that are
    called like one of the left get `prefix` and `suffix`; the key itself comes once where both are called alike.

    Raises `SchemaError` for keys that cannot be compared and for names that clash, `DatasetError` for keys that are
    missing or repeated. Takes some 20 bytes of memory for each row while the index is built, and the keys.

    >>> import tempfile
    >>> from minibatch import Dataset, DatasetWriter
    >>> folders = [tempfile.mkdtemp() for _ in range(2)]
    >>> with DatasetWriter(folders[0]) as writer:
    ...     writer.write({"id": np.array([7, 3, 7]), "x": np.arange(3)})
    >>> with DatasetWriter(folders[1]) as writer:
    ...     writer.write({"id": np.array([3, 5, 7]), "name": ["three", "five", "seven"]})
    >>> both = join(*map(Dataset.open, folders), on="id")
    >>> both.read([0, 1, 2], ["x", "name"])
    {'x': array([0, 1, 2]), 'name': array(['seven', 'three', 'seven'], dtype=object)}
    """
    if missing not in ("error", "drop"):
        raise ValueError(f'missing must be "error" or "drop", got {missing!r}')
    left_key, right_key = (on, on) if isinstance(on, str) else pair_of_names(on)
    known(left_key, left.fields, left.name)
    known(right_key, right.fields, right.name)
    refuse_other_units(left, right, left_key, right_key)
    names = names_of_right(left, right, left_key, right_key, prefix, suffix)
    index = partners(left, right, left_key, right_key)
    absent = np.flatnonzero(index == ABSENT)
    if len(absent) and missing == "error":
        keys = list(dict.fromkeys(left.read(absent[:20], [left_key])[left_key].tolist()))[:3]
        raise DatasetError(
            f"{len(absent)} of the {len(left)} rows of {left.name} have no partner in {right.name}: the keys "
            f"{listed(keys, len(absent))} of field {left_key!r} are not in its field {right_key!r}; "
            f'add them there, or leave these rows out with missing="drop"'
        )
    rows = np.flatnonzero(index != ABSENT) if len(absent) else None
    index = index if rows is None else index[rows]
    joined = JoinedDataset(
        [
            *(part if rows is None else picked_part(part, rows) for part in left.parts),
            *(renamed(picked_part(part, index), names) for part in right.parts),
        ],
        rows=len(index),
        chunk_rows=left.chunk_rows,
        fingerprint=lambda: digest(
            "join", [left.fingerprint, right.fingerprint], left_key, right_key, missing, prefix, suffix
        ),
        reopen=(join, (left, right, on, missing, prefix, suffix)),
        name=f"join({left.name}, {right.name})",
    )
    joined.dropped = len(absent)
    return joined


def refuse_other_units(left: Dataset, right: Dataset, left_key: str, right_key: str) -> None:
    """Raise `SchemaError` where one key is a time and the other another kind of time, or none: 1 s is not 1 ms."""
    sides = [(left, left_key), (right, right_key)]
    kinds = [dataset.fields[key].describe()[1] for dataset, key in sides]
    timed = any(pa.types.is_temporal(dataset.fields[key].arrow_type) for dataset, key in sides)
    if timed and kinds[0] != kinds[1]:
        raise SchemaError(
            f"the keys {left_key!r} of {left.name} ({kinds[0]}) and {right_key!r} of {right.name} ({kinds[1]}) are not "
            f"of one kind: convert one of them"
        )


def pair_of_names(on: Any) -> tuple[str, str]:
    """`on` as the names of two fields, or the error that says what it may be."""
    if not isinstance(on, tuple | list) or len(on) != 2 or not all(isinstance(name, str) for name in on):
        raise TypeError(f'on must be the name of a field, or a pair ("left key", "right key"), got {on!r}')
    return on[0], on[1]


def listed(keys: list[Any], count: int) -> str:
    """Some keys, and that there are more."""
    return ", ".join(map(repr, keys)) + (", …" if count > len(keys) else "")


def names_of_right(
    left: Dataset, right: Dataset, left_key: str, right_key: str, prefix: str, suffix: str
) -> dict[str, str]:
    """What the fields of the right are called in the join, without the key where both call it alike."""
    names = {}
    for name in right.fields:
        base = name.removesuffix(VALID) if right.fields[name].is_mask else name
        if base == right_key == left_key:
            continue
        tail = name[len(base) :]
        names[name] = f"{prefix}{base}{suffix}{tail}" if name in left.fields or base in left.fields else name
    found = [*left.fields, *names.values()]
    clashes = sorted({name for name in found if found.count(name) > 1})
    if clashes:
        raise SchemaError(
            f"{left.name} and {right.name} both have {clashes}: say prefix=… or suffix=… for those of the second, such "
            f"that all names differ"
        )
    return names


def renamed(part: Part, names: Mapping[str, str]) -> Part:
    """A part with its fields called as `names` says, without those that are not in it."""
    fields = {names[name]: field for name, field in part.fields.items() if name in names}
    return Part(chunks=part.chunks, fields=fields, picked=part.picked)


def partners(left: Dataset, right: Dataset, left_key: str, right_key: str) -> NDArray[np.int64]:
    """The row of `right` with the key of each row of `left`, int64 (rows of left,); ABSENT where there is none."""

    def found() -> NDArray[np.int32]:
        return partners_by_key(left, right, left_key, right_key)

    if not (has_manifests(left) and has_manifests(right)):  # a fingerprint would take longer than the index
        return found().astype(np.int64)
    name = digest("join index", [left.fingerprint, right.fingerprint], INDEX_VERSION, left_key, right_key)
    return kept(left.folder / f"join-{name}.npy", found, len(left), len(right)).astype(np.int64)


def has_manifests(dataset: Dataset) -> bool:
    """Whether the fingerprints of all that a data set is made of are known without reading it."""
    return all(place.manifest.fingerprint for part in dataset.parts for place in part.chunks.places)


def kept(path: Path, found: Callable[[], NDArray[np.int32]], rows: int, partner_rows: int) -> NDArray[np.int32]:
    """The index that the file `path` keeps; found anew and written there if it has none, or a damaged one."""
    with suppress(OSError, ValueError, EOFError):
        stored = np.load(path, allow_pickle=False)
        index, check = stored[:-DIGEST_WORDS], stored[-DIGEST_WORDS:]
        whole = stored.dtype == np.int32 and stored.shape == (rows + DIGEST_WORDS,)
        if whole and np.array_equal(check, digest_words(index)) and index.max(initial=ABSENT) < partner_rows:
            return np.asarray(index)
    index = found()
    content = io.BytesIO()
    np.save(content, np.concatenate([index, digest_words(index)]), allow_pickle=False)
    with suppress(OSError):  # a folder that cannot be written to, or is full: the index is found anew next time
        write_beside(path, content.getbuffer())
    return index


def digest_words(index: NDArray[np.int32]) -> NDArray[np.int32]:
    """The XXH3-128 digest of an index as int32 (4,)."""
    return np.frombuffer(xxhash.xxh3_128_digest(index.tobytes()), np.int32)


def write_beside(path: Path, content: memoryview) -> None:
    """Give `path` its bytes, all or nothing; processes that do so at once each have a file of their own until then."""
    descriptor, partial = tempfile.mkstemp(prefix=path.name + ".", suffix=".partial", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)  # mkstemp's files are for their owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    sync_folder(path.parent)


def partners_by_key(left: Dataset, right: Dataset, left_key: str, right_key: str) -> NDArray[np.int32]:
    """The hash join: int32 (rows of left,).

    Raises `DatasetError` naming keys that the right has more than once, `SchemaError` for keys of unlike types.
    """
    if len(right) > MOST_PARTNERS:
        raise DatasetError(f"{right.name} has {len(right):,} rows; the second data set of a join has at most 2**31 - 1")
    ours, theirs = key_column(left, left_key), key_column(right, right_key).combine_chunks()
    if ours.type != theirs.type:
        raise SchemaError(
            f"field {left_key!r} of {left.name} is {left.fields[left_key].describe()[1]}, field {right_key!r} of "
            f"{right.name} is {right.fields[right_key].describe()[1]}: such keys are never equal"
        )
    if len(pc.unique(theirs)) < len(theirs):
        counted = pc.value_counts(theirs)
        repeated = counted.filter(pc.greater(counted.field("counts"), 1))
        first = [pc.index(theirs, value).as_py() for value in repeated.field("values")[:3]]
        keys = right.read(first, [right_key])[right_key].tolist()
        raise DatasetError(
            f"{len(repeated)} keys stand more than once in field {right_key!r} of {right.name}: "
            f"{listed(keys, len(repeated))}; leave one row of each, for example with minibatch.views.subset"
        )
    found = pc.index_in(ours, value_set=theirs)
    chunks = [chunk.fill_null(ABSENT).to_numpy(zero_copy_only=False) for chunk in found.chunks]
    return np.concatenate([np.empty(0, np.int32), *chunks])


def key_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """The keys of all rows as an Arrow column: int64, or large_binary for text and bytes."""
    chunks = []
    for block in key_blocks(dataset, name):
        if isinstance(block, Ragged):
            buffers = [None, pa.py_buffer(block.offsets), pa.py_buffer(np.ascontiguousarray(block.values))]
            chunks.append(pa.Array.from_buffers(pa.large_binary(), len(block), buffers))
            continue
        if block.dtype == np.uint64 and block.max(initial=0) > np.iinfo(np.int64).max:
            raise SchemaError(
                f"field {name!r} of {dataset.name} has the key {block.max()}, which int64 does not hold: store it as "
                f"text, or as bytes"
            )
        chunks.append(pa.array(block.astype(np.int64)))
    kind = pa.large_binary() if dataset.fields[name].is_bytes else pa.int64()
    return pa.chunked_array(chunks, kind)

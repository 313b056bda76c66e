"""Lists, texts, sparse vectors and encoded columns under attack: damage is refused or found, and nothing crashes.

Each attack runs in a process of its own, which a crash would end. Values that were changed and are as good as the old
ones can only be found by a digest: where there is a manifest, `check_dataset` must find them; in files of others it
cannot, and reading must still give values or a `DatasetError`, in little time and memory.
"""

import collections
import json
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from minibatch import Dataset, NullMask, Ragged, Sparse
from minibatch.check import check_dataset
from minibatch.errors import DamagedDatasetError, DatasetError
from tests import datasets
from tests.syntax import ROOT

SPARSE = {"sparse_width": "9"}
ROWS = 7


def columns(target):
    """The columns of a target: every layout that has offsets, indices or widths that somebody may have changed."""
    n = range(ROWS)
    if target == "lists":
        return {
            "numbers": pa.array([[i] * (i % 3) for i in n], pa.list_(pa.int16())),
            "bits": pa.array([[True] * (i % 4) for i in n], pa.large_list(pa.bool_())),
            "boxes": pa.array([[[i, 2]] * (i % 3) for i in n], pa.list_(pa.list_(pa.float16(), 2))),
            "words": pa.array([["ab" * (i % 2), "c"][: i % 3] for i in n], pa.list_(pa.string())),
            "nested": pa.array([[[i], []][: i % 3] for i in n], pa.list_(pa.large_list(pa.int8()))),
        }
    if target == "encoded":
        words = pa.array([["a", "bcd", ""][i % 3] for i in n])
        return {
            "dictionary": words.dictionary_encode(),
            "inside": pa.ListArray.from_arrays([0, 1, 1, 3, 4, 5, 6, 7], words.dictionary_encode()),
            "runs": pa.RunEndEncodedArray.from_arrays([2, 3, ROWS], pa.array([1.5, 2.5, 3.5])),
            "view": pa.array(["short" if i % 2 else "longer than what lies inline" for i in n], pa.string_view()),
            "list view": pa.array([[i] * (i % 3) for i in n], pa.list_view(pa.int32())),
        }
    vectors = [[{"indices": [i, 8], "values": [1.0, i / 2]}] * (i % 3) for i in n]
    kind = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])
    return {
        "sparse": pa.array([{"indices": [i] * (i % 3), "values": [i / 2] * (i % 3)} for i in n], kind),
        "sequence": pa.array(vectors, pa.list_(kind)),
        "struct": pa.array([{"a": i, "b": {"c": [i]}} for i in n]),
        "structs": pa.array([[{"x": i, "y": "z"}] * (i % 2) for i in n]),
    }


def write(folder, target, compression=None):
    """The data set of a target in two chunks of one shard; and what reading it gives."""
    every = columns(target)
    chunks = [{name: column.slice(*part) for name, column in every.items()} for part in ((0, 3), (3, 4))]
    metadata = dict.fromkeys(("sparse", "sequence"), SPARSE)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    datasets.write_foreign(folder, [chunks], metadata=metadata, options=options, names="part {}.arrow")
    return datasets.read_all(folder)


def test_a_data_set_of_lists_is_intact_until_one_value_changes(tmp_path):
    fields = datasets.every_list(40, first=1)
    folder = datasets.put(tmp_path / "d", fields, 7, 20)
    assert check_dataset(folder) == []
    shard = folder / "shard-00001.arrow"
    content = shard.read_bytes()
    at = content.index(np.arange(24, 28, dtype="<i4").tobytes())  # a row of "numbers"
    datasets.replace_file(shard, content[: at + 4] + b"\7" + content[at + 5 :])
    assert [problem.shard for problem in check_dataset(folder)] == [shard.name]


def offsets(*marks):
    return pa.py_buffer(np.array(marks, "<i4"))


def listed(marks, values, kind=None):
    """Lists with offsets that are whatever they are."""
    inner = pa.array(values, kind)
    return pa.Array.from_buffers(pa.list_(inner.type), len(marks) - 1, [None, offsets(*marks)], children=[inner])


def vectors(index_marks, indices, value_marks, values):
    parts = [listed(index_marks, indices, pa.int32()), listed(value_marks, values, pa.float32())]
    return pa.StructArray.from_arrays(parts, names=["indices", "values"])


OUTSIDE = pa.DictionaryArray.from_arrays(pa.array([0, 5, 1], pa.int8()), pa.array(["a", "b"]), safe=False)
BELOW = pa.DictionaryArray.from_arrays(pa.array([0, -1, 1], pa.int8()), pa.array(["a", "b"]), safe=False)
RUNS = pa.Array.from_buffers(
    pa.run_end_encoded(pa.int32(), pa.int8()),
    3,
    [None],
    children=[pa.array([2, 1, 3], pa.int32()), pa.array([1, 2, 3], pa.int8())],
)
VIEWS = pa.Array.from_buffers(
    pa.list_view(pa.int8()), 3, [None, offsets(0, 1, 2), offsets(1, 9, 1)], children=[pa.array([1, 2, 3], pa.int8())]
)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (listed([0, 2, 1, 3], [1, 2, 3]), "offsets do not ascend within its 3 elements"),
        (listed([0, 9, 1, 3], [1, 2, 3]), "offsets do not ascend within its 3 elements"),
        (listed([0, -5, 1, 3], [1, 2, 3]), "offsets do not ascend within its 3 elements"),
        (listed([0, 2, 1, 3], ["a", "b", "c"]), "offsets do not ascend within its 3 elements"),
        (listed([0, 2, 1, 3], [[1], [2], [3]]), "offsets do not ascend within its 3 elements"),
        (vectors([0, 1, 1, 2], [1, 2], [0, 1, 1, 2], [1, 2]), None),
        (vectors([0, 1, 1, 2], [1, 2], [0, 1, 2, 2], [1, 2]), "vector 1 has 0 indices for 1 values"),
        (vectors([0, 1, 1, 2], [1, 9], [0, 1, 1, 2], [1, 2]), "it has the index 9 in vectors of width 9"),
        (vectors([0, 1, 1, 2], [1, -1], [0, 1, 1, 2], [1, 2]), "it has the index -1 in vectors of width 9"),
        (OUTSIDE, "it cannot be decoded: .*5"),
        (BELOW, "it cannot be decoded: .*-1"),
        (RUNS, "un end"),
        (VIEWS, "it cannot be decoded: .*(offset|size|view)"),
    ],
)
def test_what_does_not_hold_together_is_named(column, message, tmp_path):
    metadata = SPARSE if pa.types.is_struct(column.type) else None
    schema = pa.schema([pa.field("x", column.type, metadata=metadata)])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    problems = check_dataset(tmp_path)
    dataset = Dataset.open(tmp_path)
    if message is None:
        assert problems == []
        assert len(dataset.read([0, 1, 2])["x"]) == 3
        return
    assert [problem.shard for problem in problems] == ["x.arrow"]
    for read in (lambda: dataset.read([0, 1, 2]), lambda: dataset.fingerprint):
        with pytest.raises(DamagedDatasetError, match=message):
            read()


# --- damage of every kind -----------------------------------------------------------------------------------------

ABSURD = [
    0,
    1,
    3,
    8,
    9,
    64,
    127,
    128,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


def damages(content, draw, count):
    """Changed contents of a file, each with a name: bits, numbers that may be offsets or sizes, pieces, ends."""
    for number in range(count):
        changed = bytearray(content)
        at = int(draw.integers(len(content) - 8))
        kind = number % 4
        if kind == 0:
            changed[at] ^= 1 << int(draw.integers(8))
        elif kind == 1:
            at -= at % 4
            changed[at : at + 4] = struct.pack("<I", ABSURD[int(draw.integers(len(ABSURD)))] % 2**32)
        elif kind == 2:
            at -= at % 8
            changed[at : at + 8] = struct.pack("<Q", ABSURD[int(draw.integers(len(ABSURD)))])
        else:
            origin, length = int(draw.integers(len(content))), int(draw.integers(1, 32))
            changed[at : at + length] = content[origin : origin + length]
        yield f"{number}: kind {kind} at {at}", bytes(changed)


def outcome_of(act):
    """What becomes of reading: its result, or None for an error that says that the data set is damaged."""
    start = time.monotonic()
    try:
        return act()
    except DatasetError:
        return None
    finally:
        assert time.monotonic() - start < 5


def read_foreign(path):
    """All that can be done with a file of others, with nulls that read as something and without."""
    dataset = Dataset.open(path)
    if len(dataset) > 1000:  # a believable number of rows of nothing
        return {}
    got = dataset.read(range(len(dataset)))
    for values in got.values():
        inner = values
        while isinstance(inner, Ragged):
            inner = inner.values
        if isinstance(inner, Sparse):
            inner.dense()
        elif isinstance(values, Ragged):
            values.padded(value=inner[0] if len(inner) else 0)
            values.mask()
    masks = dict.fromkeys(dataset.fields, NullMask())
    with_masks = Dataset.open(path, nulls=masks)
    with_masks.read(range(len(with_masks)))
    return {name: datasets.listed(values) for name, values in got.items()} | {"": dataset.fingerprint}


def attack(base, target, compression, seed, count):
    """In a process of its own: every damage as the shard of a manifest that believes it, and as a file alone."""
    import resource

    limit = 16 << 30  # of address space: a damaged length must not become an allocation
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.filterwarnings("ignore", message=".* is compressed")
    folder, alone = Path(base) / "target", Path(base) / "alone.arrow"
    good = write(folder, target, compression)
    document, content = datasets.manifest_of(folder), (folder / "part 0.arrow").read_bytes()
    case = os.open(Path(base) / "case", os.O_CREAT | os.O_WRONLY)
    outcomes = collections.Counter()
    draw = np.random.default_rng(seed)
    for name, changed in damages(content, draw, count):
        os.pwrite(case, f"{name:<60}".encode(), 0)
        datasets.replace_file(folder / "part 0.arrow", changed)
        digest = xxhash.xxh3_128_hexdigest(changed)
        entry = {**document["shards"][0], "bytes": len(changed), "digest": digest}
        datasets.put_manifest(folder, {**document, "shards": [entry]})
        got = outcome_of(lambda: datasets.read_all(folder))
        problems = check_dataset(folder)
        assert problems or got == good, (name, got)
        outcomes["refused" if got is None else "intact" if got == good else "wrong"] += 1
        alone.write_bytes(changed)
        outcomes["alone refused" if outcome_of(lambda: read_foreign(alone)) is None else "alone read"] += 1
        check_dataset(alone)
        alone.unlink()
    print(json.dumps(outcomes))


@pytest.mark.skipif(os.name != "posix", reason="limits a process as POSIX systems do")
@pytest.mark.parametrize(
    ("target", "compression"),
    [("lists", None), ("encoded", None), ("sparse", None), ("encoded", "zstd")],
)
def test_no_damage_makes_a_crash_or_goes_unnoticed(target, compression, tmp_path):
    arguments = f"{str(tmp_path)!r}, {target!r}, {compression!r}, seed=5, count=200"
    call = f"from tests.minibatch.test_check_lists import attack; attack({arguments})"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    case = (tmp_path / "case").read_text() if (tmp_path / "case").exists() else "none"
    assert done.returncode == 0, f"{case.strip()}: {done.stderr}"
    outcomes = json.loads(done.stdout)
    assert min(outcomes[kind] for kind in ("intact", "refused", "alone read", "alone refused")) > 10, outcomes

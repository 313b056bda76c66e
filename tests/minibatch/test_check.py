"""`check_dataset` names every shard that is not what it was, whatever was done to it; and nothing done to a file makes
opening, reading or checking crash, hang, take memory without bound or give wrong rows that the check calls fine."""

import collections
import itertools
import json
import os
import shutil
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

from minibatch import Dataset, DatasetWriter
from minibatch.check import Problem, check_dataset
from minibatch.errors import DatasetError
from tests import datasets
from tests.syntax import ROOT


@pytest.fixture
def folder(tmp_path):
    """Forty rows in chunks of 4 and shards of 10, all of them with the same number of bytes."""
    path = tmp_path / "data ☃"
    with DatasetWriter(path, 4, 10) as writer:
        writer.write({"x": np.arange(40), "s": [f"row {i:02}" for i in range(40)], "b": np.arange(40) % 3 == 0})
    return path


def shard(folder, number):
    return folder / f"shard-{number:05}.arrow"


def damaged(folder):
    return [problem.shard for problem in check_dataset(folder)]


def test_an_intact_data_set_has_no_problems_and_every_shard_is_reported_on_the_way(folder):
    done = []
    assert check_dataset(str(folder), progress=done.append) == []
    assert done == list(Dataset.open(folder).manifest.shards)


def test_a_check_changes_nothing(folder):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    check_dataset(folder)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_what_lies_beside_the_data_set_is_nobody_s_problem(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / ".writing").touch()
    assert check_dataset(folder) == []
    assert len(Dataset.open(folder)) == 40


def test_what_is_no_data_set_is_a_problem_and_no_exception(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, what in (
        ("gone", "no such folder"),
        ("file", "is a file"),
        ("empty", "not a data set, or its conversion"),
    ):
        (problem,) = check_dataset(tmp_path / name)
        assert problem.shard == "manifest.json"
        assert what in problem.what


def test_every_damaged_shard_is_named_with_what_is_wrong(folder):
    content = bytearray(shard(folder, 0).read_bytes())
    content[len(content) // 2] ^= 1
    shard(folder, 0).write_bytes(content)
    shard(folder, 1).unlink()
    shard(folder, 3).write_bytes(b"short")
    problems = check_dataset(folder)
    assert [problem.shard for problem in problems] == [shard(folder, number).name for number in (0, 1, 3)]
    for problem, what in zip(problems, ("they were changed", "is missing", "has 5 bytes"), strict=True):
        assert what in problem.what


def test_shards_that_changed_places_are_both_named(folder):
    """They have the same size and the same chunks: only the digests know."""
    one, other = shard(folder, 1).read_bytes(), shard(folder, 2).read_bytes()
    assert len(one) == len(other)
    shard(folder, 1).write_bytes(other)
    shard(folder, 2).write_bytes(one)
    assert damaged(folder) == ["shard-00001.arrow", "shard-00002.arrow"]


def test_a_shard_in_place_of_another_is_named(folder):
    shutil.copy(shard(folder, 0), shard(folder, 2))
    assert damaged(folder) == ["shard-00002.arrow"]


def test_a_shard_of_other_data_of_the_same_form_is_named(folder, tmp_path):
    with DatasetWriter(tmp_path / "other", 4, 10) as writer:
        writer.write({"x": np.arange(40) + 1, "s": [f"row {i:02}" for i in range(40)], "b": np.arange(40) % 3 == 0})
    shutil.copy(shard(tmp_path / "other", 1), shard(folder, 1))
    assert damaged(folder) == ["shard-00001.arrow"]
    shutil.copy(tmp_path / "other" / "manifest.json", folder / "manifest.json")
    assert damaged(folder) == ["shard-00000.arrow", "shard-00002.arrow", "shard-00003.arrow"]


def test_shards_that_changed_places_in_a_believable_manifest_are_found_by_the_fingerprint(folder):
    document = datasets.manifest_of(folder)
    document["shards"][1:3] = document["shards"][2:0:-1]
    datasets.put_manifest(folder, document)
    (problem,) = check_dataset(folder)
    assert problem.shard is None
    assert "the content has the fingerprint" in problem.what


def test_a_shard_that_a_believable_manifest_leaves_out_is_found_by_the_fingerprint(folder):
    document = datasets.manifest_of(folder)
    del document["shards"][3]
    datasets.put_manifest(folder, {**document, "rows": 30})
    (problem,) = check_dataset(folder)
    assert (problem.shard, "fingerprint" in problem.what) == (None, True)


def test_problems_are_values(folder):
    shard(folder, 0).unlink()
    assert check_dataset(folder) == check_dataset(folder)
    assert isinstance(check_dataset(folder)[0], Problem)


# --- damage of every kind -----------------------------------------------------------------------------------------

ABSURD = [0, 1, 7, 64, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 64, 2**64 - 1]
TARGET = "part 0.feather"


def target(folder, compression):
    """Seven rows in two chunks of one shard, with fields of every layout; and what reading them gives."""
    n = np.arange(7)
    columns = {
        "int": pa.array(n.astype(np.int16)),
        "half": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(14).astype(np.float16)), 2),
        "bits": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.bool_(), [3]),
            pa.FixedSizeListArray.from_arrays(pa.array(np.arange(21) % 2 == 0), 3),
        ),
        "text": pa.array(["ü" * i for i in range(7)]),
        "bytes": pa.array([b"z" * i for i in range(7)], pa.large_binary()),
        "fixed": pa.array([b"ab"] * 7, pa.binary(2)),
    }
    chunks = [{name: column.slice(*part) for name, column in columns.items()} for part in ((0, 3), (3, 4))]
    options = pa.ipc.IpcWriteOptions(compression=compression)
    datasets.write_foreign(folder, [chunks], metadata={"int": {"classes": "a, b"}}, options=options)
    return datasets.read_all(folder)


def damages(content, draw):
    """Changed contents of a file of the same size, each with a name."""
    for i in range(0, len(content), 2):  # every other byte, every bit of it in turn, and all of them
        changed = bytearray(content)
        changed[i] ^= 0xFF if i % 3 == 0 else 1 << i % 8
        yield f"byte {i}", changed
    for i in range(4 * int(draw.integers(2)), len(content) - 8, 8):  # where an offset, a length or a count may stand
        value = ABSURD[int(draw.integers(len(ABSURD)))]
        changed = bytearray(content)
        if draw.random() < 0.5:
            changed[i : i + 8] = struct.pack("<Q", value)
        else:
            changed[i : i + 4] = struct.pack("<I", value % 2**32)
        yield f"{value} at {i}", changed
    for number in range(150):  # several at once, and pieces in wrong places
        changed = bytearray(content)
        for _ in range(int(draw.integers(1, 6))):
            start, origin = (int(place) for place in draw.integers(0, len(content) - 64, 2))
            length = int(draw.integers(1, 64))
            changed[start : start + length] = content[origin : origin + length]
        yield f"pieces {number}", changed


def attack(base, compression, seed):
    """In a process of its own, so that a crash is seen: every damage, once found out by digests and once believed."""
    import resource

    limit = 16 << 30  # of address space: a damaged length must not become an allocation
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.filterwarnings("ignore", message=".* is compressed")
    folder = Path(base) / "target"
    good = target(folder, compression)
    content = (folder / TARGET).read_bytes()
    document = datasets.manifest_of(folder)
    honest = (folder / "manifest.json").read_bytes()
    draw = np.random.default_rng(seed)
    case = os.open(Path(base) / "case", os.O_CREAT | os.O_WRONLY)
    outcomes = collections.Counter()

    def judge(name, believed):
        os.pwrite(case, f"{name:<60}".encode(), 0)
        start = time.monotonic()
        try:
            outcome = "intact" if datasets.read_all(folder) == good else "wrong"
        except DatasetError:
            outcome = "refused"
        problems = check_dataset(folder)
        assert time.monotonic() - start < 5, name
        assert problems or (believed and outcome == "intact"), (name, outcome)
        outcomes[outcome] += 1

    def put(changed):
        datasets.replace_file(folder / TARGET, bytes(changed))

    def believe(changed):
        entry = {**document["shards"][0], "bytes": len(changed), "digest": xxhash.xxh3_128_hexdigest(bytes(changed))}
        datasets.put_manifest(folder, {**document, "shards": [entry]})

    for number, (name, changed) in enumerate(damages(content, draw)):
        if changed == content:
            continue
        put(changed)
        if number % 2:
            believe(changed)
        else:
            datasets.replace_file(folder / "manifest.json", honest)
        judge(name, believed=number % 2 == 1)
    for size in range(0, len(content), 27):
        for changed in (content[:size], content[size:], content[:size] + content[size + 8 :]):
            put(changed)
            believe(changed)
            judge(f"{len(changed)} bytes around {size}", believed=True)
    for more in (b"x", bytes(8), content, content[-100:]):
        put(content + more)
        believe(content + more)
        judge(f"{len(more)} bytes more", believed=True)
    put(content)
    datasets.replace_file(folder / "manifest.json", honest)
    assert check_dataset(folder) == []
    print(json.dumps(outcomes))


@pytest.mark.skipif(os.name != "posix", reason="limits a process as POSIX systems do")
@pytest.mark.parametrize(("compression", "seed"), [(None, 1), ("zstd", 2), ("lz4", 3)])
def test_no_damage_to_a_shard_makes_a_crash_or_goes_unnoticed(compression, seed, tmp_path):
    call = f"from tests.minibatch.test_check import attack; attack({str(tmp_path)!r}, {compression!r}, {seed})"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    case = (tmp_path / "case").read_text() if (tmp_path / "case").exists() else "none"
    assert done.returncode == 0, f"{case.strip()}: {done.stderr}"
    outcomes = json.loads(done.stdout)
    assert set(outcomes) == {"intact", "refused", "wrong"}
    assert min(outcomes.values()) > 20


def attack_schema(base):
    """In a process of its own: every byte of the schema in a manifest that is believed otherwise."""
    folder = Path(base) / "target"
    good = target(folder, None)
    document = datasets.manifest_of(folder)
    import base64

    schema = base64.b64decode(document["schema"])
    changes = [(i, 1 << i % 8) for i in range(len(schema))] + [(i, 0xFF) for i in range(0, len(schema), 2)]
    outcomes = collections.Counter()
    for i, mask in changes:
        changed = bytearray(schema)
        changed[i] ^= mask
        datasets.put_manifest(folder, {**document, "schema": base64.b64encode(changed).decode()})
        try:
            outcome = "intact" if datasets.read_all(folder) == good else "wrong"
        except DatasetError:
            outcome = "refused"
        assert outcome != "wrong", (i, mask)
        assert check_dataset(folder) or outcome == "intact", (i, mask)
        outcomes[outcome] += 1
    print(json.dumps(outcomes))


def test_no_damage_to_the_schema_in_a_manifest_makes_a_crash_or_goes_unnoticed(tmp_path):
    call = f"from tests.minibatch.test_check import attack_schema; attack_schema({str(tmp_path)!r})"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", call]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refused"] > 500


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.arrow"])
def test_a_file_of_nothing_or_of_noise_is_a_problem(name, folder):
    size = (folder / name).stat().st_size
    for content in (b"", bytes(size), b"\xff" * size, b"ARROW1\0\0" + bytes(size - 14) + b"ARROW1",
                    np.random.default_rng(5).bytes(size)):  # fmt: skip
        datasets.replace_file(folder / name, content)
        with pytest.raises(DatasetError, match=name):
            datasets.read_all(folder)
        assert set(damaged(folder)) == {name}


def test_any_two_files_of_a_data_set_may_change_places_and_it_is_noticed(folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for one, other in itertools.combinations(sorted(files), 2):
        datasets.replace_file(folder / one, files[other])
        datasets.replace_file(folder / other, files[one])
        assert check_dataset(folder), (one, other)
        datasets.replace_file(folder / one, files[one])
        datasets.replace_file(folder / other, files[other])
    assert check_dataset(folder) == []

"""MDS: every encoding, compressed shards, digests, and damaged samples."""

import bz2
import gzip
import hashlib
import json
import pickle
import struct

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import mds, mds_folder
from tests.tools.samples import rows_of

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
CODES = {"uint8": 8, "int8": 9, "uint16": 16, "int16": 17, "float16": 18, "uint32": 32, "int32": 33, "float32": 34}
CODES |= {"uint64": 64, "int64": 65, "float64": 66}


def one_column(folder, encoding, size, values):
    return mds_folder(folder / "mds", {"x": (encoding, size)}, [[[value] for value in values]])


def array_bytes(array, *, dtype=True, shape=True, width=1):
    """An array as MDS encodes it, its dtype and shape before it."""
    head = bytes([CODES[array.dtype.name]]) if dtype else b""
    if shape:
        code = {1: 0, 2: 1, 4: 2, 8: 3}[width]
        head += bytes([array.ndim << 2 | code]) + np.asarray(array.shape, f"<u{width}").tobytes()
    return head + array.tobytes()


def parts(*contents):
    """A list of byte strings as MDS encodes it."""
    sizes = [len(content) for content in contents]
    return struct.pack(f"<{len(sizes) + 1}I", len(sizes), *sizes) + b"".join(contents)


@pytest.mark.parametrize("name", [*NUMBERS, "int"])
def test_numbers_of_every_type_come_back(name, tmp_path):
    values = np.array([0, 1, 100]).astype("int64" if name == "int" else name)
    folder = one_column(tmp_path, name, values.itemsize, [value.tobytes() for value in values])
    (piece,) = open_source(str(folder)).batches()
    assert piece["x"].dtype == values.dtype
    assert np.array_equal(piece["x"], values)


@pytest.mark.parametrize(
    ("encoding", "stored", "expected"),
    [
        ("str", ["ä".encode(), b""], ["ä", ""]),
        ("bytes", [b"\0\xff", b""], [b"\0\xff", b""]),
        ("jpeg", [b"\xff\xd8", b"\xff"], [b"\xff\xd8", b"\xff"]),
        ("jpeg:90", [b"\xff\xd8", b"\xff"], [b"\xff\xd8", b"\xff"]),
        ("png", [b"\x89", b"\x88"], [b"\x89", b"\x88"]),
        ("str_int", [b"-12", b"7"], [-12, 7]),
        ("str_float", [b"1.5", b"1e3"], [1.5, 1000]),
        ("str_decimal", [b"1.50", b"7"], ["1.50", "7"]),
        ("json", [b"[1, 2]", b"[3, 4]"], [[1, 2], [3, 4]]),
        ("jpegarray", [parts(b"ab", b"c"), parts(b"d")], [[b"ab", b"c"], [b"d"]]),
        ("list[png]", [bytes(4) + parts(b"ab", b"c"), bytes(4) + parts()], [[b"ab", b"c"], []]),
        ("json", [b"[1, 2]", b'{"a": 3}'], ["[1, 2]", '{"a": 3}']),
    ],
)
def test_other_encodings_come_back(encoding, stored, expected, tmp_path):
    rows = rows_of(one_column(tmp_path, encoding, None, stored))["x"]
    assert [row.tolist() if isinstance(row, np.ndarray) else row for row in rows] == expected


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_arrays_that_say_their_own_dtype_and_shape_come_back(name, width, tmp_path):
    arrays = [np.arange(6).astype(name).reshape(2, 3), np.arange(6, 12).astype(name).reshape(2, 3)]
    folder = one_column(tmp_path, "ndarray", None, [array_bytes(array, width=width) for array in arrays])
    (piece,) = open_source(str(folder)).batches()
    assert (piece["x"].dtype, piece["x"].shape) == (np.dtype(name), (2, 2, 3))
    assert np.array_equal(piece["x"], arrays)


def test_arrays_whose_column_says_dtype_or_shape_come_back(tmp_path):
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    columns = {
        "both": ("ndarray:int16:2,3", 12),
        "dtype": ("ndarray:int16", None),
    }
    values = [array_bytes(array, dtype=False, shape=False), array_bytes(array, dtype=False)]
    rows = rows_of(mds_folder(tmp_path / "mds", columns, [[values, values]]))
    for name in columns:
        assert np.array_equal(np.stack(rows[name]), [array, array])


def test_arrays_that_differ_in_their_first_axis_become_a_list_field_from_the_first_shard_on(tmp_path):
    arrays = [np.full((count, 2), count, np.float32) for count in (2, 2, 3)]
    shards = [[[array_bytes(array)] for array in part] for part in (arrays[:2], arrays[2:])]
    source = open_source(str(mds_folder(tmp_path / "mds", {"x": ("ndarray", None)}, shards)))
    assert [piece["x"].lengths.tolist() for part in source.units() for piece in part.batches()] == [[2, 2], [3]]


def test_raw_images_become_pixels(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    stored = struct.pack("<3I", 4, 2, 3) + b"RGB" + pixels.tobytes()
    assert np.array_equal(rows_of(one_column(tmp_path, "pil", None, [stored]))["x"][0], pixels)


def test_json_that_agrees_becomes_fields(tmp_path):
    stored = [b'{"a": 1, "b": {"c": "x"}}', '{"b": {"c": "ü"}, "a": 2.5}'.encode()]
    rows = rows_of(one_column(tmp_path, "json", None, stored))
    assert rows == {"x.a": [1.0, 2.5], "x.b.c": ["x", "ü"]}


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def pack_shards(folder, name, compress):
    """Replace the shards by compressed ones."""
    index = index_of(folder)
    for shard in index["shards"]:
        raw = folder / shard["raw_data"]["basename"]
        packed = compress(raw.read_bytes())
        raw.with_name(f"{raw.name}.{name}").write_bytes(packed)
        raw.unlink()
        shard["compression"] = f"{name}:3" if name != "snappy" else name
        shard["zip_data"] = {"basename": f"{raw.name}.{name}", "bytes": len(packed), "hashes": {}}
    (folder / "index.json").write_text(json.dumps(index))


COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "br": lambda data: pa.compress(data, "brotli", asbytes=True),
    "snappy": lambda data: pa.compress(data, "snappy", asbytes=True),
}


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_shards_come_back(name, tmp_path):
    source = mds(tmp_path)
    expected = rows_of(source)
    pack_shards(tmp_path / "mds", name, COMPRESS[name])
    assert rows_of(source) == expected


@pytest.mark.parametrize("name", COMPRESS)
def test_damage_in_a_compressed_shard_is_an_error_that_names_it(name, tmp_path):
    source = mds(tmp_path)
    pack_shards(tmp_path / "mds", name, lambda data: b"\xff" * 6 + COMPRESS[name](data)[6:])
    with pytest.raises(ValueError, match=rf"shard\.00000\.mds\.{name}'"):
        rows_of(source)


@pytest.mark.parametrize("name", ["sha1", "md5", "xxh64", "xxh3_64", "unheard"])
def test_digests_are_compared(name, tmp_path):
    folder = tmp_path / mds(tmp_path)
    index = index_of(folder)
    raw = index["shards"][0]["raw_data"]
    content = (folder / raw["basename"]).read_bytes()
    right = {
        "sha1": lambda: hashlib.sha1(content).hexdigest(),
        "md5": lambda: hashlib.md5(content).hexdigest(),
        "xxh64": lambda: xxhash.xxh64_hexdigest(content),
        "xxh3_64": lambda: xxhash.xxh3_64_hexdigest(content),
        "unheard": lambda: "?",
    }[name]()
    raw["hashes"] = {name: right}
    (folder / "index.json").write_text(json.dumps(index))
    assert len(rows_of(folder)["name"]) == 4
    (folder / raw["basename"]).write_bytes(content[:-1] + b"?")
    if name != "unheard":
        with pytest.raises(ValueError, match=rf"has the {name} .*, index\.json says .*: damaged"):
            rows_of(folder)


def test_a_folder_of_subsets_needs_one(tmp_path):
    mds(tmp_path)
    assert len(rows_of(tmp_path, format="MDS", subset="mds")["name"]) == 4
    with pytest.raises(ValueError, match=r"has no folder 'valid' with an index\.json"):
        open_source(str(tmp_path), Options(format="MDS", subset="valid"))


@pytest.mark.parametrize("value", [b"\xff", b""])
def test_a_sample_that_cannot_be_decoded_is_a_bad_record_with_its_byte(value, tmp_path):
    encoding = "str" if value else "str_int"
    folder = one_column(tmp_path, encoding, None, [b"1", value, b"3"])
    with pytest.raises(ValueError, match=rf"mds', record 1, byte \d+: column 'x' is no {encoding}"):
        rows_of(folder)
    bad = BadRecords(1)
    assert [str(row) for row in rows_of(folder, bad=bad)["x"]] == ["1", "3"]
    assert len(bad.found) == 1


def test_a_sample_whose_sizes_do_not_add_up_is_a_bad_record(tmp_path):
    folder = one_column(tmp_path, "bytes", None, [b"abcd", b"efgh"])
    shard = folder / "shard.00000.mds"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(struct.pack("<I", 4) + b"efgh", struct.pack("<I", 5) + b"efgh"))
    bad = BadRecords(1)
    assert rows_of(folder, bad=bad)["x"] == [b"abcd"]
    assert "it has 8 bytes, its columns need 9" in str(next(iter(bad.found)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "bytes, index.json says"),
        (lambda content: struct.pack("<I", 7) + content[4:], "begins with 7 samples, index.json says 3"),
        (lambda content: content[:8] + bytes(4) + content[12:], "offsets of its samples do not ascend"),
    ],
)
def test_a_damaged_shard_is_refused(change, message, tmp_path):
    source = mds(tmp_path)
    shard = tmp_path / "mds" / "shard.00000.mds"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(ValueError, match=message):
        rows_of(source)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("pkl", "pickles are not read"), ("jpegx", "it is not known; known are"), ("ndarray:what", "ndarray:what")],
)
def test_encodings_that_are_not_read_are_refused_by_column(encoding, message, tmp_path):
    with pytest.raises(ValueError, match=f"column 'x' has the encoding .*{message}"):
        open_source(str(one_column(tmp_path, encoding, None, [pickle.dumps(1)])))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is no index of MDS shards"),
        ("{}", "it lacks 'shards'"),
        ('{"shards": []}', "holds no shards"),
        ('{"shards": [{"format": "jsonl", "version": 2}]}', "its shards are 'jsonl' of version 2"),
    ],
)
def test_an_index_of_something_else_is_refused(index, message, tmp_path):
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path))


def test_a_shard_that_is_missing_is_named(tmp_path):
    source = mds(tmp_path)
    (tmp_path / "mds" / "shard.00001.mds").unlink()
    with pytest.raises(ValueError, match=r"lacks the shard 'shard\.00001\.mds'"):
        open_source(source)

"""Small sources of the binary formats, each written by hand here, so that the readers are compared with the formats."""

import io
import json
import pickle
import struct
import wave
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from minibatch.tools.sources.tfrecord import masked_checksum
from tests.tools.samples import pack, picture, write_files

# IDX


def idx(values: np.ndarray[Any, Any]) -> bytes:
    """An IDX file of `values`."""
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[values.dtype.str[1:]], values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(5 * 3 * 4, dtype=np.uint8).reshape(5, 3, 4)


def mnist(folder: Path) -> str:
    files = {
        "train-images-idx3-ubyte": idx(IMAGES),
        "train-labels-idx1-ubyte": idx(np.array([3, 1, 4, 1, 5], np.uint8)),
    }
    return str(write_files(folder / "mnist", files))


# CIFAR and cuda-convnet


def planes(count: int) -> np.ndarray[Any, Any]:
    """Pictures as CIFAR holds them: uint8 (count, 3072), one colour plane after the other."""
    return (np.arange(count * 3072) * 7 % 251).astype(np.uint8).reshape(count, 3072)


def cifar_binary(folder: Path) -> str:
    content = b"".join(bytes([label]) + row.tobytes() for label, row in zip([3, 9, 0], planes(3), strict=True))
    names = "\n".join(f"class {number}" for number in range(10))
    return str(
        write_files(
            folder / "cifar-10-batches-bin", {"data_batch_1.bin": content, "batches.meta.txt": f"{names}\n\n".encode()}
        )
    )


def cifar_pickled(folder: Path) -> str:
    batch = {"data": planes(3), "labels": [3, 9, 0], "filenames": ["a.png", "b.png", "c.png"], "batch_label": "1 of 1"}
    meta = {"label_names": [f"class {number}" for number in range(10)], "num_vis": 3072}
    files = {"data_batch_1": python2(batch), "batches.meta": python2(meta)}
    return str(write_files(folder / "cifar-10-batches-py", files))


def convnet(folder: Path) -> str:
    files = {
        "batches.meta": python2({"label_names": ["cat", "dog"], "num_vis": 72, "color_pca": (np.ones(3), np.eye(3))}),
        "data_batch_0/data_batch_0.0": python2({"data": [picture(1), picture(2)], "labels": [[0], [1]]}),
        "data_batch_0/data_batch_0.1": python2({"data": [picture(3)], "labels": [[1]]}),
    }
    return str(write_files(folder / "ilsvrc", files))


def python2(value: Any) -> bytes:
    """What Python 2 with NumPy 1 wrote for `value` (protocol 2): its texts and NumPy's values are byte strings.

    Made by writing the opcodes, because Python 3 has none of them for its own texts.
    """
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    if isinstance(value, str | bytes):
        encoded = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(encoded)) + encoded  # BINSTRING
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(key) + opcodes(value[key]) for key in value) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, np.ndarray):
        empty = (
            b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + opcodes((0,)) + opcodes("b") + b"\x87R"
        )
        code = value.dtype.str[1:]
        dtype = b"cnumpy\ndtype\n" + opcodes((code, 0, 1)) + b"R"
        state = opcodes((3, value.dtype.str[0], None, None, None, -1, -1, 0))
        order = b"\x89"  # not in Fortran's
        return (
            empty
            + b"("
            + opcodes(1)
            + opcodes(value.shape)
            + dtype
            + state
            + b"b"
            + order
            + opcodes(value.tobytes())
            + b"tb"
        )
    return pickle.dumps(value, 2)[2:-1]  # None, integers and floats: as in Python 3


# Arrow and Hugging Face


def arrow_stream(path: Path, table: pa.Table, rows: int | None = None) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, rows)
    return path


def arrow_file(path: Path, table: pa.Table, rows: int | None = None, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, rows)
    return path


TABLE = pa.table({"x": [1, 2, 3, 4], "name": ["ä", "b", "c", ""]})


def arrow(folder: Path) -> str:
    return str(arrow_file(folder / "a.arrow", TABLE))


PICTURES = pa.table(
    {
        "image": [{"bytes": picture(number), "path": None} for number in range(4)],
        "label": [0, 1, 1, 0],
        "grid": [[[number, 1], [2, 3], [4, 5]] for number in range(4)],
    }
)
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dög"], "_type": "ClassLabel"},
    "grid": {"shape": [3, 2], "dtype": "int64", "_type": "Array2D"},
}


def save_to_disk(folder: Path, tables: Iterable[pa.Table], features: Mapping[str, Any]) -> Path:
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    tables = list(tables)
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        arrow_stream(folder / name, table, 2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def huggingface(folder: Path) -> str:
    return str(save_to_disk(folder / "saved", [PICTURES.slice(0, 3), PICTURES.slice(3)], FEATURES))


# MDS


def mds_shard(rows: Iterable[list[tuple[bytes, bool]]]) -> bytes:
    """A shard whose samples are lists of (bytes, whether its size varies)."""
    samples = []
    for row in rows:
        sizes = [len(value) for value, varies in row if varies]
        samples.append(struct.pack(f"<{len(sizes)}I", *sizes) + b"".join(value for value, _ in row))
    config = b'{"format": "mds"}'
    begin = 4 + 4 * (len(samples) + 1) + len(config)
    marks = np.cumsum([begin, *map(len, samples)]).astype("<u4")
    return struct.pack("<I", len(samples)) + marks.tobytes() + config + b"".join(samples)


def mds_folder(folder: Path, columns: Mapping[str, tuple[str, int | None]], shards: list[list[list[bytes]]]) -> Path:
    """A folder of MDS shards; `columns` gives the encoding and the fixed size of each."""
    files, entries = {}, []
    for number, rows in enumerate(shards):
        name = f"shard.{number:05d}.mds"
        varying = [size is None for _, size in columns.values()]
        files[name] = mds_shard([list(zip(row, varying, strict=True)) for row in rows])
        entries.append(
            {
                "column_names": list(columns),
                "column_encodings": [encoding for encoding, _ in columns.values()],
                "column_sizes": [size for _, size in columns.values()],
                "compression": None,
                "format": "mds",
                "hashes": [],
                "raw_data": {"basename": name, "bytes": len(files[name]), "hashes": {}},
                "samples": len(rows),
                "size_limit": 2**26,
                "version": 2,
                "zip_data": None,
            }
        )
    files["index.json"] = json.dumps({"shards": entries, "version": 2}).encode()
    return write_files(folder, files)


def mds(folder: Path) -> str:
    columns = {"label": ("int", 8), "name": ("str", None)}
    rows = [[struct.pack("<q", number), name.encode()] for number, name in enumerate(["ä", "b", "", "c"])]
    return str(mds_folder(folder / "mds", columns, [rows[:3], rows[3:]]))


# TFRecord


def number(value: int) -> bytes:
    """A protocol buffer's varint."""
    value %= 2**64
    digits = []
    while True:
        digits.append(value % 128 + 128 * (value >= 128))
        value //= 128
        if not value:
            return bytes(digits)


def field(place: int, content: bytes) -> bytes:
    return number(8 * place + 2) + number(len(content)) + content


def feature(values: Any) -> bytes:
    """A Feature: of bytes, floats or integers, packed as TensorFlow does."""
    if values and isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    if values and isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(number, values)))) if values else b""


def features(named: Mapping[str, Any]) -> bytes:
    return b"".join(field(1, field(1, name.encode()) + field(2, feature(values))) for name, values in named.items())


def example(**named: Any) -> bytes:
    return field(1, features(named))


def tfrecord_bytes(records: Iterable[bytes]) -> bytes:
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [
            length,
            struct.pack("<I", masked_checksum(length)),
            record,
            struct.pack("<I", masked_checksum(record)),
        ]
    return b"".join(parts)


def tfrecord(folder: Path) -> str:
    records = [
        example(label=[n], image=[picture(n)], tokens=list(range(n)) or [9], box=[0.5, n + 0.5]) for n in range(4)
    ]
    (folder / "a.tfrecord").write_bytes(tfrecord_bytes(records))
    return str(folder / "a.tfrecord")


# WebDataset


def npy_bytes(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def sample_files(count: int) -> list[tuple[str, bytes]]:
    files = []
    for n in range(count):
        inside = json.dumps({"size": n, "by": {"name": f"ü{n}"}}).encode()
        named = {
            "jpg": picture(n),
            "cls": f"{n % 3}\n".encode(),
            "json": inside,
            "mask.npy": npy_bytes(np.full((2, 2), n)),
        }
        files += [(f"train/{n:04d}.{field}", content) for field, content in named.items()]
    return files


def webdataset(folder: Path) -> str:
    return str(pack(folder / "samples.tar", sample_files(4)))


def webdataset_pattern(folder: Path) -> str:
    pack(folder / "part-00.tar", sample_files(3))
    pack(folder / "part-01.tar", sample_files(2))
    return str(folder / "part-{00..01}.tar")


# HDF5


def hdf5(folder: Path) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
        file["about/name"] = ["ä", "b", "c", ""]
        file["seed"] = 7
    return str(folder / "a.h5")


# WAV


def wav_bytes(samples: Any, rate: int = 8000, channels: int = 1) -> bytes:
    """A WAV file of 16-bit samples, by the standard library."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.asarray(samples, "<i2").tobytes())
    return file.getvalue()


def wav(folder: Path) -> str:
    files = {"no/1.wav": wav_bytes([1, -2]), "no/2.wav": wav_bytes([3]), "yes/1.wav": wav_bytes([4, 5, 6])}
    return str(write_files(folder / "words", files))


def voc(folder: Path) -> str:
    corners = "<xmin>1</xmin><ymin>2</ymin><xmax>{0}</xmax><ymax>4</ymax>"
    box = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    xml = [f"<annotation>{''.join(box.format(number + k) for k in range(number))}</annotation>" for number in (1, 0, 3)]
    return str(
        write_files(
            folder / "voc",
            {
                **{f"Annotations/{number}.xml": content.encode() for number, content in enumerate(xml)},
                **{f"JPEGImages/{number}.png": picture(number) for number in range(3)},
            },
        )
    )


BINARY_SOURCES = [
    *(mnist, cifar_binary, cifar_pickled, convnet, arrow, huggingface, mds, tfrecord),
    *(webdataset, webdataset_pattern, hdf5, wav, voc),
]

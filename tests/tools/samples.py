"""Small sources of every format, and the ways in which the tests run commands."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer.testing
from PIL import Image

from minibatch import Dataset
from minibatch.tools.cli import app
from minibatch.tools.sources import Options, open_source

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def run(*arguments: Any) -> typer.testing.Result:
    """The command line in this process: exit code, stdout and stderr. An exception that is a defect is raised."""
    result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def program(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "minibatch.tools.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, **options)


def converted(source: Any, out: Path, *options: Any) -> Dataset:
    """The data set that `minibatch convert` makes of `source`."""
    result = run("convert", source, out, *options)
    assert result.exit_code == 0, result.output
    return Dataset.open(out)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder and its bytes."""
    return {file.name: file.read_bytes() for file in out.iterdir()}


def rows_of(source: Any, **options: Any) -> dict[str, list[Any]]:
    """All rows of a source, its pieces joined: field → list of values."""
    joined: dict[str, list[Any]] = {}
    for piece in open_source(str(source), Options(**options)).batches():
        assert len({len(values) for values in piece.values()}) == 1
        for name, values in piece.items():
            joined.setdefault(name, []).extend(values)
    return joined


def picture(value: int, shape: tuple[int, int] = (4, 6), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded image of one colour; `shape` is height and width."""
    file = io.BytesIO()
    Image.new(mode, shape[::-1], value if mode != "RGB" else (value, 2 * value % 256, 7)).save(file, kind)
    return file.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder that holds `files`, by their names within it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of `files` in the given order, compressed if its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


PETS = {
    "cat/1.png": picture(10),
    "cat/2.png": picture(20),
    "dog/deep/1.png": picture(30),
    "ëlch/ü 1.png": picture(40),
}


def npy(folder: Path) -> str:
    np.save(folder / "a.npy", np.arange(24, dtype=np.float32).reshape(4, 3, 2))
    return str(folder / "a.npy")


def npz(folder: Path) -> str:
    np.savez_compressed(folder / "a.npz", x=np.arange(4), name=np.array(["ä", "b", "c", ""]))
    return str(folder / "a.npz")


def delimited(folder: Path) -> str:
    (folder / "a.csv").write_text("x,name\n1,ä\n2,b\n3,c\n4,\n", encoding="utf-8")
    return str(folder / "a.csv")


def parquet(folder: Path) -> str:
    pq.write_table(pa.table({"x": [1, 2, 3, 4], "name": ["ä", "b", "c", ""]}), folder / "a.parquet")
    return str(folder / "a.parquet")


def folder_of_images(folder: Path) -> str:
    return str(write_files(folder / "pets", PETS))


def tar(folder: Path) -> str:
    return str(pack(folder / "pets.tar", PETS.items()))


def compressed_tar(folder: Path) -> str:
    return str(pack(folder / "pets.tar.gz", PETS.items()))


def bundled(folder: Path) -> str:
    return "sklearn:iris"


def cntk_text(folder: Path) -> str:
    (folder / "a.ctf").write_text("|x 1 2 |y 0:1\n|x 3 |y 2:1\n|x 4 5 |y 1:1\n|x 6 7 |y 2:1\n")
    return str(folder / "a.ctf")


def image_map(folder: Path) -> str:
    names = write_files(folder / "mapped", PETS) and reversed(PETS)
    (folder / "mapped" / "train_map.txt").write_text("".join(f"{name}\t1\n" for name in names), encoding="utf-8")
    return str(folder / "mapped" / "train_map.txt")


def libsvm(folder: Path) -> str:
    (folder / "a.libsvm").write_text("1 2:0.5\n0 1:2\n1 3:1\n1 1:1\n")
    return str(folder / "a.libsvm")


def json_lines(folder: Path) -> str:
    (folder / "a.jsonl").write_text("".join(f'{{"x": {i}, "l": [{i}, 1.5], "t": "ä{i}"}}\n' for i in range(4)))
    return str(folder / "a.jsonl")


def plain_text(folder: Path) -> str:
    (folder / "a.txt").write_text("ä line\n\nmore\nthe last", encoding="utf-8")
    return str(folder / "a.txt")


def pronunciations(folder: Path) -> str:
    (folder / "a.dict").write_text("CAT  K AE1 T\nCAT(1)  K AE0 T\nDOG  D AO1 G\nPIG  P IH1 G\n")
    return str(folder / "a.dict")


# One function per way to give a source: it writes a small one into a folder and returns what to pass to `convert`.
EVERY_SOURCE: list[Callable[[Path], str]] = [
    npy,
    npz,
    delimited,
    parquet,
    folder_of_images,
    tar,
    compressed_tar,
    cntk_text,
    image_map,
    libsvm,
    json_lines,
    plain_text,
    pronunciations,
    bundled,
]
# Formats whose sources mean nothing without options; their own tests give them.
NEED_OPTIONS = {"tokens"}

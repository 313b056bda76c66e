"""Raw data of the recipes as people have them, of a few rows, and a server that gives them out."""

import contextlib
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from tests.tools.binary_samples import idx
from tests.tools.samples import pack, picture, write_files

CLASSES = ("airplane", "automobile", "truck")


def idx_files(train: int = 60, test: int = 20) -> dict[str, bytes]:
    """The four files of MNIST, with scikit-learn's digits in the middle of 28 × 28 pixels: packed, as they come."""
    bunch = load_digits()
    images = np.zeros((train + test, 28, 28), np.uint8)
    images[:, 2:26, 2:26] = np.kron(bunch.images[: train + test], np.ones((3, 3))) * 255 / 16
    labels = bunch.target[: train + test].astype(np.uint8)
    files = {
        "train-images-idx3-ubyte.gz": images[:train],
        "train-labels-idx1-ubyte.gz": labels[:train],
        "t10k-images-idx3-ubyte.gz": images[train:],
        "t10k-labels-idx1-ubyte.gz": labels[train:],
    }
    return {name: gzip.compress(idx(values), mtime=0) for name, values in files.items()}


def mnist_folder(folder: Path, **sizes: int) -> Path:
    return write_files(folder, idx_files(**sizes))


def pictures_by_class() -> dict[str, bytes]:
    """Files of 32 × 32 pixels in train/CLASS and test/CLASS."""
    return {
        f"{part}/{name}/{number}.png": picture(40 * label + number, (32, 32))
        for part, count in (("train", 3), ("test", 2))
        for label, name in enumerate(CLASSES)
        for number in range(count)
    }


def binary_batches() -> dict[str, bytes]:
    """The same pictures in CIFAR-10's binary version, which has one colour plane after the other."""
    planes = [
        (label, np.array([40 * label + number, 2 * (40 * label + number) % 256, 7], np.uint8).repeat(1024).tobytes())
        for label in range(len(CLASSES))
        for number in range(3)
    ]
    train = b"".join(bytes([label]) + pixels for label, pixels in planes)
    test = b"".join(bytes([label]) + pixels for place, (label, pixels) in enumerate(planes) if place % 3 < 2)
    return {
        "cifar-10-batches-bin/data_batch_1.bin": train,
        "cifar-10-batches-bin/test_batch.bin": test,
        "cifar-10-batches-bin/batches.meta.txt": "\n".join([*CLASSES, *"abcdefg"]).encode(),
    }


def packed_batches(path: Path) -> Path:
    return pack(path, binary_batches().items())


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextlib.contextmanager
def served(files: Mapping[str, bytes], *, broken: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of `files`, and what it has been asked for; of those `broken` it sends one half."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            asked.append(name)
            if name not in files:
                self.send_error(404)
                return
            content = files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in broken else content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

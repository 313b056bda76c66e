"""Where bytes lie: files, mapped into memory when first needed. (Object stores come behind the same two functions.)"""

import ctypes
import mmap
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from minibatch.errors import DamagedDatasetError

MANIFEST = "manifest.json"
LOCK = ".writing"

# What `advise` can say; None where the system has no such advice.
HUGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # read from disk in pieces of 2 MiB, mapped as a whole
NORMAL: int | None = getattr(mmap, "MADV_NORMAL", None)
SCATTERED: int | None = getattr(mmap, "MADV_RANDOM", None)  # what is around a page will not be needed
COMING: int | None = getattr(mmap, "MADV_WILLNEED", None)
NOW: int | None = 22 if sys.platform == "linux" else None  # MADV_POPULATE_READ: read it, and map its pages
COLD: int | None = 20 if sys.platform == "linux" else None  # MADV_COLD: the first to go when memory is short
GONE: int | None = getattr(mmap, "MADV_DONTNEED", None) if sys.platform == "linux" else None  # out of this process


def map_file(path: Path, expected_bytes: int) -> pa.Buffer:
    """The bytes of a file, mapped and not read; its size must be what the manifest says.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(b"abc")
    ...     map_file(Path(folder, "a"), 3).to_pybytes()
    b'abc'
    """
    check_size(path, expected_bytes)
    try:
        return pa.memory_map(str(path)).read_buffer()
    except OSError as error:
        raise DamagedDatasetError(f"{path.name} in {path.parent} cannot be mapped: {error}") from error


def check_size(path: Path, expected_bytes: int) -> None:
    """Raise `DamagedDatasetError` unless `path` is a file of `expected_bytes` bytes."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DamagedDatasetError(
            f"{path.name} is missing from {path.parent} ({error.strerror}); the manifest lists it"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise DamagedDatasetError(f"{path.name} in {path.parent} is not a file; the manifest lists it as one")
    size = status.st_size
    if size != expected_bytes:
        raise DamagedDatasetError(
            f"{path.name} in {path.parent} has {size:,} bytes, {MANIFEST} says {expected_bytes:,}: it was truncated or "
            f"replaced; run `minibatch check {path.parent}`"
        )


def _advise_of_system() -> Any:
    """The system's `madvise`, or None."""
    if os.name != "posix":
        return None
    with suppress(OSError, AttributeError):
        function = ctypes.CDLL(None).madvise
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
        return function
    return None


_madvise = _advise_of_system()


def advise(address: int, size: int, advice: int | None) -> None:
    """Tell the system what is going to happen to `size` bytes of a mapped file; it may listen, or know no such advice.

    What is `COLD` or `GONE` ends at whole pages inside, what is not needed of others; anything else around them.
    """
    if _madvise is None or advice is None or size <= 0:
        return
    page, stop = mmap.PAGESIZE, address + size
    begin = address // page * page
    if advice in (COLD, GONE):
        begin, stop = -(-address // page) * page, stop // page * page
    if begin < stop:
        _madvise(begin, stop - begin, advice)


def file_identity(path: Path) -> tuple[int, ...] | None:
    """What changes when another file takes the place of this one, or its bytes do; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk, where the system can tell (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Give `path` the bytes `content`, all or nothing: written beside it, synced, renamed, synced."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    sync_file(partial)
    os.replace(partial, path)
    sync_folder(path.parent)

"""Who may write in a folder: its lock, what other programs have there, and what stopped writers have left.

While a data set is replaced, the new one is staged beside it under other names, so that the old one stays complete
until the new one is.
"""

import os
import re
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from minibatch.errors import DatasetError, WriterBusyError
from minibatch.storage import LOCK, MANIFEST, sync_folder

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock file alone says that somebody writes
    fcntl = None  # type: ignore[assignment]

FORMAT_MARK = b'"minibatch"'  # in every manifest of ours; other programs have files of that name too
STAGED_SUFFIX = ".new"
JOURNAL = ".journal"  # what a writer that can be resumed has finished: see journal.py
SHARD = re.compile(r"shard-\d{5,}\.arrow")
STAGED = re.compile(SHARD.pattern + r"\.(partial|new)|manifest\.json\.partial|\.journal")
INDEX = re.compile(r"join-[0-9a-f]{32}\.npy(\..*\.partial)?")  # kept beside a data set by joining.py
OURS = re.compile(rf"{SHARD.pattern}|{STAGED.pattern}|{INDEX.pattern}|\.writing")


def take_folder(folder: Path, overwrite: bool, *, keep: bool = False) -> Any:
    """Make `folder` ours and empty, and return the lock that keeps others out.

    With `keep` what an earlier writer has left there stays, for the caller to look at and to `clear`.
    """
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file; expected a folder to write a data set into")
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = foreign_files(folder)
        if others:
            shown = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
            raise DatasetError(f"{folder} holds other things ({shown}): choose an empty or a new folder")
        lock = take_lock(folder)
        if (folder / MANIFEST).exists() and not overwrite:
            (folder / LOCK).unlink()
            raise DatasetError(
                f"{folder} already holds a complete data set: choose another folder, or pass overwrite=True"
            )
        if not keep:
            clear_unfinished(folder)
    except BaseException as error:
        if lock is not None:
            lock.close()
        if isinstance(error, OSError):
            raise told(error, folder, "cannot write a data set here") from error
        raise
    return lock


def clear_unfinished(folder: Path, kept: Set[str] = frozenset()) -> None:
    """Remove what a writer that did not finish has left, but for the lock and the names `kept`."""
    clear(folder, STAGED if (folder / MANIFEST).exists() else OURS, kept)


def clear(folder: Path, names: re.Pattern[str], kept: Set[str] = frozenset()) -> None:
    """Remove the files of a writer whose names match, but for the lock and the names `kept`."""
    for path in folder.iterdir():
        if names.fullmatch(path.name) and path.name not in (LOCK, *kept):
            path.unlink()


def replace_dataset(folder: Path, shards: Iterable[str]) -> None:
    """Put the staged `shards` in the place of the data set in `folder`, which is unfinished from then on."""
    (folder / MANIFEST).unlink()  # first, so that no reader takes new shards for old ones
    sync_folder(folder)
    for path in folder.iterdir():
        if SHARD.fullmatch(path.name) or INDEX.fullmatch(path.name):
            path.unlink()
    for name in shards:
        os.replace(folder / (name + STAGED_SUFFIX), folder / name)
    sync_folder(folder)


def told(error: OSError, folder: Path, what: str) -> OSError:
    """The error of the same kind (and class: Python chooses it by the number) that names the folder and says `what`."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return OSError(error.errno, f"{what} ({why})", str(folder))


def foreign_files(folder: Path) -> list[str]:
    """The names in `folder` that no writer of ours has left: all of them without a lock file or a manifest of ours."""
    entries = sorted(folder.iterdir())
    ours = has_our_mark(folder)
    return [
        path.name
        for path in entries
        if not (ours and (path.name == MANIFEST or OURS.fullmatch(path.name))) or path.is_symlink() or path.is_dir()
    ]


def has_our_mark(folder: Path) -> bool:
    """Whether `folder` has a lock file or a manifest of ours; one of them is there while writers take turns."""
    for _ in range(2):  # one writer may exchange lock for manifest, and the next manifest for lock, as we look
        if (folder / LOCK).exists():
            return True
        with suppress(FileNotFoundError):
            return FORMAT_MARK in (folder / MANIFEST).read_bytes()
    return False


def take_lock(folder: Path) -> Any:
    """The lock on `folder`, or `WriterBusyError`."""
    while True:
        lock = open(folder / LOCK, "w")  # noqa: SIM115  (held until the writer closes)
        if fcntl is None:
            return lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
                return lock
            lock.close()  # its holder removed it between our two calls, and somebody has made a new one
        except BaseException as error:
            lock.close()
            if isinstance(error, BlockingIOError):
                raise WriterBusyError(
                    f"another process is writing to {folder}: wait for it, or choose another folder"
                ) from None
            if not isinstance(error, FileNotFoundError):  # removed likewise
                raise


def release_folder(folder: Path, lock: Any, *, finished: bool) -> None:
    """Give up the lock; a finished folder keeps no trace of it."""
    if finished:
        (folder / LOCK).unlink(missing_ok=True)
    lock.close()

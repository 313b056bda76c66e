"""One run per folder: a lock that the system releases when its process ends, however it ends."""

import os
import weakref
from pathlib import Path

from minibatch.train.errors import FolderInUseError

try:
    import fcntl
except ImportError:  # Windows has no flock, and no other lock that a killed process lets go
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Holds `folder` for one run until `release`, or until the process ends; creates the folder.

    Raises FolderInUseError, naming the process that has it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> lock = FolderLock(folder)
    >>> FolderLock(folder)
    Traceback (most recent call last):
    minibatch.train.errors.FolderInUseError: ... is in use by this process (...)...
    >>> lock.release()
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, and a run needs a folder: choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        # A Trainer that is dropped without close() lets its folder go.
        self.release = weakref.finalize(self, os.close, descriptor)
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            if holder == str(os.getpid()):
                who = f"this process ({holder}): close() the other Trainer first"
            else:
                who = f"process {holder or 'unknown'}: wait for it or stop it, or choose another folder"
            raise FolderInUseError(f"{folder} is in use by {who}") from None
        except OSError as error:
            self.release()
            raise OSError(error.errno, f"{error.strerror}: this file system cannot lock", str(folder)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

"""Checkpoints on disk: folders that are complete or recognisably not, found and checked without unpickling anything.

    checkpoints/t-000000012800/          the state at nominal time 12,800
        model.safetensors                parameters and buffers, by name
        optimizer.safetensors            the optimizers' tensors, by number, parameter and entry
        state.json                       everything else
        manifest.json                    size and digest of each file, and its own: written last

A checkpoint is written into a temporary folder beside its place, synced, and renamed. Killed at any moment, a run
leaves whole checkpoints and perhaps a temporary folder, which the next one removes.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibatch.errors import CheckpointError
from minibatch.storage import sync_file, sync_folder
from minibatch.train.digest import file_digest

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
FILES = frozenset((MODEL, OPTIMIZER, STATE))
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY, REPLACED, REMOVING = ".writing-", ".replaced-", ".removing-"
PLACE = re.compile(r"t-(\d{12,})")
REPLACED_PLACE = re.compile(re.escape(REPLACED) + PLACE.pattern)

AlsoKeep = Callable[[Collection[int]], Collection[int]]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A checkpoint that was passed over, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path.name} is not used: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest complete checkpoint of a folder, None without one, and the newer ones that were passed over."""

    path: Path | None
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a checkpoint holds: named tensors and a JSON document."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def place(folder: Path, nominal_time: int) -> Path:
    """Where the checkpoint of a nominal time belongs.

    >>> place(Path("checkpoints"), 12800).name
    't-000000012800'
    """
    return folder / f"t-{nominal_time:012d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, complete or not, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if PLACE.fullmatch(path.name)]
    # A writer killed between the two renames of `write` has left the old one under its other name, and nothing here.
    for path in folder.iterdir():
        if REPLACED_PLACE.fullmatch(path.name) and not path.with_name(path.name.removeprefix(REPLACED)).exists():
            found.append(path)
    return sorted(found, key=time_of)


def time_of(path: Path) -> int:
    """The nominal time in a checkpoint's name."""
    match = PLACE.fullmatch(path.name.removeprefix(REPLACED))
    assert match is not None
    return int(match[1])


def write(path: Path, content: Content) -> None:
    """Write a checkpoint to `path`, replacing one that is there, so that no moment is without a complete one.

    Raises CheckpointError if the disk is full, read-only or fails, or if there is something at `path` that is no
    checkpoint; nothing of the attempt is left then, and what was there before is untouched.
    """
    refuse_other_content(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    replaced = path.with_name(f"{REPLACED}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(dict(content.model), temporary / MODEL)
        save_file(dict(content.optimizer), temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(content.state, indent=1) + "\n", encoding="utf-8")
        files = {}
        for file in sorted(temporary.iterdir()):
            sync_file(file)
            files[file.name] = {"bytes": file.stat().st_size, "xxh3_128": file_digest(file)}
        manifest = {"format": FORMAT, "files": files}
        (temporary / MANIFEST).write_text(json.dumps({**manifest, "digest": _digest(manifest)}, indent=1) + "\n")
        sync_file(temporary / MANIFEST)
        sync_folder(temporary)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            path.rename(replaced)
        try:
            temporary.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        full = isinstance(error, SafetensorError) or error.errno in FULL
        advice = ". Make room (or lower keep_last), then go on from the newest one" if full else ""
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {error}; the checkpoints before it are untouched{advice}"
        ) from error


def refuse_other_content(path: Path) -> None:
    """Return if a checkpoint may be written to `path`: nothing is there, or a checkpoint; else CheckpointError."""
    if path.is_dir():
        other = sorted({file.name for file in path.iterdir()} - FILES - {MANIFEST})
        if other:
            raise CheckpointError(
                f"{path} holds what is of no checkpoint ({', '.join(other[:5])}{' …' if other[5:] else ''}) and would "
                "be replaced as a whole: name a folder that does not exist yet"
            )
    elif path.exists():
        raise CheckpointError(f"{path} is a file, and a checkpoint is a folder: name one that does not exist yet")


def read(path: Path) -> Content:
    """What the checkpoint at `path` holds, every byte checked against its manifest.

    Raises CheckpointError saying what is missing or damaged.
    """
    verify(path)
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Content(
        model=load_file(path / MODEL),
        optimizer=load_file(path / OPTIMIZER),
        state=state,
    )


def verify(path: Path) -> None:
    """Return if the checkpoint at `path` is complete and undamaged; else CheckpointError with the first defect."""
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        written = manifest.pop("digest")
        if manifest["format"] > FORMAT:
            raise CheckpointError(
                f"{path} has format {manifest['format']}, this version reads up to {FORMAT}: update minibatch-timeline"
            )
        if written != _digest(manifest):
            raise CheckpointError(f"{path / MANIFEST} is damaged: its digest does not fit its content")
        files = {name: (int(said["bytes"]), str(said["xxh3_128"])) for name, said in manifest["files"].items()}
        if set(files) != FILES:
            raise CheckpointError(f"{path / MANIFEST} lists {sorted(files)}, expected {sorted(FILES)}")
    except FileNotFoundError:
        inside = path if path.name == "checkpoints" else path / "checkpoints"
        if found := checkpoints_in(inside):
            raise CheckpointError(
                f"{path} is no checkpoint but the folder of a run: pass folder= to Trainer, or name one of its "
                f"checkpoints, as {found[-1]}"
            ) from None
        raise CheckpointError(f"{path} has no {MANIFEST}: it was not finished, or is no checkpoint") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error!r}") from None
    for name, (said, digest) in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path} lacks {name}")
        size = file.stat().st_size
        if size != said:
            raise CheckpointError(f"{file} has {size:,} bytes, its manifest says {said:,}: it was truncated")
        if file_digest(file) != digest:
            raise CheckpointError(f"{file} is damaged: its bytes are not those that were written")


def newest_complete(folder: str | os.PathLike[str]) -> Newest:
    """The newest checkpoint in `folder` that is complete and undamaged, and which newer ones were passed over and why.

    >>> newest_complete("nowhere").path is None
    True
    """
    skipped: list[Skipped] = []
    for path in reversed(checkpoints_in(Path(folder))):
        try:
            verify(path)
        except CheckpointError as error:
            skipped.append(Skipped(path=path, why=str(error)))
        else:
            return Newest(path=path, skipped=tuple(skipped))
    return Newest(path=None, skipped=tuple(skipped))


def tidy(folder: Path, *, keep_last: int | None, announce: Callable[[str], None], also: AlsoKeep | None = None) -> None:
    """Remove what killed writers have left, and all but the newest `keep_last` checkpoints (None: keep all).

    also: given the nominal times of those, the times of further ones that stay. A folder that cannot be removed is
    announced and stays: it is not worth a run.
    """
    try:
        kept = checkpoints_in(folder)
        for path in [*folder.iterdir()]:
            if path.name.startswith((TEMPORARY, REPLACED, REMOVING)) and path not in kept:
                shutil.rmtree(path)
        older = kept[: max(0, len(kept) - keep_last)] if keep_last is not None else []
        needed = set(also([time_of(path) for path in kept[len(older) :]])) if also is not None else set()
        for path in older:
            if time_of(path) in needed:
                continue
            # Renamed first: half a checkpoint must not look like a damaged one.
            removing = path.with_name(REMOVING + path.name)
            path.rename(removing)
            shutil.rmtree(removing)
    except OSError as error:
        announce(f"old checkpoints could not be removed: {error}")


def set_aside(folder: Path, after: int) -> list[str]:
    """Rename the checkpoints later than nominal time `after`, so that no given-up branch is found; their new names."""
    aside = []
    for path in checkpoints_in(folder):
        if time_of(path) > after:
            number = 1
            while (target := path.with_name(f"{path.name}.given-up-{number}")).exists():
                number += 1
            path.rename(target)
            aside.append(target.name)
    return aside


def _digest(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())

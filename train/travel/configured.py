"""Which configuration each step of a run had: what configs.jsonl says, written whenever the run began or was resumed.

Runs of older versions have no such file, or have it only from a later resume on. For their steps it is the one in the
first checkpoint at or after them, as long as that is there; after the last, the folder's config.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch.train import checkpoint, running
from minibatch.train.folder import CONFIGS as CONFIGS
from minibatch.train.folder import noted_configs
from minibatch.train.skips import Skip, from_documents


@dataclass(frozen=True, kw_only=True)
class Configured:
    """The configuration of the steps after `after`, as JSON; `where` it is written.

    noted: it was written down when it took effect; else it was guessed from a checkpoint or config.json.
    """

    after: int
    document: Mapping[str, Any]
    where: Path
    noted: bool


def of_run(folder: Path, checkpoints: Sequence[tuple[Path, int]]) -> list[Configured]:
    """The configurations of the run in `folder`, by the step after which they took effect; those of one step: the last.

    checkpoints: (path, step) of each, oldest first. Raises CheckpointError where config.json is needed and damaged.
    """
    place = folder / CONFIGS
    noted = [Configured(after=step, document=one, where=place, noted=True) for step, one in noted_configs(folder)]
    if noted and noted[0].after == 0:
        return noted
    rest: Mapping[str, Any] | None
    if noted:
        rest, where = noted[0].document, place
    else:
        rest, where = running.saved_config(folder), folder / running.CONFIG
    guessed, after = [], 0
    for path, step in checkpoints:
        if noted and step > noted[0].after:
            break
        said = (state_of(path) or {}).get("config")
        if isinstance(said, dict) and said.get("recipe"):
            document = {"set": (rest or {}).get("set", {}), **said}
            guessed.append(Configured(after=after, document=document, where=path / checkpoint.STATE, noted=False))
        elif rest is not None:
            guessed.append(Configured(after=after, document=rest, where=where, noted=False))
        after = step
    if rest is not None and not (noted and noted[0].after <= after):
        guessed.append(Configured(after=after, document=rest, where=where, noted=False))
    return guessed + noted


def at(known: Sequence[Configured], step: int) -> Configured | None:
    """The one that `step` had; None if none is known."""
    return next((one for one in reversed(known) if one.after < step), None)


def borders(known: Sequence[Configured], first: int, last: int) -> list[int]:
    """The steps among `first` … `last` - 1 after which another configuration took effect."""
    found = []
    for step in sorted({one.after for one in known if first <= one.after < last}):
        before, after = at(known, step), at(known, step + 1)
        if before is not None and after is not None and before.document != after.document:
            found.append(step)
    return found


def skips_set_after(known: Sequence[Configured], step: int) -> list[Skip]:
    """The intervals left out that only a configuration of later steps has."""
    before = [skip for one in known if one.after < step for skip in _skips_of(one)]
    return [skip for one in known if one.after >= step for skip in _skips_of(one) if skip not in before]


def state_of(path: Path) -> dict[str, Any] | None:
    """The state document of a checkpoint; None where it cannot be read or says nothing of step and time."""
    try:
        state = json.loads((path / checkpoint.STATE).read_text(encoding="utf-8"))
        return state if isinstance(state["step"], int) and isinstance(state["nominal_time"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _skips_of(one: Configured) -> list[Skip]:
    return from_documents(one.document.get("skips") or [])

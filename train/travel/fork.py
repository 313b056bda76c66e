"""A branch of a run: another folder that begins from one of its checkpoints, with one thing changed.

Data, order, weights so far and all noise are those of the run, so that the two differ by the change alone: a paired
comparison, of which the variance between seeds is no part.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch.errors import CheckpointError
from minibatch.storage import write_atomically
from minibatch.train import checkpoint, config, recipes, running
from minibatch.train.folder import CONFIGS
from minibatch.train.ledger import last_line
from minibatch.train.travel.opening import Past, Saved, opened

FORK = "fork.json"


@dataclass(frozen=True, kw_only=True)
class Forked:
    """A branch that was made: its folder, the recipe, where it begins, and what is changed, as "a.b: 1 → 2"."""

    folder: Path
    run: Path
    recipe: str
    begins: Saved
    changes: tuple[str, ...]


def fork(
    past: Past | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any],
    step: int | None = None,
    nominal_time: int | None = None,
    exact: bool = False,
) -> Forked:
    """Make the folder `out`: the run up to its newest checkpoint at or before `step` or `nominal_time`, with `changes`.

    changes: options of the recipe, or dotted paths of its configuration, as `minibatch train --set` takes them. exact:
    run forward to `step` itself, as the run did, where there is no checkpoint. `out` then goes on with
    `minibatch train RECIPE --out OUT --resume`; fork.json there says where it comes from. Raises ValueError for a
    change of the seed, CheckpointError where the run has no such checkpoint, was not made by a recipe, or, with exact,
    does not come out with the bits of its ledger.
    """
    past, out = opened(past), Path(out)
    if past.make is not None:
        raise ValueError("a run that no recipe made is forked by hand: restore its checkpoint in another Trainer")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty: choose another folder for the fork")
    begins = _beginning(past, step, nominal_time, exact=exact)
    at = begins if isinstance(begins, int) else begins.step
    before = past.config(at + 1)
    after = recipes.configure(before.recipe, running.merged(before.set, changes))
    if after.seed != before.seed:
        raise ValueError(
            f"a fork keeps data and noise, so its seed stays {before.seed} (given: {after.seed}): for another seed "
            "begin another run"
        )
    lines = config.differences(config.described(before), config.described(after))
    made = tuple(line for line in lines if not line.startswith("set.")) or tuple(lines)
    try:
        saved = _checkpoint(past, begins, out / "checkpoints")
        for name in ("ledger.jsonl", "validation.jsonl", CONFIGS):
            _copy_lines(past.folder / name, out / name, saved.step)
        _link_data(past, out)
        run = os.path.abspath(past.folder)
        _write(out / FORK, {"run": run, "step": saved.step, "nominal_time": saved.nominal_time, "changes": made})
        config.save_config(out / running.CONFIG, after)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return Forked(folder=out, run=past.folder, recipe=after.recipe, begins=saved, changes=made)


def origin_of(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Where the run in `folder` was forked from, {"run", "step", "nominal_time", "changes"}; None if it was not."""
    try:
        origin = json.loads((Path(folder) / FORK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return origin if isinstance(origin, dict) else None


def _beginning(past: Past, step: int | None, nominal_time: int | None, *, exact: bool) -> Saved | int:
    """The checkpoint that a fork begins from, or the step after which it begins where there is none."""
    if step is not None and nominal_time is not None:
        raise ValueError("say from where to fork by step= or by nominal_time=, not both")
    if exact and step is None:
        if nominal_time is None:
            raise ValueError("exact=True needs step= or nominal_time=")
        line = past.ledger.line_at_time(nominal_time)
        if line is None:
            raise ValueError(f"no step of {past.folder} has nominal time {nominal_time:,} in it")
        step = line.step - 1
    saved = past.checkpoint_at(step=step, nominal_time=nominal_time)
    if exact and step is not None:
        return saved if saved is not None and saved.step == step else step
    if saved is None:
        place = f"at or before {f'step {step:,}' if step is not None else f'nominal time {nominal_time}'}"
        first = next(iter(past.checkpoints()), None)
        there = "it has none" if first is None else f"its first is after step {first.step:,}"
        raise CheckpointError(
            f"{past.folder} has no whole checkpoint {place}: {there}; exact=True (--exact) begins without one"
        )
    return saved


def _checkpoint(past: Past, begins: Saved | int, folder: Path) -> Saved:
    """The checkpoint of the fork: a copy of the run's, or one of where the run goes again."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(begins, int):
        with past.standing(begins) as standing:
            if standing.unlike is not None:
                raise CheckpointError(
                    f"step {standing.unlike:,} came out otherwise than in the ledger of {past.folder}, so that the "
                    f"weights after step {begins:,} are not those of the run: see replay (minibatch replay "
                    f"{past.folder} {standing.unlike}), or fork from a checkpoint ({_steps_of(past)}), without "
                    "exact=True (--exact)"
                )
            time = standing.trainer.nominal_time
            path = standing.trainer.save_checkpoint(checkpoint.place(folder, time))
        return Saved(path=path, step=begins, nominal_time=time)
    path = checkpoint.place(folder, begins.nominal_time)
    shutil.copytree(begins.path, path)
    checkpoint.verify(path)  # the run may have removed it half way
    return Saved(path=path, step=begins.step, nominal_time=begins.nominal_time)


def _steps_of(past: Past) -> str:
    """After which steps there are checkpoints, in words."""
    steps = [f"{saved.step:,}" for saved in past.checkpoints()]
    return f"there are some after step {', '.join(steps)}" if steps else "there is none"


def _copy_lines(source: Path, target: Path, step: int) -> None:
    """The lines of a file of JSON lines up to a step, while the file may grow."""
    if source.exists():
        with open(source, "rb") as file:
            _, end, _ = last_line(file, "step", step)
            file.seek(0)
            target.write_bytes(file.read(end))


def _link_data(past: Past, out: Path) -> None:
    """The fork reads the run's data where they lie, unless the recipe has them elsewhere."""
    data = past.folder / "data" if past.data is None else past.data
    if data.exists():
        (out / "data").symlink_to(os.path.abspath(data), target_is_directory=True)


def _write(path: Path, document: Any) -> None:
    write_atomically(path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())

"""Saving and restoring a Trainer: what goes into a checkpoint, what must agree on the way back, and what may differ."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from minibatch.errors import CheckpointError
from minibatch.models.noise import KeyedNoise
from minibatch.train import checkpoint, state
from minibatch.train.config import described, differences
from minibatch.train.environment import environment
from minibatch.train.folder import RunFolder
from minibatch.train.history import as_document, as_validation
from minibatch.train.rates import entries_in_motion
from minibatch.train.skips import as_documents, from_documents

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

AVERAGED = "averaged/"
NEEDED = ("step", "nominal_time", "seed", "source", "optimizers", "settings", "environment", "config")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Where a run goes on: from which checkpoint, which newer ones were passed over, and what differs from it now."""

    path: Path
    step: int
    nominal_time: int
    skipped: tuple[checkpoint.Skipped, ...]
    changes: tuple[str, ...]


def save(trainer: "Trainer", folder: RunFolder | None, path: Path | None, *, wait: bool) -> Path:
    """Write a checkpoint of `trainer` to `path`, or to its place in the run's folder; there, perhaps, by a thread."""
    trainer.refuse_half_a_step()
    if folder is not None:
        folder.wait()  # its thread reads the memory that the state is copied to
    if path is not None:
        checkpoint.write(path, content_of(trainer))
        return path
    if folder is None:
        raise ValueError("this Trainer has no folder: pass folder= to Trainer, or a path to save_checkpoint")
    folder.begin(trainer.step, trainer.nominal_time)
    return folder.save(lambda: content_of(trainer), trainer.nominal_time, wait=wait)


def content_of(trainer: "Trainer") -> checkpoint.Content:
    """All there is to a run at this moment, its tensors copied to memory that the next call uses again."""
    if trainer.averaging is not None and trainer.averaging.is_applied:
        raise CheckpointError("the averaged weights are in place of the model's: leave `applied()` before saving")
    optimizer = {**state.optimizer_tensors(trainer.optimizers, trainer.owned), **averaged_tensors(trainer)}
    return checkpoint.Content(
        model=trainer.staged_model.copied(state.model_tensors(trainer.model)),
        optimizer=trainer.staged_optimizer.copied(optimizer),
        state={
            "format": checkpoint.FORMAT,
            "created_by": f"minibatch-timeline {_version()}",
            "step": trainer.step,
            "nominal_time": trainer.nominal_time,
            "seed": trainer.seed,
            "source": None if trainer.source is None else trainer.source.get_checkpoint_state(),
            "optimizers": state.optimizer_document(trainer.optimizers, trainer.owned, trainer.group_numbers),
            "history": [as_document(validation) for validation in trainer.history],
            "precision": trainer.precision.state(),
            "spikes": None if trainer.detector is None else trainer.detector.state(),
            "skips": as_documents(trainer.streams.skips),
            "starts": list(trainer.starts),
            "averaging": None if trainer.averaging is None else trainer.averaging.since,
            "settings": settings(trainer),
            "environment": environment(trainer.model, trainer.optimizers),
            "config": described(trainer.config),
        },
    )


def restore(trainer: "Trainer", folder: RunFolder | None, path: Path | None, override: Sequence[str]) -> Restored:
    """Take over a checkpoint; everything is checked before anything is changed."""
    skipped: tuple[checkpoint.Skipped, ...] = ()
    if folder is not None:
        folder.wait()  # else a checkpoint of the branch left now could appear after it was set aside
    if path is None:
        if folder is None:
            raise ValueError(
                "this Trainer has no folder: pass folder= to Trainer, or a path to restore_from_checkpoint"
            )
        newest = folder.newest()
        skipped, path = newest.skipped, newest.path
        for one in skipped:
            trainer.announce(f"checkpoint {one}")
        if path is None:
            why = "; ".join(map(str, skipped)) or "there is none"
            raise CheckpointError(f"no complete checkpoint in {folder.checkpoints}: {why}")
    content = checkpoint.read(path)
    saved = content.state
    if missing := [entry for entry in NEEDED if entry not in saved]:
        raise CheckpointError(f"{path / checkpoint.STATE} lacks {', '.join(missing)}: another program has written it")
    state.check_model(trainer.model, content.model)
    state.check_optimizers(trainer.optimizers, trainer.owned, saved["optimizers"])
    if saved["seed"] != trainer.seed and "seed" not in override:
        raise CheckpointError(
            f"the checkpoint {path} was made with seed {saved['seed']}, this run has seed {trainer.seed}: its dropout "
            "and noise would be others; pass seed=, or override=['seed']"
        )
    if (saved["source"] is None) != (trainer.source is None):
        sides = ["without a source" if side is None else "with a source" for side in (saved["source"], trainer.source)]
        raise CheckpointError(f"the checkpoint {path} was made {sides[0]}, this Trainer is {sides[1]}")
    now_here = environment(trainer.model, trainer.optimizers)
    check_bits(trainer.promise, saved["settings"], saved["environment"], now_here, override)
    averaged = averaged_in(content)
    if trainer.averaging is not None:
        try:
            trainer.averaging.check(averaged, saved.get("averaging"))
        except ValueError as error:
            raise CheckpointError(f"the checkpoint {path} has other averages than this run: {error}") from None
    if trainer.source is not None:
        trainer.source.restore_from_checkpoint(saved["source"], [o for o in override if o != "environment"])
    trainer.model.load_state_dict(dict(content.model))
    entries = {name: tensor for name, tensor in content.optimizer.items() if not name.startswith(AVERAGED)}
    state.load_optimizers(trainer.optimizers, trainer.owned, entries, saved["optimizers"])
    if trainer.averaging is not None:
        trainer.averaging.load(averaged, saved.get("averaging"))
    if trainer.detector is not None and saved.get("spikes"):
        trainer.detector.restore(**saved["spikes"])
    known = from_documents(saved.get("skips", []))
    trainer.streams.skips[:] = [*known, *(skip for skip in trainer.streams.skips if skip not in known)]
    trainer.starts.clear()  # a rollback after a resume leaves out what it would have left out without
    trainer.starts.extend(saved.get("starts", []))
    trainer.precision.restore(saved.get("precision") or {})
    trainer.history[:] = [as_validation(document) for document in saved.get("history", [])]
    trainer.take_position(saved["step"], saved["nominal_time"])
    if folder is not None:
        folder.resume_at(path)
    now: dict[str, Any] = {
        "settings": settings(trainer),
        "environment": now_here,
        "config": described(trainer.config),
    }
    changes = differences(saved["settings"], now["settings"])
    if saved["config"] is not None and now["config"] is not None:
        # The configuration says it all in the user's words; `options` only what it was made from.
        inner = differences(saved["config"], now["config"])
        changes = [line for line in inner if not line.startswith("options.")] or inner or changes
    changes += differences(saved["environment"], now["environment"], "environment")
    if saved["seed"] != trainer.seed:
        changes.insert(0, f"seed: {saved['seed']} → {trainer.seed}")
    for change in changes:
        trainer.announce(f"changed since the checkpoint: {change}")
    return Restored(
        path=path,
        step=saved["step"],
        nominal_time=saved["nominal_time"],
        skipped=skipped,
        changes=tuple(changes),
    )


def settings(trainer: "Trainer") -> dict[str, Any]:
    """What may be changed at a resume, for comparison: sizes, terms, rates, schedules, noise."""
    layers = trainer.model.named_modules()
    opened = {} if trainer.source is None else trainer.source.arguments
    return {
        "promise": trainer.promise,
        "leaf_size": trainer.streams.leaf_size,
        "batch_norm": trainer.batch_norm,
        "precision": trainer.precision.name,
        "compile": described(trainer.compiled),
        "averaging": None if trainer.averaging is None else described(trainer.averaging.ema),
        "minibatch_size": described(trainer.minibatch_size),
        "microbatch_size": trainer.microbatch_size,
        "inputs": described(trainer.inputs),
        "terms": {term.name: described(term) for term in trainer.terms},
        "optimizers": _without_scheduled_rates(trainer),
        "schedules": described(trainer.schedules),
        "regularizers": described(trainer.regularizers),
        "clip": described(trainer.clip),
        "clip_grad_norm": trainer.clip_grad_norm,
        "noise": {name: f"{type(m).__name__}({m.extra_repr()})" for name, m in layers if isinstance(m, KeyedNoise)},
        "foreign_noise": trainer.foreign_noise,
        "on_nonfinite": trainer.on_nonfinite,
        "spikes": described(trainer.spikes),
        # Data, seed and order have been compared by the source itself.
        "source": {name: described(value) for name, value in opened.items() if name not in ("seed", "shuffle")},
    }


def check_bits(
    promise: str,
    settings: Mapping[str, Any],
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    override: Sequence[str],
) -> None:
    """Refuse to go on with a run of the promise "bits" where something else would compute other bits."""
    if promise != "bits" or settings.get("promise") != "bits" or "environment" in override:
        return
    changes = differences(dict(saved), dict(now))
    if changes:
        raise CheckpointError(
            f"the run promises 'bits', but what they depend on has changed: {'; '.join(changes)}. Bring it back, or "
            "pass override=['environment'] to go on with other last bits"
        )


def averaged_in(content: checkpoint.Content) -> dict[str, Tensor]:
    """The averaged weights that a checkpoint holds, by name; empty without averaging, or before it began."""
    return {
        name.removeprefix(AVERAGED): tensor for name, tensor in content.optimizer.items() if name.startswith(AVERAGED)
    }


def averaged_tensors(trainer: "Trainer") -> dict[str, Tensor]:
    """The averaged weights, named "averaged/name"."""
    if trainer.averaging is None:
        return {}
    return {f"{AVERAGED}{name}": tensor for name, tensor in trainer.averaging.tensors().items()}


def _without_scheduled_rates(trainer: "Trainer") -> list[dict[str, Any]]:
    """The optimizers' settings; a rate that a schedule sets says only where the run stands."""
    documents = state.settings_of(trainer.optimizers, trainer.owned)
    for document, optimizer, schedule in zip(documents, trainer.optimizers, trainer.schedules, strict=True):
        for group, live in zip(document["groups"], optimizer.param_groups, strict=True):
            for entry in entries_in_motion(live, scheduled=schedule is not None):
                group.pop(entry, None)
    return documents


@cache
def _version() -> str:
    try:
        return importlib.metadata.version("minibatch-timeline")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"

"""A configuration and a folder make a run: begin it, resume it, end it with a result.

out/config.json      the complete configuration
out/data/            the data sets, unless they lie elsewhere
out/ledger.jsonl, validation.jsonl, checkpoints/    see folder.py
out/result.json      of a finished run: values on held-out data, digest of the parameters
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minibatch import MinibatchSource, rng
from minibatch.errors import CheckpointError
from minibatch.storage import write_atomically
from minibatch.train import recipes
from minibatch.train.checkpoint import checkpoints_in
from minibatch.train.config import RunConfig, described, save_config
from minibatch.train.digest import parameters_digest
from minibatch.train.ledger import Lines
from minibatch.train.lock import FolderLock
from minibatch.train.loop import Callback
from minibatch.train.progress import Reporter, announce
from minibatch.train.trainer import Trainer

CONFIG, RESULT = "config.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: finished, or stopped for a reason; values on held-out data are those of a finished run."""

    step: int
    nominal_time: int
    stopped: str | None
    validation: Mapping[str, float | None]
    parameters_digest: str
    checkpoint: Path


def options_for(recipe: str, out: Path, given: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """The options of a run: those given, on a resume over those it was begun with.

    Raises CheckpointError where `out` holds a run and `resume` was not asked for, or the other way round, or another
    recipe's.
    """
    if not resume:
        if (out / CONFIG).exists() or checkpoints_in(out / "checkpoints"):
            steps = Lines(out / "ledger.jsonl").last_step()
            raise CheckpointError(
                f"{out} already holds a run ({steps:,} steps in its ledger): pass --resume to go on with it, or choose "
                "another folder"
            )
        return dict(given)
    try:
        config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        saved_recipe, saved = config["recipe"], dict(config["options"])
    except FileNotFoundError:
        raise CheckpointError(f"{out} holds no run to resume; leave out --resume to begin one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{out / CONFIG} is damaged: {error!r}") from None
    if saved_recipe != recipe:
        raise CheckpointError(f"{out} holds a run of the recipe {saved_recipe}, not of {recipe}")
    if given.get("seed", saved.get("seed")) != saved.get("seed"):
        raise CheckpointError(
            f"{out} holds a run with seed {saved.get('seed')}, which a resume cannot change (given: {given['seed']}): "
            "leave out --seed, or begin another run in another folder"
        )
    return {**saved, **given}


def run_recipe(
    recipe: str,
    out: Path,
    *,
    options: Mapping[str, Any],
    resume: bool = False,
    data: Path | None = None,
    reporter: Reporter | None = None,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = announce,
) -> Outcome:
    """Begin or resume the run of a recipe in the folder `out`, up to its `max_samples`; errors: see `options_for`."""
    recipes.find(recipe)  # an unknown name is an error before anything is looked at
    config = recipes.configure(recipe, options_for(recipe, out, options, resume=resume))
    lock = FolderLock(out)  # two runs that begin at once must not both make the data
    try:
        prepared = config.data(out / "data" if data is None else data)
    finally:
        lock.release()
    with (
        torch_threads(config.threads, say),
        MinibatchSource(prepared.train, seed=config.seed, transforms=config.transforms) as source,
        make_trainer(config, source, out, say) as trainer,
    ):
        trainer.validation = prepared.valid
        if resume and checkpoints_in(out / "checkpoints"):
            restored = trainer.restore_from_checkpoint()
            say(f"resumed after step {restored.step:,}, at nominal time {restored.nominal_time:,}")
            if restored.nominal_time > config.max_samples:
                raise CheckpointError(
                    f"{out} holds a run that stands at nominal time {restored.nominal_time:,}, beyond max_samples = "
                    f"{config.max_samples:,}: nothing is left to train"
                )
        out.mkdir(parents=True, exist_ok=True)
        save_config(out / CONFIG, config)
        (out / RESULT).unlink(missing_ok=True)
        if trainer.step == 0:
            trainer.save_checkpoint()  # so that a run killed at any moment can be resumed
        ended = trainer.fit(
            max_samples=config.max_samples,
            validate_every=config.validate_every,
            save_every=config.save_every,
            callbacks=callbacks,
            progress=reporter or False,
        )
        finished = trainer.nominal_time >= config.max_samples
        validation = ended.validation
        if finished and validation is None and prepared.valid is not None:
            validation = trainer.validate(record=False)
        outcome = Outcome(
            step=trainer.step,
            nominal_time=trainer.nominal_time,
            stopped=None if finished else ended.stopped,
            validation={} if validation is None else dict(validation),
            parameters_digest=parameters_digest(trainer.model),
            checkpoint=checkpoints_in(out / "checkpoints")[-1],
        )
        if finished:
            save_result(out, config, outcome)
    return outcome


@contextmanager
def torch_threads(threads: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """Let torch compute with so many threads inside, and with as many as before after it."""
    before = torch.get_num_threads()
    if threads is not None and threads != before:
        say(f"torch computes with {threads} thread{'s' if threads > 1 else ''} during this run (it had {before})")
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_trainer(
    config: RunConfig, source: MinibatchSource, out: Path, say: Callable[[str], None] = announce
) -> Trainer:
    """The Trainer of a configuration: its model's first weights are drawn with a key of the run's seed."""
    model = config.model(seed=rng.key(config.seed, "init"))
    return Trainer(
        model,
        config.terms,
        config.optimizers(model),
        source,
        config.minibatch_size,
        config.microbatch_size,
        config.inputs,
        config.seed,
        schedules=config.schedules,
        regularizers=config.regularizers,
        clip_grad_norm=config.clip_grad_norm,
        metrics=config.metrics,
        folder=out,
        keep_last=config.keep_last,
        log_every=config.log_every,
        config=described(config),
        announce=say,
    )


def save_result(out: Path, config: RunConfig, outcome: Outcome) -> None:
    """Write the result of a finished run as JSON: nothing in it depends on time or machine but the bits themselves."""
    document = {
        "recipe": config.recipe,
        "options": described(config.options),
        "step": outcome.step,
        "nominal_time": outcome.nominal_time,
        "validation": outcome.validation,
        "parameters_digest": outcome.parameters_digest,
    }
    write_atomically(out / RESULT, (json.dumps(document, indent=1) + "\n").encode())

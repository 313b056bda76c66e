"""A configuration and a folder make a run: begin it, resume it, end it with a result.

out/config.json      the complete configuration
out/data/            the data sets, unless they lie elsewhere
out/ledger.jsonl, validation.jsonl, configs.jsonl, checkpoints/    see folder.py
out/result.json      of a finished run: values on held-out data, numbers of its report, digest of the parameters
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from minibatch import Dataset, MinibatchSource
from minibatch.errors import CheckpointError
from minibatch.storage import MANIFEST, write_atomically
from minibatch.train import foreign, loop, recipes, user_code, watching
from minibatch.train.best import Watch
from minibatch.train.checkpoint import checkpoints_in, place
from minibatch.train.computing import computing
from minibatch.train.config import Prepared, RunConfig, described, differences, save_config
from minibatch.train.device import placed
from minibatch.train.digest import parameters_digest
from minibatch.train.eval_mode import eval_mode
from minibatch.train.finished import Finished
from minibatch.train.folder import note_config
from minibatch.train.ledger import Lines
from minibatch.train.lock import FolderLock
from minibatch.train.loop import Callback
from minibatch.train.progress import Reporter, announce
from minibatch.train.trainer import Trainer

CONFIG, RESULT = "config.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: finished, or stopped for a reason; values on held-out data are those of a finished run.

    stopped: why it is not finished, None if it is. ended_by: what ended it in any case: "max_samples", or patience.
    validation, parameters_digest, checkpoint: of the last weights; of a finished run with `restore_best`, of its best,
    which were measured at `best_nominal_time`. report: the numbers of the recipe's report, see finished.py.
    """

    step: int
    nominal_time: int
    stopped: str | None
    ended_by: str
    validation: Mapping[str, float | None]
    parameters_digest: str
    checkpoint: Path
    best_nominal_time: int | None = None
    report: Mapping[str, float] = field(default_factory=dict)


def load_config(folder: str | os.PathLike[str], say: Callable[[str], None] = announce) -> RunConfig:
    """The configuration of the run in `folder`, made again by its recipe from what its config.json says.

    What comes out otherwise than it is written there (the recipe's file has changed since) is told to `say`. Raises
    CheckpointError where the folder holds no configuration, or a damaged one.

    >>> load_config("nowhere")
    Traceback (most recent call last):
    minibatch.errors.CheckpointError: nowhere holds no run: it has no config.json
    """
    path = Path(folder) / CONFIG
    saved = saved_config(Path(folder))
    if saved is None:
        raise CheckpointError(f"{folder} holds no run: it has no {CONFIG}")
    return made_again(saved, path, say)


def made_again(saved: Mapping[str, Any], where: Path, say: Callable[[str], None] = announce) -> RunConfig:
    """The configuration that a saved one describes, by its recipe again; `where` it is written: see `load_config`."""
    chosen = saved.get("set", {})
    below = {name: value for name, value in chosen.items() if name.partition(".")[0] not in saved["options"]}
    config = replace(recipes.configure(saved["recipe"], {**saved["options"], **below}), set=chosen)
    for line in differences({"set": described(chosen), **saved}, described(config)):
        say(f"{where} says otherwise than its recipe now: {line}")
    return config


def saved_config(folder: Path) -> dict[str, Any] | None:
    """What config.json of a run says, None without one; CheckpointError if it is damaged."""
    try:
        saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not (isinstance(saved["recipe"], str) and isinstance(saved["options"], dict)):
            raise TypeError("'recipe' must be a text and 'options' an object")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error!r}") from None
    assert isinstance(saved, dict)
    return saved


def config_for(recipe: str, out: Path, changes: Mapping[str, Any], *, resume: bool) -> RunConfig:
    """The configuration of a run: that of the recipe with `changes`, on a resume over those it was begun with.

    A resumed run follows its recipe as it is now, so what was edited there since takes effect, except for what had been
    set by hand. Raises CheckpointError where `out` holds a run and `resume` was not asked for, or the other way round,
    or another recipe's, or one with another seed.
    """
    if not resume:
        if (out / CONFIG).exists() or checkpoints_in(out / "checkpoints"):
            steps = Lines(out / "ledger.jsonl").last_step()
            raise CheckpointError(
                f"{out} already holds a run ({steps:,} steps in its ledger): pass --resume to go on with it, or choose "
                "another folder"
            )
        return recipes.configure(recipe, changes)
    saved = saved_config(out)
    if saved is None:
        raise CheckpointError(f"{out} holds no run to resume; leave out --resume to begin one")
    if not recipes.same(saved["recipe"], recipe):
        raise CheckpointError(f"{out} holds a run of the recipe {saved['recipe']}, not of {recipe}")
    config = recipes.configure(recipe, merged(saved.get("set", saved["options"]), changes))
    if config.seed != saved.get("seed", config.seed):
        raise CheckpointError(
            f"{out} holds a run with seed {saved['seed']}, which a resume cannot change (given: {config.seed}): "
            "leave out --seed, or begin another run in another folder"
        )
    return config


def merged(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Changes by dotted path over earlier ones: what is set as a whole forgets what had been set inside it.

    >>> merged({"a.b": 1, "c": 2}, {"a": 3})
    {'c': 2, 'a': 3}
    """
    kept = {
        name: value
        for name, value in before.items()
        if not any(name == path or name.startswith(f"{path}.") for path in after)
    }
    return {**kept, **after}


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
    """Begin or resume the run of a recipe in the folder `out`, up to its `max_samples`.

    options: changes by name or dotted path, see `recipes.configure`; errors: see `config_for`.
    """
    if ":" not in recipe:
        recipes.find(recipe)  # an unknown name is an error before anything is looked at
    config = config_for(recipe, out, options, resume=resume)
    lock = FolderLock(out)  # two runs that begin at once must not both make the data
    try:
        prepared = config.data(data_folder(out, data, say))
    finally:
        lock.release()
    going_on = resume and bool(checkpoints_in(out / "checkpoints"))
    with (
        user_code.places_noted(),
        computing(config, say),
        opened_source(config, prepared) as source,
        make_trainer(config, source, out, say, start=None if going_on else prepared) as trainer,
        opened_validation(config, prepared) as trainer.validation,
    ):
        if going_on:
            restored = trainer.restore_from_checkpoint()
            say(f"resumed after step {restored.step:,}, at nominal time {restored.nominal_time:,}")
            if restored.nominal_time > config.max_samples:
                raise CheckpointError(
                    f"{out} holds a run that stands at nominal time {restored.nominal_time:,}, beyond max_samples = "
                    f"{config.max_samples:,}: nothing is left to train"
                )
        names = ("validate_every", "validate_first", "save_every", "patience", "restore_best", "watch")
        watching.check_plan(trainer, **{name: getattr(config, name) for name in names})
        out.mkdir(parents=True, exist_ok=True)
        save_config(out / CONFIG, config)
        note_config(out, trainer.step, described(config))
        (out / RESULT).unlink(missing_ok=True)
        if trainer.step == 0:
            trainer.save_checkpoint()  # so that a run killed at any moment can be resumed
        ended = loop.fit(
            trainer,
            max_samples=config.max_samples,
            callbacks=callbacks,
            progress=reporter or False,
            **{name: getattr(config, name) for name in OF_FIT},
            # Also where nothing asks for checkpoints on the way: a run without its last weights would be for nothing.
            save_every=config.max_samples if config.save_every is None else config.save_every,
        )
        # Patience is a function of the validations, so a run that it has ended is finished however often it is resumed.
        impatient = config.patience is not None and watch_of(config).stopped(trainer.history) is not None
        finished = trainer.nominal_time >= config.max_samples or impatient
        validation = ended.best or ended.validation
        if finished and validation is None and trainer.validation is not None:
            validation = trainer.validate(record=False)
        best = ended.best if finished else None
        saved = checkpoints_in(out / "checkpoints")
        outcome = Outcome(
            step=trainer.step,
            nominal_time=trainer.nominal_time,
            stopped=None if finished else ended.stopped,
            validation={} if validation is None else dict(validation),
            parameters_digest=parameters_digest(trainer.model),
            checkpoint=saved[-1] if best is None else place(out / "checkpoints", best.nominal_time),
            ended_by=ended.stopped,
            best_nominal_time=None if best is None else best.nominal_time,
        )
        if finished:
            save_result(out, config, outcome)
            if config.report is not None:
                outcome = replace(outcome, report=reported(trainer, config, prepared, out))
                save_result(out, config, outcome)
    return outcome


def data_folder(out: Path, data: Path | None, say: Callable[[str], None] = announce) -> Path:
    """Where the data sets of the run in `out` lie: out/data, which is made a link to `data` if that is given.

    So that whatever looks at the run later finds them. What out/data is already, it stays;
    CheckpointError if that is other data than `data`.
    """
    inside = out / "data"
    if data is None:
        return inside
    if os.path.islink(inside) and not inside.exists():
        inside.unlink()  # to where the data no longer are
    if not os.path.lexists(inside):
        out.mkdir(parents=True, exist_ok=True)
        try:
            inside.symlink_to(os.path.abspath(data), target_is_directory=True)
        except OSError as error:  # on file systems without links
            say(f"{inside} could not be made a link to {data} ({error}): pass --data again with every command")
    elif inside.resolve() != Path(data).resolve() and fingerprints(inside) != fingerprints(Path(data)):
        raise CheckpointError(
            f"{inside} is other data than --data {data}, and whatever looks at the run later would take it: leave out "
            f"--data, or remove {inside} if the run is to go on with the other, or choose another --out"
        )
    return data


def fingerprints(folder: Path) -> dict[str, str]:
    """The fingerprints of the data sets in a folder, by their names there."""
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return {path.name: Dataset.open(path).fingerprint for path in found}


@contextmanager
def opened_source(config: RunConfig, prepared: Prepared) -> Iterator[Any]:
    """The source that a run trains on, closed at the end: `config.source`'s, or one of the training data."""
    with ExitStack() as stack:
        if config.source is not None:
            found = config.source(prepared, config.seed)
        else:
            found = MinibatchSource(prepared.train, seed=config.seed, transforms=config.transforms)
        _close_at_end(stack, found)
        yield found


@contextmanager
def opened_validation(config: RunConfig, prepared: Prepared) -> Iterator[Any]:
    """What a run is measured on, closed at the end: `config.validation_source`'s (one, or one for each stream by name),
    or the folder of held-out data."""
    with ExitStack() as stack:
        found: Any = prepared.valid
        if config.validation_source is not None:
            found = config.validation_source(prepared, config.seed)
            _close_at_end(stack, found)
        yield found


def _close_at_end(stack: ExitStack, found: Any) -> None:
    """Have a source closed, or each of those that come by name."""
    for source in found.values() if isinstance(found, Mapping) else (found,):
        if hasattr(source, "close"):  # and not the path of a data set
            stack.callback(source.close)


# Fields of the configuration that go to the Trainer, and to `fit`, under their own names.
OF_TRAINER = (
    "minibatch_size", "microbatch_size", "inputs", "seed", "schedules", "regularizers", "clip", "clip_grad_norm",
    "averaging", "promise", "leaf_size", "batch_norm", "precision", "compile", "metrics", "validation_size",
    "keep_last", "log_every", "foreign_noise", "on_nonfinite", "spikes", "skips", "check_unreached",
)  # fmt: skip
OF_FIT = (
    "validate_every", "validate_first", "patience", "min_improvement", "absolute", "watch", "mode", "restore_best",
)  # fmt: skip


def watch_of(config: RunConfig) -> Watch:
    """What of the validations decides when the run ends, and which weights are its best."""
    return Watch(
        name=config.watch,
        mode=config.mode,
        patience=config.patience,
        min_improvement=config.min_improvement,
        absolute=config.absolute,
    )


def make_trainer(
    config: RunConfig,
    source: Any,
    out: Path | None,
    say: Callable[[str], None] = announce,
    *,
    start: Prepared | None = None,
    **options: Any,
) -> Trainer:
    """The Trainer of a configuration: its model's first weights are drawn with a key of the run's seed.

    start: the data for `config.start`, which then gives the first weights; None where a checkpoint will. options: of
    `Trainer`, over those of the configuration.
    """
    model = placed(foreign.first_model(config.model, config.seed), config.device)
    if start is not None and config.start is not None:
        try:
            config.start(model, start, config.seed)
        except Exception as error:
            error.add_note(f"this is start= of {config.recipe or 'the run'}, with the data {start.train}")
            raise
    return Trainer(
        model,
        config.terms,
        config.optimizers(model),
        source,
        **{
            **{name: getattr(config, name) for name in OF_TRAINER},
            "folder": out,
            # Without what was chosen by hand, which a checkpoint's list of changes would only say twice.
            "config": {name: value for name, value in described(config).items() if name != "set"},
            "announce": say,
            **options,
        },
    )


def reported(trainer: Trainer, config: RunConfig, prepared: Prepared, out: Path) -> Mapping[str, float]:
    """The numbers of the recipe's report on the finished run; the model is as it was before."""
    assert config.report is not None
    averaged = nullcontext() if trainer.averaging is None else trainer.averaging.applied()
    with eval_mode(trainer.model), torch.no_grad(), averaged:
        found = config.report(Finished(model=trainer.model, config=config, prepared=prepared, out=out))
    return {name: float(value) for name, value in found.items()}


def save_result(out: Path, config: RunConfig, outcome: Outcome) -> None:
    """Write the result of a finished run as JSON: nothing in it depends on time or machine but the bits themselves."""
    document = {
        "recipe": config.recipe,
        "options": described(config.options),
        "step": outcome.step,
        "nominal_time": outcome.nominal_time,
        "validation": outcome.validation,
        "parameters_digest": outcome.parameters_digest,
        "best_nominal_time": outcome.best_nominal_time,
        "report": outcome.report,
    }
    write_atomically(out / RESULT, (json.dumps(document, indent=1) + "\n").encode())

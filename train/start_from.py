"""First weights from another run: its tensors by name, and whether they are still those that were meant.

    RunConfig(…, start=start_from("runs/base", into="body"))       # a pretrained body under a new head
    torch_model.load_state_dict(weights_of("runs/base", "best"))   # without a run of ours

What is copied is a run's whole state dict by name: parameters, and buffers such as the statistics of batch
normalisation. A run whose first weights came from elsewhere is a function of them as well: `start_from` writes a digest
of them into the configuration when it is made, and they are compared with it before they are used.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from torch import Tensor, nn

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, running
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.progress import announce
from minibatch.train.saved_model import chosen_checkpoint, load_model

SHOWN = 6  # names in a message
Which = str | int


@dataclass(frozen=True, kw_only=True)
class StartFrom:
    """For `RunConfig.start`: the tensors of the run in the folder `run`, copied into those of the model by name.

    which, averaged: which of its weights, see `weights_of`. into: the module that gets them, "" for the model itself;
    the names inside it are those of the run's model. digest: of the weights that are meant, see `digest_of`; None for
    whatever is there. say: is told what was copied, and what of the model keeps its fresh weights.

    Raises CheckpointError where the run or its checkpoint is not there or has other weights than `digest` says, and
    ValueError where there is no module `into`, where a tensor has another shape there, or none has its name.

    >>> StartFrom(run="runs/base", into="body")(nn.Linear(2, 1), Prepared(train=Path("data")), 7)
    Traceback (most recent call last):
    minibatch.errors.CheckpointError: first weights from another run: runs/base holds no run: it has no config.json
    """

    run: str
    which: Which = "newest"
    averaged: bool | None = None
    into: str = ""
    digest: str | None = None
    say: Callable[[str], None] = announce

    def __call__(self, model: nn.Module, prepared: Prepared, seed: int) -> None:
        """Copy the weights into `model`, wherever it lies."""
        try:
            config = running.load_config(self.run, _silent)
            # Chosen once, for the digest and for the weights: a base that goes on has another newest soon.
            path = chosen_checkpoint(Path(self.run), config, self.which)
            found = _digest(path, config, self.averaged)
            if self.digest is not None and found != self.digest:
                raise CheckpointError(
                    f"{self.run} has other weights ({self.which}) than this run was configured with: their digest is "
                    f"{found}, and was {self.digest}. Begin with the run as it was, or make the configuration anew"
                )
            saved = load_model(self.run, which=path, averaged=self.averaged)
        except CheckpointError as error:
            raise CheckpointError(f"first weights from another run: {error}") from error
        try:
            part = model.get_submodule(self.into)
        except AttributeError:
            names = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"StartFrom(into={self.into!r}): {type(model).__name__} has no such module; it has {names}"
            ) from None
        weights = _tensors(saved.model)
        copied = copy_by_name(weights, part)
        before = f"{self.into}." if self.into else ""
        fresh = [
            name for name in _tensors(model) if not (name.startswith(before) and name.removeprefix(before) in copied)
        ]
        left = [name for name in weights if name not in copied]
        self.say(
            f"first weights of {len(copied)} tensors are from {saved.path} (digest {found}); fresh: {_listed(fresh)}; "
            f"not taken: {_listed(left)}{_passed_over(Path(self.run)) if self.which == 'newest' else ''}"
        )


def start_from(
    run: str | os.PathLike[str],
    which: Which = "newest",
    *,
    into: str = "",
    averaged: bool | None = None,
    digest: str | None = None,
) -> StartFrom:
    """`StartFrom` with the digest of the weights as they are now, unless another is meant; arguments as there.

    A run that is not there (yet) gives one without a digest: the error comes where its weights are needed, and a run
    that has been begun is shown and resumed without the one that it came from.

    >>> start_from("runs/base", into="body").digest
    """
    path = os.fspath(run)
    if digest is None:
        try:
            digest = digest_of(path, which, averaged=averaged)
        except CheckpointError:
            digest = None
    return StartFrom(run=path, which=which, into=into, averaged=averaged, digest=digest)


def weights_of(
    run: str | os.PathLike[str], which: Which = "newest", *, averaged: bool | None = None
) -> dict[str, Tensor]:
    """The state dict of the model of a run, on the CPU: tensors by name, the run's own names.

    which: "newest", "best" (of the run's validations), or the nominal time of a checkpoint; averaged: the moving
    average of the weights instead of the weights, None for what the run's validations measure. The run's folder is only
    read. Raises CheckpointError where there is no such run, checkpoint or average.

    >>> weights_of("runs/base")
    Traceback (most recent call last):
    minibatch.errors.CheckpointError: runs/base holds no run: it has no config.json
    """
    return {name: t.cpu() for name, t in _tensors(load_model(run, which=which, averaged=averaged).model).items()}


def digest_of(run: str | os.PathLike[str], which: Which = "newest", *, averaged: bool | None = None) -> str:
    """A digest of what `weights_of` with the same arguments returns, 32 hexadecimal digits; no weights are read.

    Of the digests that the checkpoint's manifest has of its files: that of the model, and, where an average is meant,
    the one of the file that it lies in. Raises CheckpointError as `weights_of`.
    """
    config = running.load_config(run, _silent)
    return _digest(chosen_checkpoint(Path(run), config, which), config, averaged)


def _digest(path: Path, config: RunConfig, averaged: bool | None) -> str:
    """The digest of what is taken from the checkpoint at `path`, see `digest_of`."""
    files = _files_of(path)
    names = [checkpoint.MODEL, *([checkpoint.OPTIMIZER] if _takes_average(config, averaged) else [])]
    return xxhash.xxh3_128_hexdigest("\n".join(f"{name} {files[name]}" for name in names).encode())


def copy_by_name(weights: Mapping[str, Tensor], module: nn.Module) -> set[str]:
    """Copy `weights` into the tensors of the state dict of `module` that have their names; returns these names.

    Raises ValueError, before anything is copied, where a shape differs or no name is in both.

    >>> sorted(copy_by_name({"weight": torch.ones(1, 2), "other": torch.ones(3)}, nn.Linear(2, 1)))
    ['weight']
    """
    mine = _tensors(module)
    common = [name for name in mine if name in weights]
    if not common:
        raise ValueError(
            f"no tensor has a name of both: given {_listed(list(weights))}; to be set {_listed(list(mine))}"
        )
    wrong = [name for name in common if mine[name].shape != weights[name].shape]
    if wrong:
        shapes = [f"{name} {tuple(weights[name].shape)}, here {tuple(mine[name].shape)}" for name in wrong]
        raise ValueError(f"tensors of other shapes than in the run they come from: {_listed(shapes)}")
    with torch.no_grad():
        for name in common:
            mine[name].copy_(weights[name])
    return set(common)


def _takes_average(config: RunConfig, averaged: bool | None) -> bool:
    """Whether averaged weights are meant; before an average has begun, its file's digest is that of less than it."""
    return config.averaging is not None if averaged is None else averaged


def _files_of(path: Path) -> dict[str, str]:
    """The digest of each file of a checkpoint, as its manifest says; CheckpointError if it has none."""
    try:
        manifest = json.loads((path / checkpoint.MANIFEST).read_bytes())
        return {name: str(said["xxh3_128"]) for name, said in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        checkpoint.verify(path)  # says what is wrong with it
        raise


def _passed_over(run: Path) -> str:
    """Which checkpoints of a run are newer than the newest that is complete, and why they were not taken."""
    skipped = checkpoint.newest_complete(run / "checkpoints").skipped
    return f"; newer, but not taken: {'; '.join(map(str, skipped))}" if skipped else ""


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _listed(names: list[str]) -> str:
    more = f" … ({len(names)} in all)" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more


def _silent(text: str) -> None:
    """What a base run's recipe has changed since is told when its weights are taken."""

"""A preset as a table for people: one convention a line."""

from typing import TYPE_CHECKING, Any

from minibatch.train.optimizers.named import PRESETS

if TYPE_CHECKING:
    from minibatch.train.presets.preset import Preset

CLIPPING = {
    None: "none",
    "per tensor": "by the 2-norm of each tensor, or by element",
    "per sample": "limit · samples, by element or by the norm of each tensor",
    "global": "by the 2-norm of all gradients together",
}
RATES = {
    "constant": "constant; changed from outside",
    "run": "over the progress of a run",
    "epochs": "lists, in units of an epoch",
    "steps": "one value per step",
}
DROPOUT = {
    "train": "inverted: the kept are scaled by 1 / (1 - p)",
    "test": "all are scaled by 1 - p in eval mode",
    "never": "never rescaled",
}


def rows(preset: "Preset") -> list[tuple[str, str]]:
    """What is in the table: pairs of a title and what the system does."""
    found = [("terms are divided by", _shown(preset.denominator))]
    found += [(f"  {name}", _shown(denominator)) for name, denominator in preset.denominators.items()]
    found += [(f"loss {name}", _options(options)) for name, options in preset.losses.items()]
    weights = "divided by their sum over the classes" if preset.normalize_class_weights else "as they are given"
    found += [("class weights", weights)]
    if preset.penalties:
        found += [("regularizers", ", ".join(preset.penalties)), ("  reduced by", preset.reduce)]
    found += [("weight decay", f"by the optimizer, of {preset.decay}")]
    found += [("usual optimizer", preset.algorithm)]
    named = PRESETS[preset.optimizers]
    found += [(f"  {name}", _options(options)) for name, options in named.items()]
    if not named:
        found += [("  all", "as in torch")]
    found += [("learning rate", "to be given" if preset.needs_rate else "has a default")]
    if preset.spelling:
        found += [("options spelled", ", ".join(f"{theirs} for {ours}" for theirs, ours in preset.spelling.items()))]
    found += [
        ("gradient clipping", CLIPPING[preset.clipping]),
        ("schedules", RATES[preset.rates]),
        ("dropout", DROPOUT[preset.dropout]),
        ("minibatch size", str(preset.batch_size) if preset.batch_size else "to be given"),
        ("early stopping", _options(preset.stopping) if preset.stopping else "none"),
    ]
    return found


def table(preset: "Preset") -> str:
    """The conventions of `preset`, a line each, titles left.

    >>> from minibatch.train.presets import preset
    >>> print(table(preset("convnet")))
    preset convnet
      terms are divided by       nominal minibatch size
      loss binary_cross_entropy  reduce=sum
      class weights              as they are given
      regularizers               wball
        reduced by               sum
      weight decay               by the optimizer, of matrices
      usual optimizer            sgd
        sgd                      velocity=inside
        nag                      velocity=inside
      learning rate              to be given
      options spelled            wc for weight_decay, mom for momentum, eps for lr
      gradient clipping          none
      schedules                  over the progress of a run
      dropout                    inverted: the kept are scaled by 1 / (1 - p)
      minibatch size             128
      early stopping             none
    """
    lines = rows(preset)
    width = max(len(title) for title, _ in lines)
    return "\n".join([f"preset {preset.system}", *(f"  {title.ljust(width)}  {text}" for title, text in lines)])


def _shown(denominator: Any) -> str:
    words = {
        None: "nothing: the sum",
        "weights": "the sum of the weights",
        "count": "the number of samples",
        "nominal": "nominal minibatch size",
    }
    return words.get(denominator, str(denominator))


def _options(options: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "as in torch"

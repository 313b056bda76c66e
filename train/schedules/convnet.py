"""cuda-convnet2's schedules, from the strings in its layer-params files."""

import re

from minibatch.train.schedules.curves import Constant, DiscreteExponential, Exponential, Linear
from minibatch.train.schedules.joined import Held
from minibatch.train.schedules.schedule import Schedule, checked_number, checked_samples

# The parameters of each kind, all required: lr.cu of cuda-convnet2.
KINDS = {
    "const": ("base",),
    "linear": ("base", "tgtFactor"),
    "exp": ("base", "tgtFactor"),
    "dexp": ("base", "tgtFactor", "numSteps"),
}
WRITTEN = re.compile(r"(\w+)\s*\[(.*)\]")


def from_convnet(text: str | float, max_samples: int, *, data_batch: int | None = None) -> Schedule:
    """The schedule of a string like "dexp[base=0.01;tgtFactor=250;numSteps=4]", over a run of `max_samples`.

    text: const, linear, exp or dexp with their parameters separated by ; or by commas; or a number. max_samples: what
    cuda-convnet2 calls epochs · batches, in samples. data_batch: cuda-convnet2 changes rates once per data batch only
    (3072 images for ImageNet), and one batch late; give its size to have just that, None for exact borders.

        linear   base · (1 - p) + base / tgtFactor · p                  p = t / max_samples
        exp      base · tgtFactor^(-p)
        dexp     numSteps flat levels, base · tgtFactor^(-i / (numSteps - 1))

    Raises ValueError for an unknown kind, and for missing or unknown parameters. Source: lr.cu and LearningRates.md.

    >>> rate = from_convnet("dexp[base=0.01;tgtFactor=250;numSteps=4]", max_samples=1000)
    >>> rate(0), round(rate(250), 6), rate(999)
    (0.01, 0.001587, 4e-05)
    """
    length = checked_samples(max_samples, "from_convnet: max_samples", least=1)
    held = None if data_batch is None else checked_samples(data_batch, "from_convnet: data_batch", least=1)
    if not isinstance(text, str):
        return Constant(text)
    kind, given = _parsed(text)
    base = given["base"]
    schedule: Schedule
    if kind == "const":
        return Constant(base)
    factor = given["tgtFactor"]
    if kind == "linear":
        schedule = Linear(base, samples=length, last=base / factor)
    elif kind == "exp":
        schedule = Exponential(base, factor=1.0 / factor, samples=length)
    else:
        levels = int(given["numSteps"])
        schedule = DiscreteExponential(base, 1.0 / factor, levels, length, after_border=held is not None)
    return schedule if held is None else Held(schedule, every=held)


def _parsed(text: str) -> tuple[str, dict[str, float]]:
    """Kind and parameters of a schedule as it is written in a layer-params file."""
    written = WRITTEN.fullmatch(text.strip())
    if written is None:
        try:
            return "const", {"base": float(text)}
        except ValueError:
            raise ValueError(
                f"{text!r} is no schedule of cuda-convnet2: expected a number, or one of {_examples()}"
            ) from None
    kind, inner = written.groups()
    if kind not in KINDS:
        raise ValueError(f"{text!r}: unknown kind of schedule {kind!r}; expected one of {_examples()}")
    given: dict[str, float] = {}
    for item in filter(None, (item.strip() for item in re.split("[;,]", inner))):
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            plain = float(value)
        except ValueError:
            raise ValueError(f"{text!r}: {item!r} is not of the form name=number") from None
        if name in given:
            raise ValueError(f"{text!r} gives {name} twice")
        given[name] = checked_number(plain, f"{text!r}: {name}", **({} if name == "base" else {"above": 0}))
    if set(given) != set(KINDS[kind]):
        raise ValueError(
            f"{text!r}: {kind} needs the parameters {', '.join(KINDS[kind])} and no others, got "
            f"{', '.join(given) or 'none'}"
        )
    if given.get("numSteps", 2) not in range(2, 10_000):
        raise ValueError(f"{text!r}: numSteps must be an integer from 2 on")
    return kind, given


def _examples() -> str:
    return ", ".join(f"{kind}[{';'.join(f'{name}=…' for name in names)}]" for kind, names in KINDS.items())

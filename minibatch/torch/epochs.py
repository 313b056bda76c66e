"""Epochs: a grid on the nominal time axis, for whoever counts in them. Integer arithmetic."""

from dataclasses import dataclass
from typing import Any

from minibatch.arguments import checked_integer
from minibatch.axis import border
from minibatch.laying import end_of_rows
from minibatch.source import MinibatchSource
from minibatch.timeline import MAX_TIME, end_of_axis
from minibatch.torch.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Epoch e spans [e · steps · minibatch_size, (e + 1) · steps · minibatch_size), up to the end of the axis.

    `steps` None: the whole axis is one epoch; `by_sweep`: an epoch ends where the minibatches say that a sweep does. A
    pass goes from anywhere to the first minibatch that reaches or crosses a border. `sweep` is the length of a sweep
    in nominal time where that is known, `end` where the axis ends (MAX_TIME: not, or not known before).

    >>> epochs = Epochs(minibatch_size=4, steps=3, end=30)
    >>> epochs.stop(5), epochs.after(5, 1), epochs.after(5, 2), epochs.length(24)
    (12, 13, 25, 2)
    """

    minibatch_size: int
    steps: int | None
    end: int
    by_sweep: bool = False
    sweep: int | None = None

    @property
    def span(self) -> int:
        """Nominal times in an epoch."""
        return self.end if self.steps is None else self.steps * self.minibatch_size

    def begin(self, epoch: int) -> int:
        """Where an epoch begins."""
        if not self.by_sweep:
            return min(self.end, epoch * self.span)
        if self.sweep is None:
            raise ValueError(
                f"nobody knows where epoch {epoch} begins without reading up to there: restore a state instead of "
                f"setting an epoch, or give steps_per_epoch"
            )
        return epoch * self.sweep

    def stop(self, time: int) -> int:
        """The border that a pass from `time` goes to."""
        if time >= self.end or self.steps is None:
            return self.end
        return min(self.end, (time // self.span + 1) * self.span)

    def over(self, last: Tensors | None, time: int, stop: int) -> bool:
        """Whether a pass to `stop` is over at `time`, behind the minibatch `last`."""
        return time >= stop or (self.by_sweep and last is not None and last.end_of_sweep)

    def minibatches(self, time: int) -> int:
        """How many minibatches a pass from `time` has."""
        return max(0, -(-(self.stop(time) - time) // self.minibatch_size))

    def after(self, time: int, passes: int) -> int:
        """Where so many passes from `time` end."""
        for _ in range(passes):
            time = max(time, min(self.end, time + self.minibatches(time) * self.minibatch_size))
        return time

    def length(self, time: int) -> int:
        """How many minibatches there are in the epoch that `time` lies in, or in the last one.

        Raises TypeError, as `len` does, where nobody knows.
        """
        if self.by_sweep:
            raise TypeError(
                "how many minibatches of sequences an epoch has is known when it has been read: give "
                'steps_per_epoch=…, or sequences="rows" or "packed" to the source'
            )
        if self.span >= MAX_TIME:
            raise TypeError(
                "an axis without an end has no length: give max_samples or max_sweeps to the source, or steps_per_epoch"
            )
        if self.end == 0:
            return 0
        begin = min(time, self.end - 1) // self.span * self.span
        return self.minibatches(begin)


def mode_of(source: MinibatchSource) -> str:
    """What nominal time counts: "rows", or the elements of "whole", "packed" or "truncated" sequences."""
    mode = str(source.arguments["sequences"])
    lists = any(field.depth for field in source.dataset.fields.values())
    return "rows" if mode == "whole" and not lists else mode


def sweep_of(source: MinibatchSource) -> int | None:
    """How long a sweep takes in nominal time; None where that has no closed form. Of sequences, all are counted."""
    mode, rows = mode_of(source), len(source.dataset)
    if mode == "rows":
        return rows
    if mode == "truncated" or border(source.order) != rows:
        return None  # lanes end anywhere, and a mixture has the sweeps of its sources
    return source.when(int(source.order.rows_at(rows, 1)[0]), sweep=1)


def end_of(source: MinibatchSource, sweep: int | None) -> int:
    """The nominal time at which the axis ends; MAX_TIME if it does not, or not at a time known before."""
    limits = source.arguments["max_samples"], source.arguments["max_sweeps"]
    if mode_of(source) == "rows":
        return end_of_rows("rows", source.order, *limits)
    if sweep is None:
        return MAX_TIME if limits[0] is None else int(limits[0])
    return end_of_axis(sweep, *limits)


def epochs_of(source: MinibatchSource, minibatch_size: int, steps_per_epoch: Any) -> Epochs:
    """The epochs of a source: `steps_per_epoch` is a number of minibatches, "sweep" or "axis"."""
    size = checked_integer(minibatch_size, "minibatch_size", least=1)
    if isinstance(steps_per_epoch, str) and steps_per_epoch not in ("sweep", "axis"):
        raise ValueError(f'steps_per_epoch must be a number, "sweep" or "axis", got {steps_per_epoch!r}')
    mode = mode_of(source)
    wanted = mode in ("rows", "whole") or steps_per_epoch == "sweep" or source.arguments["max_sweeps"] is not None
    sweep = sweep_of(source) if wanted else None
    mixed = border(source.order) != len(source.dataset)
    if steps_per_epoch == "sweep" and mixed and mode != "rows":
        raise ValueError(
            'a mixture of sequences has no sweeps to make epochs of: give steps_per_epoch="axis", or a number unless '
            "sequences are whole"
        )
    if mode == "whole":
        if not isinstance(steps_per_epoch, str):
            raise ValueError(
                f"steps_per_epoch={steps_per_epoch}: minibatches of whole sequences differ in length, so that nobody "
                f'could tell where a restored epoch ends; write "sweep" or "axis", or sequences="rows" or "packed"'
            )
        # A soft end: the sequence that max_samples falls into is delivered whole.
        return Epochs(minibatch_size=size, steps=None, end=MAX_TIME, by_sweep=steps_per_epoch == "sweep", sweep=sweep)
    end = end_of(source, sweep)
    if steps_per_epoch == "axis":
        return Epochs(minibatch_size=size, steps=None, end=end, sweep=sweep)
    if steps_per_epoch != "sweep":
        steps = checked_integer(steps_per_epoch, "steps_per_epoch", least=1)
        return Epochs(minibatch_size=size, steps=steps, end=end, sweep=sweep)
    if sweep is not None:
        return Epochs(minibatch_size=size, steps=-(-sweep // size), end=end, sweep=sweep)
    return Epochs(minibatch_size=size, steps=None, end=end, by_sweep=True)

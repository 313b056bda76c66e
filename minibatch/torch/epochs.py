"""Epochs: a grid on the nominal time axis, for whoever counts in them. Integer arithmetic."""

from dataclasses import dataclass
from typing import Any

from minibatch.arguments import checked_integer
from minibatch.source import MinibatchSource
from minibatch.timeline import MAX_TIME, end_of_axis


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Epoch e spans [e · steps · minibatch_size, (e + 1) · steps · minibatch_size), up to the end of the axis.

    `steps` None: the whole axis is one epoch. A pass goes from anywhere to the first minibatch that reaches or crosses
    a border.

    >>> epochs = Epochs(minibatch_size=4, steps=3, end=30)
    >>> epochs.stop(5), epochs.after(5, 1), epochs.after(5, 2), epochs.length(24)
    (12, 13, 25, 2)
    """

    minibatch_size: int
    steps: int | None
    end: int

    @property
    def span(self) -> int:
        """Nominal times in an epoch."""
        return self.end if self.steps is None else self.steps * self.minibatch_size

    def begin(self, epoch: int) -> int:
        """Where an epoch begins."""
        return min(self.end, epoch * self.span)

    def stop(self, time: int) -> int:
        """The border that a pass from `time` goes to."""
        if time >= self.end or self.steps is None:
            return self.end
        return min(self.end, (time // self.span + 1) * self.span)

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

        Raises TypeError, as `len` does, where there is no end.
        """
        if self.span >= MAX_TIME:
            raise TypeError(
                "an axis without an end has no length: give max_samples or max_sweeps to the source, or steps_per_epoch"
            )
        if self.end == 0:
            return 0
        begin = min(time, self.end - 1) // self.span * self.span
        return self.minibatches(begin)


def epochs_of(source: MinibatchSource, minibatch_size: int, steps_per_epoch: Any) -> Epochs:
    """The epochs of a source: `steps_per_epoch` is a number of minibatches, "sweep" or "axis"."""
    size = checked_integer(minibatch_size, "minibatch_size", least=1)
    sweep = len(source.dataset)
    end = end_of_axis(sweep, source.arguments["max_samples"], source.arguments["max_sweeps"])
    if steps_per_epoch == "axis":
        return Epochs(minibatch_size=size, steps=None, end=end)
    if steps_per_epoch == "sweep":
        return Epochs(minibatch_size=size, steps=-(-sweep // size), end=end)
    if isinstance(steps_per_epoch, str):
        raise ValueError(f'steps_per_epoch must be a number, "sweep" or "axis", got {steps_per_epoch!r}')
    return Epochs(minibatch_size=size, steps=checked_integer(steps_per_epoch, "steps_per_epoch", least=1), end=end)

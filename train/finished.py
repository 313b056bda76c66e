"""What a recipe may still do with a run that is finished: draw pictures of it, and measure what needs more than a loop.

    def report(finished: Finished) -> dict[str, float]:
        samples = Dataset.open(finished.prepared.valid).read(range(8))
        ...
        figure.savefig(finished.out / "reconstructions.png")
        return {"recall@10": 0.93}

The numbers stand in the result's table and in result.json under "report". A report must not change the model, and is a
function of (model, data, seed) like everything else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from minibatch.train.config import Prepared, RunConfig


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run: the model in eval mode with the weights that its last validation measured, its data, its folder.

    out: the folder of the run, where pictures go.
    """

    model: nn.Module
    config: "RunConfig"
    prepared: "Prepared"
    out: Path


Report: TypeAlias = Callable[[Finished], Mapping[str, float]]

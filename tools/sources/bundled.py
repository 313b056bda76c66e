"""The small real data sets that come with scikit-learn: `sklearn:digits`, iris, wine, breast_cancer, diabetes.

They need no network. `digits` becomes `image` float32 (8, 8) from 0 to 1 (the counts 0 to 16 divided by 16, exact in
float32) and `label`; the others become `x` float64 (features,), whose names the schema notes, and `y`: a class for
the first three, a measure for diabetes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minibatch.errors import require
from minibatch.tools.sources import Options, Piece

NAMES = ("digits", "iris", "wine", "breast_cancer", "diabetes")


def open_source(text: str, options: Options) -> BundledSource:
    """The data set `sklearn:NAME`."""
    name = text.removeprefix("sklearn:")
    if name not in NAMES:
        raise ValueError(f"scikit-learn has no bundled data set {name!r} here; there are {', '.join(NAMES)}")
    require("sklearn", "convert", f"{text!r}")
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    classes = [str(each) for each in bunch.get("target_names", ())]
    noted = {"classes": json.dumps(classes)} if classes else {}
    if name == "digits":
        fields = {"image": (bunch.images / 16).astype(np.float32), "label": bunch.target.astype(np.int64)}
        metadata = {"image": {"scale": "pixel counts 0 to 16, divided by 16"}, "label": noted}
    else:
        fields = {"x": bunch.data, "y": bunch.target.astype(np.int64) if classes else bunch.target}
        metadata = {"x": {"features": json.dumps([str(each) for each in bunch.feature_names])}, "y": noted}
    return BundledSource(name=name, fields=fields, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundledSource:
    """One of scikit-learn's data sets, whole in memory: the largest has 1,797 rows."""

    name: str
    fields: Piece
    metadata: Mapping[str, Mapping[str, str]]

    @property
    def rows(self) -> int:
        return len(next(iter(self.fields.values())))

    def describe(self) -> str:
        return f"scikit-learn {self.name}: {', '.join(self.fields)}"

    def batches(self) -> Iterator[Piece]:
        yield self.fields

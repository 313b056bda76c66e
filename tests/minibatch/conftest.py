"""Data sets for the tests of the source: made once each, never written to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minibatch import DatasetWriter
from tests.plain.source import fields_of


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of a data set of so many rows, with `tests.plain.source.fields_of` them."""
    made: dict[tuple[int, int, int], Path] = {}

    def folder(rows: int, chunk: int = 4, shard: int = 12) -> Path:
        name = (rows, chunk, shard)
        if name not in made:
            path = tmp_path_factory.mktemp("data") / f"rows-{rows}"
            with DatasetWriter(path, chunk_rows=chunk, shard_rows=shard) as writer:
                writer.write(fields_of(np.arange(rows)))
            made[name] = path
        return made[name]

    return folder


@pytest.fixture(scope="session")
def sequences_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data sets of `tests.sequence_data` lie."""
    return tmp_path_factory.mktemp("sequences")

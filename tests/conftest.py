"""What all tests share: strictness, the kernels mark, and one tiny data set."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Examples are drawn alike on every run in CI, so that a red run can be repeated; at a desk each run searches anew.
hypothesis.settings.register_profile(
    "default",
    deadline=None,  # the first call of a kernel compiles it
    max_examples=50,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # measures the machine, not the code
)
hypothesis.settings.register_profile("thorough", parent=hypothesis.settings.get_profile("default"), max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

TESTS = Path(__file__).parent


def compares_kernels_with_twins(path: Path) -> bool:
    """Whether every test of this file also runs without the JIT and with bounds checks.

    These are the tests of the kernels and of what is little more than a call of them; a test elsewhere is marked by
    hand: `@pytest.mark.kernels`.
    """
    folder, name = path.parent, path.name
    if folder == TESTS / "minibatch" / "kernels":
        return True
    return folder == TESTS / "minibatch" and (
        name.startswith("test_kernels") or name in ("test_order.py", "test_rng.py")
    )


@pytest.hookimpl(tryfirst=True)  # before `-m kernels` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if compares_kernels_with_twins(item.path):
            item.add_marker(pytest.mark.kernels)


def tiny_fields(rows: int = 40) -> dict[str, object]:
    """The fields of the tiny data set: a number, a picture, a label and a text, each telling which row it is of."""
    numbers = np.arange(rows)
    return {
        "x": numbers,
        "image": (numbers[:, None, None] + np.array([[0, 100], [50, 150], [25, 175]])).astype(np.uint8),
        "label": (numbers % 5).astype(np.int32),
        "name": [f"row {number}" for number in numbers],
    }


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of 40 rows in chunks of 4 and shards of 12, the last one short; to be read, never written."""
    from minibatch import DatasetWriter

    path = tmp_path_factory.mktemp("data") / "tiny"
    with DatasetWriter(path, chunk_rows=4, shard_rows=12) as writer:
        writer.write(tiny_fields())
    return path

"""For every example that pytest runs, in README.md and in docstrings; what tests share is in tests/conftest.py."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _examples_run_in_an_empty_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example may write `data/digits` without leaving it in the checkout."""
    if isinstance(request.node, pytest.DoctestItem):
        folder: Path = tmp_path_factory.mktemp("example")
        monkeypatch.chdir(folder)

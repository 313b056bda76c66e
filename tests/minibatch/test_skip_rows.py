"""`SkipRows.from_file` reads row ids from text, .npy and JSON, and says where a file has something else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibatch import MinibatchSource, SkipRows


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", "3\n17\n5\n"),
        ("rows", "# broken\n\n 3 \n17 # no picture\n5"),
        ("rows.npy", np.array([3, 17, 5])),
        ("rows.npy", np.array([3, 17, 5], np.uint8)),
        ("rows.json", [3, 17, 5]),
        ("rows.json", {"quarantine": [3, {"row": 17, "reason": "loss is not finite"}, {"row": 5}], "step": 9}),
        ("rows.json", {"rows": [3, 17, 5]}),
    ],
)
def test_rows_are_read_from_a_file(tmp_path: Path, name: str, content: Any) -> None:
    skip = SkipRows.from_file(written(tmp_path, name, content))
    assert skip == SkipRows([3, 17, 5])
    assert SkipRows.from_file(str(tmp_path / name)) == skip


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n# nothing\n"), ("a.npy", np.empty(0, int)), ("a.json", [])])
def test_a_file_may_list_no_rows(tmp_path: Path, name: str, content: Any) -> None:
    assert SkipRows.from_file(written(tmp_path, name, content)).rows == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "3\n\nseven\n", "a.txt, line 3: expected the id of a row, an integer from 0 on, got 'seven'"),
        ("a.txt", "3\n-1\n", "a.txt, line 2: .*got '-1'"),
        ("a.txt", "3 4\n", "a.txt, line 1: .*got '3 4'"),
        ("a.json", [3, 2.5], "a.json, element 1: .*got 2.5"),
        ("a.json", [True], "a.json, element 0: .*got True"),
        ("a.json", [{"step": 3}], r"a.json, element 0: .*got \{'step': 3\}"),
        ("a.json", {"steps": [3]}, 'expected a list of row ids, or an object with one under "quarantine" or "rows"'),
        ("a.json", "{", "a.json is not JSON"),
        ("a.npy", np.array([1.5]), r"expected integers \(n,\), got float64 of shape \(1,\)"),
        ("a.npy", np.array([[1]]), r"expected integers \(n,\), got int64 of shape \(1, 1\)"),
        ("a.npy", np.array([1, -2]), "a.npy, element 1: .*got -2"),
    ],
)
def test_anything_else_in_a_file_is_an_error_that_says_where(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SkipRows.from_file(written(tmp_path, name, content))


def test_a_file_that_is_no_npy_file_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is not a \.npy file of integers"):
        SkipRows.from_file(path)
    with pytest.raises(FileNotFoundError):
        SkipRows.from_file(tmp_path / "none.txt")


def test_rows_of_a_file_are_skipped(tmp_path: Path, tiny_dataset: Path) -> None:
    skip = SkipRows.from_file(written(tmp_path, "rows.txt", "3\n17\n"))
    with MinibatchSource(tiny_dataset, seed=7, skip=[skip]) as source:
        shown = source.next_minibatch(40)["x"].tolist()
    assert sorted(shown) == sorted(set(range(40)) - {3, 17})

"""The measurement beyond memory, made small: every order reads right rows in a process that knows its limit."""

import sys

import pytest

from minibatch.tools import bench_memory
from minibatch.tools.bench_memory import beyond_memory


@pytest.mark.skipif(sys.platform != "linux", reason="a cold page cache needs Linux")
def test_each_order_is_read_from_a_cold_cache_and_its_memory_told(tmp_path):
    said = []
    rows = beyond_memory(tmp_path, said.append, data_bytes=8 << 20, limit=4 << 20, pairs=1, seconds=5)
    named = ["full shuffle", "windows of 1,337 rows", "no shuffle"]
    assert [row.name for row in rows] == [f"beyond memory: {name}{of}" for name in named for of in ("", ", resident")]
    assert all(row.ours > 0 for row in rows)
    assert [row.against for row in rows[::2]] == ["", "full shuffle", "full shuffle"]
    assert all(20 < row.ours < 2000 for row in rows[1::2]), "MiB of a Python process"
    assert len(said) == 4, "the data, and three runs"


def test_where_the_cache_cannot_be_emptied_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_memory.sys, "platform", "win32")
    with pytest.raises(RuntimeError, match="a cold page cache needs Linux"):
        beyond_memory(tmp_path)

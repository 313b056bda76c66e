"""How much memory there is: of the system, of control groups of both versions, nested, inside containers."""

import subprocess
import sys

import pytest

from minibatch import limits
from minibatch.limits import available_memory

GB = 10**9


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


SYSTEM = {"proc/meminfo": f"MemTotal: {16 * GB // 1024} kB\nMemAvailable:   {8 * GB // 1024} kB\n"}
SECOND = {"proc/self/cgroup": "0::/user/me\n", **SYSTEM}
FIRST = {"proc/self/cgroup": "5:devices:/\n4:memory:/job\n0::/\n", **SYSTEM}


def test_without_a_limit_it_is_what_the_system_has(tmp_path):
    found = available_memory(tree(tmp_path, {**SECOND, "sys/fs/cgroup/user/me/memory.max": "max\n"}))
    assert found.available == 8 * GB // 1024 * 1024
    assert "system" in found.bound


@pytest.mark.parametrize("group", ["user/me", "user", "."])
def test_a_limit_counts_on_every_level_of_version_2(group, tmp_path):
    files = {
        f"sys/fs/cgroup/{group}/memory.max": f"{3 * GB}\n",
        f"sys/fs/cgroup/{group}/memory.current": f"{2 * GB}\n",
        f"sys/fs/cgroup/{group}/memory.stat": f"anon {GB // 2}\nfile {3 * GB // 2}\n",
    }
    found = available_memory(tree(tmp_path, {**SECOND, **files}))
    assert found.available == 3 * GB - GB // 2  # cached files can be dropped
    assert "3.0 GB" in found.bound


def test_the_least_of_several_limits_counts(tmp_path):
    files = {"sys/fs/cgroup/user/memory.max": f"{2 * GB}", "sys/fs/cgroup/user/me/memory.max": f"{5 * GB}"}
    assert available_memory(tree(tmp_path, {**SECOND, **files})).available == 2 * GB


def test_limits_of_version_1_are_found(tmp_path):
    files = {
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GB}",
        "sys/fs/cgroup/memory/job/memory.stat": f"cache 7\ntotal_cache {GB // 2}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert available_memory(tree(tmp_path, {**FIRST, **files})).available == 4 * GB - GB // 2


def test_in_a_container_the_limit_is_at_the_top(tmp_path):
    files = {"proc/self/cgroup": "4:memory:/docker/0123\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GB}"}
    assert available_memory(tree(tmp_path, {**SYSTEM, **files})).available == GB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path):
    files = {"sys/fs/cgroup/user/me/memory.max": "100", "sys/fs/cgroup/user/me/memory.current": "200"}
    assert available_memory(tree(tmp_path, {**SECOND, **files})).available == 0


def test_where_there_is_no_proc_it_is_the_memory_of_the_machine(tmp_path, monkeypatch):
    found = available_memory(tmp_path)
    assert found.available > GB // 10

    def refuse(name):
        raise ValueError(name)

    monkeypatch.setattr(limits.os, "sysconf", refuse)
    assert available_memory(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -m is looked at where there is one")
def test_the_resident_set_that_a_user_allows_is_a_bound():
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_RSS, (100_000, resource.RLIM_INFINITY))\n"
        "from minibatch.limits import available_memory; found = available_memory()\n"
        "print(found.available, found.bound)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "100000 the limit of the resident set of 0.0 GB\n"

"""The machine a command runs on: its processor and cores, and how much memory there is for data, limits included."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibatch import __version__

UNLIMITED = 1 << 60  # control groups of version 1 say "no limit" with a number of about 2^63


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory that data can take, in bytes, and what bounds it."""

    available: int
    bound: str


def available_memory(root: Path = Path("/")) -> Memory | None:
    """How much memory is left for data, pages of files that could be dropped included; None where nobody says.

    The least of what the system has and of what each control group around this process leaves (its limit less what
    is used by other things than cached files). `root` is where proc/ and sys/ are.
    """
    found = [
        Memory(available=size, bound=f"the control group's limit of {limit / 1e9:,.1f} GB")
        for size, limit in group_memory(root)
    ]
    if (size := system_memory(root)) is not None:
        found.append(Memory(available=size, bound="what the system has left"))
    return min(found, key=lambda memory: memory.available, default=None)


def system_memory(root: Path) -> int | None:
    """MemAvailable of Linux; elsewhere the size of the machine's memory."""
    for line in text_of(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def group_memory(root: Path) -> list[tuple[int, int]]:
    """(left, limit) of each control group around this process that has a memory limit."""
    found = []
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # Inside a container the path may be that of the host, which is not there: then the top is the container's.
        group = base / path.strip("/")
        while True:
            limit, used = (whole_number(group / name) for name in names)
            if limit is not None and limit < UNLIMITED:
                found.append((max(0, limit - (used or 0) + cached_files(group)), limit))
            if group == base:
                break
            group = group.parent
    return found


def cached_files(group: Path) -> int:
    """Bytes of cached files charged to a control group: the kernel drops them when memory is asked for."""
    for line in text_of(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("file", "total_cache"):
            return int(value)
    return 0


def whole_number(path: Path) -> int | None:
    """The number a file of the kernel holds; None if there is none ("max", or no such file)."""
    text = text_of(path).strip()
    return int(text) if text.isdecimal() else None


def text_of(path: Path) -> str:
    """The text of a small file, empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def described() -> dict[str, str]:
    """What a measurement must say about where it was made: machine, versions, commit, date."""
    lines = text_of(Path("/proc/cpuinfo")).splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    processor = next(named, platform.processor() or platform.machine())
    memory = text_of(Path("/proc/meminfo")).partition("\n")[0].split()
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{processor}, {os.cpu_count()} cores"
        + (f", {int(memory[1]) / 2**20:.0f} GiB" if len(memory) > 1 else ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "minibatch": f"{__version__} ({commit.stdout.strip() or 'no commit'})",
        "date": time.strftime("%Y-%m-%d"),
    }

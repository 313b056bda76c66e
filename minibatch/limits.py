"""How much memory there is for data, limits of containers and users included."""

import os
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # control groups of version 1 say "no limit" with a number of about 2^63


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory that data can take, in bytes, and what bounds it."""

    available: int
    bound: str


def available_memory(root: Path = Path("/")) -> Memory | None:
    """How much memory is left for data, pages of files that could be dropped included; None where nobody says.

    The least of what the system has, of what each control group around this process leaves (its limit less what is
    used by other things than cached files), and of the resident set that `ulimit -m` allows. Linux does not enforce the
    last one; this package keeps to it where it can. `root` is where proc/ and sys/ are.
    """
    found = [
        Memory(available=size, bound=f"the control group's limit of {limit / 1e9:,.1f} GB")
        for size, limit in group_memory(root)
    ]
    if (limit := resident_limit()) is not None:
        found.append(Memory(available=limit, bound=f"the limit of the resident set of {limit / 1e9:,.1f} GB"))
    if (size := system_memory(root)) is not None:
        found.append(Memory(available=size, bound="what the system has left"))
    return min(found, key=lambda memory: memory.available, default=None)


def resident_limit() -> int | None:
    """What `ulimit -m` says, in bytes; None if nothing."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_RSS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


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

"""The machine a command runs on, described."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

from minibatch import __version__
from minibatch.limits import text_of


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

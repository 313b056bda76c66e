"""`kernels.compile`: kernels work where nothing can be cached, and the operations on raw memory touch what they say."""

import subprocess
import sys

import numpy as np
import pytest

from minibatch.kernels.compile import JIT_DISABLED, copy_bytes, kernel, load_int32, load_int64, load_uint8, prefetch
from tests.syntax import ROOT


@kernel
def move(destination, source, count):
    """Copy `count` bytes."""
    prefetch(source)
    copy_bytes(destination, source, count)


@kernel
def look(address):
    """The three integers of different size at one address."""
    return load_uint8(address), load_int32(address), load_int64(address)


@pytest.mark.parametrize("lead", range(9))
def test_memory_is_read_and_copied_at_any_address(lead):
    source = np.random.default_rng(lead).integers(0, 256, 64, np.uint8)
    destination = np.zeros(64, np.uint8)
    for count in (0, 1, 7, 20):
        move(np.uint64(destination.ctypes.data + 9), np.uint64(source.ctypes.data + lead), count)
        assert destination[9 : 9 + count].tobytes() == source[lead : lead + count].tobytes()
        assert not destination[:9].any()
        assert not destination[29:].any()
    byte, int32, int64 = look(np.uint64(source.ctypes.data + lead))
    behind = source[lead:].tobytes()
    assert byte == behind[0]
    assert int32 == int.from_bytes(behind[:4], "little", signed=True)
    assert int64 == int.from_bytes(behind[:8], "little", signed=True)


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_where_no_folder_takes_a_cache_every_process_compiles_for_itself():
    """As in a read-only installation of a user without a home."""
    script = (
        "import numpy as np, numba.core.caching as caching\n"
        "for kind in vars(caching).values():\n"
        "    if isinstance(kind, type) and issubclass(kind, caching.CacheImpl):\n"
        "        kind._locator_classes = []\n"
        "from minibatch.kernels import gather\n"
        "chunks = np.zeros(2, np.int32)\n"
        "print(gather.locate(np.array([3, 9]), np.array([0, 4, 10]), np.array([0, 1, 1, 1], np.int32), 2, chunks))\n"
        "print(chunks.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "-1\n[0, 1]\n", done.stderr

"""Whatever happens to its bytes, a source of a binary format is read, or refused with an error that names a file of it.

Not every change can be noticed: formats without checksums hold other values afterwards. But no change may end in
another exception, or in memory that is not the file's.
"""

import re

import numpy as np
import pytest

from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import BINARY_SOURCES, hdf5

CHANGES = 60


def damaged(content, random):
    """`content` cut short, with a bit flipped, or with a run of bytes set to 0 or 255, left out or doubled."""
    place = int(random.integers(len(content)))
    end = place + int(random.integers(1, 17))
    return [
        content[:place],
        content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :],
        content[:place] + bytes(end - place) + content[end:],
        content[:place] + b"\xff" * (end - place) + content[end:],
        content[:place] + content[end:],
        content[:end] + content[place:],
    ][int(random.integers(6))]


# libhdf5 2.0 does not come back from some damaged heaps of text; test_hdf5.py has what is noticed.
@pytest.mark.parametrize("write", [write for write in BINARY_SOURCES if write is not hdf5])
def test_a_damaged_source_is_read_or_refused_by_name(write, tmp_path):
    source = write(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    random = np.random.default_rng(7)
    messages: list[str] = []
    for _ in range(CHANGES):
        path = files[int(random.integers(len(files)))]
        content = path.read_bytes()
        path.write_bytes(damaged(content, random))
        # A file may no longer look like what it was: the format is given where it is told by what is inside.
        names = {"convnet": "cuda-convnet", "webdataset": "WebDataset", "webdataset_pattern": "WebDataset"}
        name = names.get(write.__name__) or ("CIFAR" if "cifar" in write.__name__ else None)
        bad = BadRecords(100)
        try:
            for piece in open_source(source, Options(format=name, bad=bad)).batches():
                assert len({len(values) for values in piece.values()}) == 1
        except ValueError as error:
            messages.append(str(error))
        messages += [str(record) for record in bad.found]
        path.write_bytes(content)
    assert len(messages) > CHANGES // 10
    for message in messages:
        assert re.search(rf"'{re.escape(str(tmp_path))}[^']*'", message)

"""Which source of a mixture stands at each place of a block, and the rows of all sources put together.

`docs/order.md` section 5, compiled; the plain twin is `tests/plain/mixture.py`. Everything is integer arithmetic.
"""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel
from minibatch.kernels.permute import SMALL_DOMAIN, absorb, draw, permute_span


@kernel
def deal_blocks(
    key: np.uint64, hand: NDArray[np.int32], block: int, blocks: int, labels: NDArray[np.int32], at: int
) -> None:
    """Write `blocks` blocks, the first of which begins at nominal time `block`, to `labels` from `at` on.

    Each is `hand` (size,), permuted with a key of its own. One loop over all of them: a call for each block would cost
    as much as ten places, and blocks are often of two or four.
    """
    size = hand.shape[0]
    if size > SMALL_DOMAIN:
        images = np.empty(size, np.int64)
        for i in range(blocks):
            permute_span(size, absorb(key, np.uint64(block + i * size)), 0, images)
            for p in range(size):
                labels[at + i * size + p] = hand[images[p]]
        return
    for i in range(blocks):
        own = absorb(key, np.uint64(block + i * size))
        first = at + i * size
        for p in range(size):
            labels[first + p] = hand[p]
        for p in range(size - 1, 0, -1):  # Fisher–Yates as in `permute.shuffled`, on the labels themselves
            j = np.int64(((draw(own, np.uint64(p)) >> np.uint64(32)) * np.uint64(p + 1)) >> np.uint64(32))
            moved = labels[first + p]
            labels[first + p] = labels[first + j]
            labels[first + j] = moved


@kernel
def deal(
    key: np.uint64,
    hand: NDArray[np.int32],
    begin: int,
    start: int,
    labels: NDArray[np.int32],
    before: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> None:
    """Write the sources at the nominal times start, start + 1, … to `labels` (n,), all of one phase.

    The phase begins at nominal time `begin` ≤ start and consists of blocks of len(hand) times; `hand` has the sources
    of a block before it is permuted, equal ones side by side. Adds to `before` (sources,) how often each stands in the
    first block before `start`, and to `taken` (sources,) how often in `labels`. O(n + block).
    """
    size = hand.shape[0]
    count = labels.shape[0]
    within = (start - begin) % size
    if hand[0] == hand[size - 1]:  # a source alone: nothing to permute
        before[hand[0]] += within
        taken[hand[0]] += count
        for p in range(count):
            labels[p] = hand[0]
        return
    block = start - within
    done = 0
    if within > 0:
        cut = np.empty(size, np.int32)
        deal_blocks(key, hand, block, 1, cut, 0)
        for p in range(within):
            before[cut[p]] += 1
        done = min(size - within, count)
        for p in range(done):
            labels[p] = cut[within + p]
            taken[cut[within + p]] += 1
        block += size
    whole = (count - done) // size
    deal_blocks(key, hand, block, whole, labels, done)
    done += whole * size
    for p in range(size):
        taken[hand[p]] += whole
    if done < count:
        last = np.empty(size, np.int32)
        deal_blocks(key, hand, block + whole * size, 1, last, 0)
        for p in range(count - done):
            labels[done + p] = last[p]
            taken[last[p]] += 1


@kernel
def place_in_block(key: np.uint64, hand: NDArray[np.int32], block: int, label: int, ordinal: int) -> int:
    """The place in the block that begins at nominal time `block` where `label` stands for the `ordinal`-th time,
    counted from 0; -1 if it does not stand there so often. O(block)."""
    size = hand.shape[0]
    labels = np.empty(size, np.int32)
    deal_blocks(key, hand, block, 1, labels, 0)
    seen = 0
    for p in range(size):
        if labels[p] == label:
            if seen == ordinal:
                return p
            seen += 1
    return -1


@kernel
def merge(
    labels: NDArray[np.int32],
    bases: NDArray[np.int64],
    rows: NDArray[np.int64],
    cursors: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Write the next row of source labels[p], moved by its base, to out[p]; both (n,).

    `rows` (n,) has the rows of one source after another, in the order they are shown; source i's begin at cursors[i].
    `cursors` (sources,) is moved on.
    """
    for p in range(labels.shape[0]):
        label = labels[p]
        out[p] = bases[label] + rows[cursors[label]]
        cursors[label] += 1

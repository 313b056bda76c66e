"""Sequences laid end to end: which sequence each token belongs to, and where in it; on one axis, or on several lanes."""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel


@kernel
def mark_tokens(
    offsets: NDArray[np.int64],
    first: int,
    count: int,
    block: int,
    segment_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    places: NDArray[np.int64],
) -> None:
    """Describe the tokens first … first + count - 1 of sequences whose tokens are numbered through, `offsets` (n + 1,).

    Writes for each token the number of its sequence within its block of `block` tokens, from 1; its position in its
    sequence; and which sequence it is. What follows the tokens in the arrays, all (m,) with m >= count, is padding:
    segment 0, position 0, place -1.
    """
    row = 0
    while offsets[row + 1] <= first and row + 2 < offsets.shape[0]:
        row += 1
    segment = 0
    fresh = True
    for i in range(count):
        token = first + i
        while token >= offsets[row + 1]:
            row += 1
            fresh = True
        if i % block == 0:
            segment = 0
            fresh = True
        if fresh:
            segment += 1
            fresh = False
        segment_ids[i] = segment
        positions[i] = token - offsets[row]
        places[i] = row
    for i in range(count, segment_ids.shape[0]):
        segment_ids[i] = 0
        positions[i] = 0
        places[i] = -1


@kernel
def advance_lanes(
    steps: int,
    lengths: NDArray[np.int64],
    ended: bool,
    held: NDArray[np.int64],
    taken: NDArray[np.int64],
    left: NDArray[np.int64],
    filled: NDArray[np.int64],
    assigned: NDArray[np.int64],
    lanes: NDArray[np.int64],
    begins: NDArray[np.int64],
) -> int:
    """Move all lanes on by `steps` tokens; each sequence goes to the lane that is free first, the lowest of several.

    Of each lane, all (lanes,): `held` says which sequence it is in (-1: none), `taken` how many of its tokens are done
    and `left` how many are not; all three are brought up to date. `filled` gets how many of the steps have a token.
    `lengths` (m,) are those of the sequences to come, numbered from 0; lanes hold a negative number -2 - j for what
    they held at the start. Pieces are written to `assigned`, `lanes`, `begins` (pieces,): which sequence, in which
    lane, from which step on. Returns how many sequences were begun, or -1 if `lengths` has too few, which is no matter
    once the axis has `ended`.
    """
    pieces = 0
    begun = 0
    count = held.shape[0]
    for lane in range(count):
        filled[lane] = 0
        if left[lane] > 0:
            assigned[pieces] = held[lane]
            lanes[pieces] = lane
            begins[pieces] = 0
            pieces += 1
            filled[lane] = min(left[lane], steps)
            taken[lane] += filled[lane]
            left[lane] -= filled[lane]
    while True:
        free = -1
        for lane in range(count):
            if left[lane] == 0 and filled[lane] < steps and (free < 0 or filled[lane] < filled[free]):
                free = lane
        if free < 0:
            return begun
        if begun == lengths.shape[0]:
            return begun if ended else -1
        held[free] = begun
        taken[free] = 0
        left[free] = lengths[begun]
        if left[free] > 0:
            assigned[pieces] = begun
            lanes[pieces] = free
            begins[pieces] = filled[free]
            pieces += 1
        more = min(left[free], steps - filled[free])
        filled[free] += more
        taken[free] = more
        left[free] -= more
        begun += 1

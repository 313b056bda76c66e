"""Sequences laid end to end: which sequence each token belongs to, and where in it; on one axis, or on several lanes.

Descriptions of tokens are arrays that callers have made: `segment_ids` and `positions`, int32, and `places`, int32,
which says which of some sequences a token is of. What is no token has segment 0, position 0 and place -1.
"""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel


@kernel
def mark_tokens(
    marks: NDArray[np.int64],
    first: int,
    count: int,
    block: int,
    segment_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    places: NDArray[np.int32],
) -> None:
    """Describe the tokens first … first + count - 1 of sequences that begin at `marks`, ascending (n + 1,), from 0.

    The last of `marks` is where the last sequence ends, at first + count or behind. Segments are numbered from 1 in
    each block of `block` tokens. Of the arrays, all (m,) with m >= count, what follows the tokens is padding.
    """
    row = 0
    segment = 0
    for i in range(count):
        token = first + i
        if i % block == 0:
            segment = 1
        if token >= marks[row + 1]:
            while token >= marks[row + 1]:
                row += 1
            segment += i % block != 0
        segment_ids[i] = segment
        positions[i] = token - marks[row]
        places[i] = row
    for i in range(count, segment_ids.shape[0]):
        segment_ids[i] = 0
        positions[i] = 0
        places[i] = -1


@kernel
def advance_lanes(
    steps: int,
    first: int,
    lengths: NDArray[np.int64],
    ended: bool,
    held: NDArray[np.int64],
    taken: NDArray[np.int64],
    left: NDArray[np.int64],
    filled: NDArray[np.int64],
    pieces: NDArray[np.int64],
) -> tuple[int, int]:
    """Move all lanes on by `steps` tokens; step by step, lanes that are free take the next sequence, the lowest first.

    Of each lane, all (lanes,): `held` says which sequence it is in, `taken` how many of its tokens are done and `left`
    how many are not; where that is 0 the lane is free. All three are brought up to date. `filled` gets how many of the
    steps have a token. `lengths` (m,) are those of the sequences `first`, first + 1, …; empty ones fill no step.

    `pieces` (5, lanes + m) gets, of each sequence that has a token here: its number, its lane, the first step, how many
    of its tokens were done before, and how many follow here; first what lanes were in, then what is begun.

    Returns how many sequences were begun, empty ones behind them included, and how many pieces there are; (-1, 0) if
    `lengths` has too few, which is no matter once the axis has `ended`.
    """
    count = 0
    begun = 0
    for lane in range(held.shape[0]):
        filled[lane] = 0
        if left[lane] > 0 and steps > 0:
            some = min(left[lane], steps)
            pieces[0, count] = held[lane]
            pieces[1, count] = lane
            pieces[2, count] = 0
            pieces[3, count] = taken[lane]
            pieces[4, count] = some
            count += 1
            filled[lane] = some
            taken[lane] += some
            left[lane] -= some
    for step in range(steps):
        for lane in range(held.shape[0]):
            if filled[lane] > step:
                continue
            while begun < lengths.shape[0] and lengths[begun] == 0:
                begun += 1
            if begun == lengths.shape[0]:
                if ended:
                    continue
                return -1, 0
            some = min(lengths[begun], steps - step)
            pieces[0, count] = first + begun
            pieces[1, count] = lane
            pieces[2, count] = step
            pieces[3, count] = 0
            pieces[4, count] = some
            count += 1
            filled[lane] = step + some
            held[lane] = first + begun
            taken[lane] = some
            left[lane] = lengths[begun] - some
            begun += 1
    while 0 < begun < lengths.shape[0] and lengths[begun] == 0:
        begun += 1
    if 0 < begun == lengths.shape[0] and not ended:
        return -1, 0
    return begun, count


@kernel
def lay_pieces(
    lanes: NDArray[np.int64],
    begins: NDArray[np.int64],
    done: NDArray[np.int64],
    counts: NDArray[np.int64],
    segment_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    places: NDArray[np.int32],
) -> None:
    """Describe the tokens of the lanes, arrays (lanes, steps), given their pieces, ascending by step within each lane.

    Piece i (n,) lies in lane lanes[i] from step begins[i] on: tokens number done[i] … done[i] + counts[i] - 1 of a
    sequence, which is called i. Segments are numbered from 1 in each lane.
    """
    segment_ids[:] = 0
    positions[:] = 0
    places[:] = -1
    segments = np.zeros(segment_ids.shape[0], np.int32)
    for i in range(lanes.shape[0]):
        lane = lanes[i]
        segments[lane] += 1
        for j in range(counts[i]):
            segment_ids[lane, begins[i] + j] = segments[lane]
            positions[lane, begins[i] + j] = done[i] + j
            places[lane, begins[i] + j] = i

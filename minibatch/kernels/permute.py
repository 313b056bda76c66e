"""Integer hashing, keyed permutations, and the row at a nominal time: `docs/order.md`, compiled.

Everything is unsigned integer arithmetic that wraps at 32 or 64 bits, so results are the same on every machine.
The plain twins are `tests/plain/order.py` and `tests/plain/rng.py`; golden values freeze both.

The permutation of a large domain is a Feistel network on a × b ≥ n with a ≈ b ≈ √n, walked back into the domain
(Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), with additions modulo a and b in place of exclusive
or. Places are done in blocks, one loop per round over 32-bit halves, which LLVM turns into vector instructions. Small
domains are shuffled by Fisher–Yates, because a Feistel network on few places reaches only some of the permutations.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import inlined, kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
ABSORB = np.uint64(0xD1342543DE82EF95)
ROUNDS = 12
SMALL_DOMAIN = 1024
BLOCK = 512

PLACES_AT_ONCE = 1 << 14
CALL_PLACES = 256  # setting up an order costs as much as this many places (measured 2026-11)

FULL, WINDOWED, SEQUENTIAL = 0, 1, 2


@kernel
def mix64(x: np.uint64) -> np.uint64:
    """A bijection of 64-bit words that scatters neighbours: the finalizer of SplitMix64 (Stafford's variant 13)."""
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


@kernel
def absorb(key: np.uint64, coordinate: np.uint64) -> np.uint64:
    """The key one coordinate further down: a hash of both, in which neither can stand in for the other."""
    return mix64(key * ABSORB + mix64(coordinate + GOLDEN))


@kernel
def draw(key: np.uint64, index: np.uint64) -> np.uint64:
    """Random word number `index` of the stream `key`: SplitMix64 read at any position."""
    return mix64(key + (index + np.uint64(1)) * GOLDEN)


@kernel
def fill_bits(key: np.uint64, indices: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Write `draw(key, indices[i])` to `out[i]`; both (n,)."""
    for i in range(indices.shape[0]):
        out[i] = draw(key, indices[i])


@kernel
def fill_normal(key: np.uint64, indices: NDArray[np.uint64], out: NDArray[np.float64]) -> None:
    """Write a standard normal number to each `out[i]`, from words 2·index and 2·index + 1 (Box and Muller 1958).

    Scalar libm calls, one per number: NumPy's vectorised ones may round the tail of an array differently.
    """
    for i in range(indices.shape[0]):
        first = draw(key, indices[i] * np.uint64(2)) >> np.uint64(11)
        second = draw(key, indices[i] * np.uint64(2) + np.uint64(1)) >> np.uint64(11)
        u = (np.float64(first) + 1.0) * 2.0**-53  # in (0, 1]: its logarithm is finite
        v = np.float64(second) * 2.0**-53
        out[i] = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)


@kernel
def fill_normal_rows(keys: NDArray[np.uint64], out: NDArray[np.float64]) -> None:
    """Write the first normal numbers of the stream `keys[i]` to `out[i]`; out is (n, numbers), see `fill_normal`."""
    indices = np.arange(out.shape[1]).astype(np.uint64)
    for i in range(keys.shape[0]):
        fill_normal(keys[i], indices, out[i])


@kernel
def fill_keyed(key: np.uint64, times: NDArray[np.int64], first: int, out: NDArray[np.uint64]) -> None:
    """Write words first, first + 1, … of the stream `absorb(key, times[i])` to `out[i]`; out is (n, words)."""
    for i in range(times.shape[0]):
        own = absorb(key, np.uint64(times[i]))
        for j in range(out.shape[1]):
            out[i, j] = draw(own, np.uint64(first + j))


@inlined
def scatter32(x: np.uint32) -> np.uint32:
    """A bijection of 32-bit words with low bias (Wellons 2018, "lowbias32")."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def sides(n: int) -> tuple[np.uint64, np.uint64]:
    """The sides (a, b) of the rectangle a domain of n places is laid on: a = ⌈√n⌉ made even, b = ⌈n / a⌉.

    With both sides odd every round, and so every permutation of all a·b places, would be an even one.
    """
    a = np.uint64(math.sqrt(np.float64(n)))
    size = np.uint64(n)
    while a * a < size:  # the floating-point root is only a guess
        a += np.uint64(1)
    while (a - np.uint64(1)) * (a - np.uint64(1)) >= size:
        a -= np.uint64(1)
    a += a & np.uint64(1)
    return a, (size + a - np.uint64(1)) // a


@kernel
def round_keys(key: np.uint64) -> NDArray[np.uint32]:
    """The keys of the rounds, uint32 (ROUNDS,): upper halves of the first words of the stream `key`."""
    keys = np.empty(ROUNDS, np.uint32)
    for i in range(ROUNDS):
        keys[i] = np.uint32(draw(key, np.uint64(i)) >> np.uint64(32))
    return keys


@kernel
def walk(
    place: np.uint64, n: np.uint64, a: np.uint64, b: np.uint64, keys: NDArray[np.uint32], forward: bool
) -> np.uint64:
    """The image (or preimage) of one place of [0, a·b), walked on until it lies in [0, n)."""
    while True:
        left = place % a
        right = place // a
        for step in range(ROUNDS):
            i = step if forward else ROUNDS - 1 - step
            if i % 2 == 0:
                shift = (np.uint64(scatter32(np.uint32(right) ^ keys[i])) * a) >> np.uint64(32)
                left = left + shift if forward else left + a - shift
                if left >= a:
                    left -= a
            else:
                shift = (np.uint64(scatter32(np.uint32(left) ^ keys[i])) * b) >> np.uint64(32)
                right = right + shift if forward else right + b - shift
                if right >= b:
                    right -= b
        place = right * a + left
        if place < n:
            return place


@kernel
def rounds(
    left: NDArray[np.uint32], right: NDArray[np.uint32], a: np.uint64, b: np.uint64, keys: NDArray[np.uint32]
) -> None:
    """All rounds on a block of halves, in place; left < a, right < b ≤ a < 2^31. One loop a round, for the
    vectoriser."""
    a32, b32 = np.uint32(a), np.uint32(b)
    for i in range(0, ROUNDS, 2):
        key = keys[i]
        for j in range(left.shape[0]):
            word = scatter32(np.uint32(right[j] ^ key))
            value = np.uint32(left[j] + np.uint32((np.uint64(word) * np.uint64(a32)) >> np.uint64(32)))
            # min(v, v - a) in unsigned arithmetic is v mod a for v < 2a, without a branch
            left[j] = min(value, np.uint32(value - a32))
        key = keys[i + 1]
        for j in range(left.shape[0]):
            word = scatter32(np.uint32(left[j] ^ key))
            value = np.uint32(right[j] + np.uint32((np.uint64(word) * np.uint64(b32)) >> np.uint64(32)))
            right[j] = min(value, np.uint32(value - b32))


@kernel
def shuffled(n: int, key: np.uint64) -> NDArray[np.int64]:
    """The whole permutation of a small domain, int64 (n,): Fisher–Yates from the last place down to the second."""
    table = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = int(np.int64(((draw(key, np.uint64(i)) >> np.uint64(32)) * np.uint64(i + 1)) >> np.uint64(32)))
        table[i], table[j] = table[j], table[i]
    return table


@kernel
def permute_span(n: int, key: np.uint64, start: int, out: NDArray[np.int64]) -> None:
    """Write the images of the places start, start + 1, … to `out`; start + len(out) ≤ n < 2^62. O(1) a place."""
    if n <= SMALL_DOMAIN:
        table = shuffled(n, key)
        for i in range(out.shape[0]):
            out[i] = table[start + i]
        return
    a, b = sides(n)
    keys = round_keys(key)
    left = np.empty(BLOCK, np.uint32)
    right = np.empty(BLOCK, np.uint32)
    lo = np.uint64(start) % a
    hi = np.uint64(start) // a
    done = 0
    while done < out.shape[0]:
        count = min(BLOCK, out.shape[0] - done)
        for i in range(count):
            left[i] = np.uint32(lo)
            right[i] = np.uint32(hi)
            lo += np.uint64(1)
            if lo == a:
                lo = np.uint64(0)
                hi += np.uint64(1)
        rounds(left[:count], right[:count], a, b, keys)
        join(left[:count], right[:count], n, a, b, keys, out[done : done + count])
        done += count


@kernel
def permute_points(n: int, key: np.uint64, points: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Write the images of any places `points` (m,) to `out` (m,); `out` may be `points` itself."""
    if n <= SMALL_DOMAIN:
        table = shuffled(n, key)
        for i in range(out.shape[0]):
            out[i] = table[points[i]]
        return
    a, b = sides(n)
    keys = round_keys(key)
    left = np.empty(BLOCK, np.uint32)
    right = np.empty(BLOCK, np.uint32)
    done = 0
    while done < out.shape[0]:
        count = min(BLOCK, out.shape[0] - done)
        for i in range(count):
            point = np.uint64(points[done + i])
            right[i] = np.uint32(point // a)
            left[i] = np.uint32(point % a)
        rounds(left[:count], right[:count], a, b, keys)
        join(left[:count], right[:count], n, a, b, keys, out[done : done + count])
        done += count


@kernel
def join(
    left: NDArray[np.uint32],
    right: NDArray[np.uint32],
    n: int,
    a: np.uint64,
    b: np.uint64,
    keys: NDArray[np.uint32],
    out: NDArray[np.int64],
) -> None:
    """Put halves together again and walk the few places that fell outside [0, n) back into it."""
    size = np.uint64(n)
    outside = 0
    for i in range(out.shape[0]):
        place = np.uint64(right[i]) * a + np.uint64(left[i])
        outside += 1 if place >= size else 0
        out[i] = np.int64(place)
    if outside > 0:
        for i in range(out.shape[0]):
            if np.uint64(out[i]) >= size:
                out[i] = np.int64(walk(np.uint64(out[i]), size, a, b, keys, True))


@kernel
def permute_point(n: int, key: np.uint64, point: int, forward: bool) -> int:
    """The image of one place of [0, n), or with `forward` false the place of which `point` is the image."""
    if n <= SMALL_DOMAIN:
        table = shuffled(n, key)
        if forward:
            return int(table[point])
        for i in range(n):
            if table[i] == point:
                return i
    a, b = sides(n)
    return int(np.int64(walk(np.uint64(point), np.uint64(n), a, b, round_keys(key), forward)))


@kernel
def slot_start(slot: int, chunk_rows: int, tail_slot: int, missing: int) -> int:
    """The place at which chunk slot `slot` begins, where the chunk in `tail_slot` lacks `missing` rows."""
    return slot * chunk_rows - (missing if slot > tail_slot else 0)


@kernel
def slot_of(place: int, chunk_rows: int, tail_slot: int, missing: int) -> int:
    """The chunk slot in which a place lies: the inverse of `slot_start`."""
    if place < (tail_slot + 1) * chunk_rows - missing:
        return place // chunk_rows
    return (place + missing) // chunk_rows


@kernel
def windowed_span(
    n: int,
    chunk_rows: int,
    window_chunks: int,
    chunk_key: np.uint64,
    window_key: np.uint64,
    start: int,
    out: NDArray[np.int64],
) -> None:
    """Rows at the places start, start + 1, … of one windowed sweep; start + len(out) ≤ n.

    Chunks of `chunk_rows` rows (the last one may be shorter) are permuted with `chunk_key`; each run of `window_chunks`
    of them is a window, and the places of window w are permuted among themselves with `absorb(window_key, w)`.
    """
    chunks = (n + chunk_rows - 1) // chunk_rows
    missing = chunks * chunk_rows - n
    tail_slot = permute_point(chunks, chunk_key, chunks - 1, False)
    table = shuffled(chunks if chunks <= SMALL_DOMAIN else 0, chunk_key)  # once, not once a window
    done = 0
    while done < out.shape[0]:
        place = start + done
        window = slot_of(place, chunk_rows, tail_slot, missing) // window_chunks
        first_slot = window * window_chunks
        last_slot = min(first_slot + window_chunks, chunks)
        lo = slot_start(first_slot, chunk_rows, tail_slot, missing)
        hi = slot_start(last_slot, chunk_rows, tail_slot, missing)
        count = min(hi - place, out.shape[0] - done)
        part = out[done : done + count]
        permute_span(hi - lo, absorb(window_key, np.uint64(window)), place - lo, part)
        within = np.empty(count, np.int64)
        for i in range(count):
            slot = slot_of(lo + part[i], chunk_rows, tail_slot, missing)
            within[i] = lo + part[i] - slot_start(slot, chunk_rows, tail_slot, missing)
            part[i] = slot
        if chunks <= SMALL_DOMAIN:
            for i in range(count):
                part[i] = table[part[i]]
        else:
            permute_points(chunks, chunk_key, part, part)
        for i in range(count):
            part[i] = part[i] * chunk_rows + within[i]
        done += count


@kernel
def windowed_place(
    n: int, chunk_rows: int, window_chunks: int, chunk_key: np.uint64, window_key: np.uint64, row: int
) -> int:
    """The place of one windowed sweep at which `row` stands: the inverse of `windowed_span`."""
    chunks = (n + chunk_rows - 1) // chunk_rows
    missing = chunks * chunk_rows - n
    tail_slot = permute_point(chunks, chunk_key, chunks - 1, False)
    slot = permute_point(chunks, chunk_key, row // chunk_rows, False)
    window = slot // window_chunks
    first_slot = window * window_chunks
    last_slot = min(first_slot + window_chunks, chunks)
    lo = slot_start(first_slot, chunk_rows, tail_slot, missing)
    hi = slot_start(last_slot, chunk_rows, tail_slot, missing)
    inside = slot_start(slot, chunk_rows, tail_slot, missing) + row % chunk_rows - lo
    return lo + permute_point(hi - lo, absorb(window_key, np.uint64(window)), inside, False)


@kernel
def rows_of_span(
    kind: int,
    n: int,
    chunk_rows: int,
    window_chunks: int,
    first_key: np.uint64,
    second_key: np.uint64,
    start: int,
    out: NDArray[np.int64],
) -> None:
    """Write the rows at nominal times start, start + 1, … to `out`, over any number of sweeps of n rows.

    `kind` is FULL, WINDOWED or SEQUENTIAL; the keys are those of the order before a sweep is absorbed
    (`minibatch.order`).
    """
    done = 0
    while done < out.shape[0]:
        sweep = (start + done) // n
        place = (start + done) % n
        count = min(n - place, out.shape[0] - done)
        part = out[done : done + count]
        if kind == FULL:
            permute_span(n, absorb(first_key, np.uint64(sweep)), place, part)
        elif kind == WINDOWED:
            chunk_key = absorb(first_key, np.uint64(sweep))
            window_key = absorb(second_key, np.uint64(sweep))
            windowed_span(n, chunk_rows, window_chunks, chunk_key, window_key, place, part)
        else:
            for i in range(count):
                part[i] = place + i
        done += count


@kernel
def rows_of_stretch(
    kind: int,
    n: int,
    chunk_rows: int,
    window_chunks: int,
    first_key: np.uint64,
    second_key: np.uint64,
    start: int,
    length: int,
    stride: int,
    count: int,
    out: NDArray[np.int64],
) -> None:
    """Write the rows of `count` runs of `length` nominal times, one every `stride` from `start` on, to `out`.

    Short gaps between runs are computed too and thrown away: that is cheaper than setting up the order for each run.
    """
    if count == 1 or stride - length >= CALL_PLACES:
        for i in range(count):
            part = out[i * length : (i + 1) * length]
            rows_of_span(kind, n, chunk_rows, window_chunks, first_key, second_key, start + i * stride, part)
        return
    together = max(1, PLACES_AT_ONCE // stride)
    span = np.empty(min(together, count) * stride, np.int64)
    for i in range(0, count, together):
        runs = min(together, count - i)
        part = span[: runs * stride]
        rows_of_span(kind, n, chunk_rows, window_chunks, first_key, second_key, start + i * stride, part)
        for j in range(runs):
            for k in range(length):
                out[(i + j) * length + k] = part[j * stride + k]


@kernel
def place_of_row(
    kind: int,
    n: int,
    chunk_rows: int,
    window_chunks: int,
    first_key: np.uint64,
    second_key: np.uint64,
    row: int,
    sweep: int,
) -> int:
    """The place of sweep `sweep` at which `row` stands: the inverse of `rows_of_span`, without a search."""
    if kind == FULL:
        return permute_point(n, absorb(first_key, np.uint64(sweep)), row, False)
    if kind == WINDOWED:
        chunk_key = absorb(first_key, np.uint64(sweep))
        window_key = absorb(second_key, np.uint64(sweep))
        return windowed_place(n, chunk_rows, window_chunks, chunk_key, window_key, row)
    return row

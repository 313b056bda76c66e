"""Random words as functions of (stream, nominal time, element), in torch's integer arithmetic: equal on every device.

The hash, modulo 2^64 and 2^32 (`tests/models/test_noise.py` has it in plain Python):
    word     = mix64(stream + (time + 1) · GOLDEN)        the words that `minibatch.rng.bits(stream, time)` gives
    x        = low half of word  ^  premix(element)
    x        = (x ^ x >> 16) · A + high half of word
    x        = (x ^ x >> 15) · B                          Wellons' lowbias32, all but its last step
"""

import math
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

MASK_64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
# "lowbias32", found by search for least avalanche bias; C. Wellons, hash-prospector, 2018.
A = 0x7FEB352D
B = 0x846CA68B


def signed(word: int, bits: int = 64) -> int:
    """An unsigned word as the signed number of the same bits: torch has no unsigned arithmetic.

    >>> signed(2**64 - 1), signed(7)
    (-1, 7)
    """
    return word - (1 << bits) if word >> (bits - 1) else word


_GOLDEN, _MIX_1, _MIX_2 = (signed(word) for word in (GOLDEN, MIX_1, MIX_2))
_B = signed(B, 32)


def mix64(word: int) -> int:
    """The finalizer of SplitMix64 (Stafford's variant 13) on a Python integer; equal to `minibatch.rng.mix64`."""
    word = (word ^ (word >> 30)) * MIX_1 & MASK_64
    word = (word ^ (word >> 27)) * MIX_2 & MASK_64
    return word ^ (word >> 31)


def sample_words(offsets: Tensor | int, times: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high halves of the word of each stream and sample: int32 (streams, n, 1) twice.

    offsets: the streams as signed numbers, int64 (streams, 1), or one of them as an integer, and the results are then
    (n, 1); times: int64 (n,).
    """
    word = (times + 1) * _GOLDEN + offsets
    # In place: these are tiny tensors, and each operation costs its launch.
    word ^= (word >> 30) & ((1 << 34) - 1)
    word *= _MIX_1
    word ^= (word >> 27) & ((1 << 37) - 1)
    word *= _MIX_2
    word ^= (word >> 31) & ((1 << 33) - 1)
    word = word.unsqueeze(-1)
    return word.to(torch.int32), (word >> 32).to(torch.int32)


def element_words(count: int, device: torch.device) -> Tensor:
    """The premixed index of every element of a sample: int32 (count,)."""
    word = torch.arange(1, count + 1, dtype=torch.int32, device=device)
    word *= signed(GOLDEN >> 32, 32)
    word ^= (word >> 16) & 0xFFFF
    word *= A
    word ^= (word >> 15) & 0x1FFFF
    word *= _B
    word ^= (word >> 16) & 0xFFFF
    return word


def element_bits(low: Tensor, high: Tensor, elements: Tensor) -> Tensor:
    """Random words of every element: int32 (n, count) of low, high (n, 1), elements (count,); high bits are best."""
    word = low ^ elements
    # torch shifts signed numbers only; without the masks the sign bit would be xored with itself, and lost.
    word ^= (word >> 16) & 0xFFFF
    word *= A
    word += high
    word ^= (word >> 15) & 0x1FFFF
    word *= _B
    return word


def finished(word: Tensor) -> Tensor:
    """The last step of lowbias32, in place: after it the low bits are as good as the high ones, which some need."""
    word ^= (word >> 16) & 0xFFFF
    return word


def signs(stream: int, times: Tensor, count: int) -> Tensor:
    """Independent numbers ±1, each with probability ½: int32 (n, count); stream: 64 bits, times: int64 (n,).

    >>> signs(7, torch.tensor([0, 2**40]), 4).tolist()
    [[-1, -1, 1, -1], [1, -1, -1, 1]]
    """
    low, high = sample_words(signed(stream & MASK_64), times)
    return ((element_bits(low, high, element_words(count, times.device)) >> 31) << 1) + 1


@cache
def half_normal_table(device: torch.device) -> Tensor:
    """The 65,536 quantiles of N(0, 1/2) at the middles of equal probabilities, scaled to variance 1/2: float64."""
    normal = NormalDist()
    upper = [normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    scale = math.sqrt(0.5 / (math.fsum(value * value for value in upper) / 32768))
    half = [value * scale for value in upper]
    return torch.tensor([-value for value in reversed(half)] + half, dtype=torch.float64, device=device)


def normals(word: Tensor, table: Tensor) -> Tensor:
    """Standard normal numbers of random words, which are overwritten: float64 of the same shape.

    Sums of two entries of the `half_normal_table`, each chosen by 16 random bits, so that they are the same bits on
    every device (logarithms and cosines are not): exact mean and variance, tails to ±5.9.
    """
    word = finished(word)
    return table[((word >> 16) & 0xFFFF).long()] + table[(word & 0xFFFF).long()]


def uniforms(word: Tensor) -> Tensor:
    """Numbers in the open interval (0, 1), multiples of 2^-32 plus 2^-33, of random words: float64, the same shape."""
    return word.to(torch.float64).add_(2.0**31 + 0.5).mul_(2.0**-32)

"""tf.train.Example and SequenceExample, decoded from their protocol buffer bytes: a map of lists by name.

The messages, from tensorflow/core/example/{example,feature}.proto: Example {Features features = 1}, Features
{map<string, Feature> feature = 1}, Feature {BytesList 1 | FloatList 2 | Int64List 3}, each list {repeated value = 1}.
SequenceExample {Features context = 1, FeatureLists feature_lists = 2}, FeatureLists {map<string, FeatureList> = 1},
FeatureList {repeated Feature feature = 1}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

VARINT, BITS64, BYTES, BITS32 = 0, 1, 2, 5  # wire types
Feature: TypeAlias = list[bytes] | NDArray[Any]


def decoded(data: bytes) -> dict[str, Feature]:
    """The features of an example: lists of bytes, float32 or int64 arrays (n,); raises ValueError for other bytes.

    A feature list comes as an array (steps,) or (steps, n), or as a list of bytes where each step has one.
    """
    found: dict[str, Feature] = {}
    for number, value in fields(memoryview(data)):
        if number == 1:
            add(found, {name: feature_of(inside) for name, inside in entries(value)})
        elif number == 2:
            add(found, {name: steps_of(inside, name) for name, inside in entries(value)})
    return found


def add(found: dict[str, Feature], more: dict[str, Feature]) -> None:
    for name in more:
        if name in found:
            raise ValueError(f"the feature {name!r} stands in it twice")
    found.update(more)


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number, and bytes or integer."""
    at, size = 0, len(data)
    while at < size:
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value: Any
            value, at = varint(data, at)
        elif wire in (BYTES, BITS64, BITS32):
            length, at = varint(data, at) if wire == BYTES else (8 if wire == BITS64 else 4, at)
            if length > size - at:
                raise ValueError(f"a field says {length:,} bytes, {size - at:,} are left: no protocol buffer")
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"a field has the wire type {wire}: no protocol buffer")
        yield tag >> 3, value


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer at `at`, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("an integer does not end: no protocol buffer")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def entries(data: Any) -> Iterator[tuple[str, memoryview]]:
    """The entries of a message that is a map from names to messages."""
    for number, entry in fields(message(data)):
        if number != 1:
            continue
        name, value = "", memoryview(b"")
        for part, inside in fields(message(entry)):
            if part == 1:
                name = str(message(inside), "utf-8")
            elif part == 2:
                value = message(inside)
        yield name, value


def message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a number stands where a message should: no tf.train.Example")
    return value


def feature_of(data: memoryview) -> Feature:
    """The list in one Feature; an empty list of nothing known (`[]`) if it says none."""
    for number, values in fields(data):
        if number == 1:
            return [bytes(message(value)) for place, value in fields(message(values)) if place == 1]
        if number == 2:
            parts = [message(value) for place, value in fields(message(values)) if place == 1]
            return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)
        if number == 3:
            integers = [integers_of(value) for place, value in fields(message(values)) if place == 1]
            return np.concatenate([np.zeros(0, np.int64), *integers])
    return []


def integers_of(value: Any) -> NDArray[np.int64]:
    """One integer, or packed ones.

    >>> integers_of(memoryview(bytes([0x05, 0x96, 0x01, *[0xFF] * 9, 0x01]))).tolist()
    [5, 150, -1]
    """
    if isinstance(value, int):
        return np.asarray([value], np.uint64).view(np.int64)
    data = np.frombuffer(value, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if not len(data):
        return np.zeros(0, np.int64)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise ValueError("a list of integers does not end: no protocol buffer")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ValueError("an integer has more than 64 bits: no protocol buffer")
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths))
    return np.add.reduceat((data & 0x7F).astype(np.uint64) << shifts.astype(np.uint64), starts).view(np.int64)


def steps_of(data: memoryview, name: str) -> Feature:
    """The steps of one FeatureList, which must be equally long."""
    steps = [feature_of(message(value)) for number, value in fields(data) if number == 1]
    if not steps:
        return []
    if len({len(step) for step in steps}) > 1 or len({type(step) for step in steps}) > 1:
        raise ValueError(f"the steps of the feature list {name!r} differ in length or type")
    if isinstance(steps[0], list):
        if len(steps[0]) != 1:
            raise ValueError(
                f"the steps of the feature list {name!r} have {len(steps[0])} byte strings each, expected 1"
            )
        return [step[0] for step in steps]
    array = np.stack(steps)
    return array[:, 0] if array.shape[1] == 1 else array

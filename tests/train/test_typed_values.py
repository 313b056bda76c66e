"""Texts and JSON as what annotations ask for."""

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train import cross_entropy
from minibatch.train.config import described
from minibatch.train.every import Minutes, Steps
from minibatch.train.regularizers import WeightL2
from minibatch.train.schedules import Constant, Cosine, Schedule, Warmup
from minibatch.train.schedules import Steps as RateSteps
from minibatch.train.typed_values import converted


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        (" 100_000 ", int, 100_000),
        ("1e5", int, 100_000),
        ("-2", int, -2),
        ("3", float, 3.0),
        ("1e-4", float, 1e-4),
        ("inf", float, float("inf")),
        ("yes", bool, True),
        ("OFF", bool, False),
        ("0", bool, False),
        ("none", int | None, None),
        ("null", Optional[float], None),  # noqa: UP045 - both spellings are in use
        ("3", int | float, 3),
        ("0.5", int | float, 0.5),
        ("3", float | str | None, 3.0),
        ("count", float | str | None, "count"),
        ("none", str, "none"),
        ("3", str, "3"),
        ("f(x)", str, "f(x)"),
        ("image", str | Sequence[str] | Callable[..., Any], "image"),
        ("image,mask", str | Sequence[str] | Callable[..., Any], ("image", "mask")),
        ("torch.nn:Tanh", str | Sequence[str] | Callable[..., Any], torch.nn.Tanh),
        ("a/b", Path, Path("a/b")),
        ("bits", Literal["math", "bits"], "bits"),
        ("2", Literal[1, 2], 2),
        ("BLUE", Colour, Colour.BLUE),
        ("float32", torch.dtype, torch.float32),
        ("0.1, 0.01", tuple[float, ...], (0.1, 0.01)),
        ("(3,)", tuple[int, ...], (3,)),
        ("", tuple[int, ...], ()),
        ("[1,2]", list[int], [1, 2]),
        ("1,b", tuple[int, str], (1, "b")),
        ("'a,b',c", Sequence[str], ("a,b", "c")),
        ("(1,2),(3,4)", Sequence[tuple[int, int]], ((1, 2), (3, 4))),
        ('{"a": 1}', Mapping[str, float], {"a": 1.0}),
        ("{}", dict[str, int], {}),
        ("true", Any, True),
        ("1", Any, 1),
        ("none", Any, None),
        ("words", Any, "words"),
        ("Cosine(0.1, samples=1e3)", Schedule, Cosine(0.1, samples=1000)),
        ("Warmup(10, then=Constant(0.5))", Schedule | None, Warmup(10, then=Constant(0.5))),
        ("Warmup(10, then=0.5)", Schedule | None, Warmup(10, then=0.5)),
        ("Constant(1), none", Sequence[Schedule | None] | None, (Constant(1.0), None)),
        ("WeightL2(coefficient=1e-4, pattern='layers.*')", Any, WeightL2(coefficient=1e-4, pattern="layers.*")),
        ("Steps(3)", int | Steps | Minutes, Steps(3)),
        ("schedules.Steps(rates=(1, 0.5), borders=(10,))", Schedule, RateSteps((1.0, 0.5), borders=(10,))),
        ("Minutes(2.5)", int | Steps | Minutes, Minutes(2.5)),
        ("cross_entropy", Callable[..., Any], cross_entropy),
        ("torch.nn:Tanh", Callable[..., Any], torch.nn.Tanh),
        ("minibatch.train.schedules:Constant(2)", Schedule, Constant(2.0)),
    ],
)
def test_a_text_becomes_what_is_asked_for(text, hint, value):
    found = converted(text, hint, "here")
    assert found == value
    assert type(found) is type(value)
    assert converted(value, hint, "here") == value, "and that stays as it is"


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("fast", int, "here: expected an integer, got 'fast'"),
        ("1.5", int, "expected an integer, got '1.5'"),
        (True, int, "expected an integer, got True"),
        (1.5, int, "expected an integer, got 1.5"),
        (True, float, "expected a number, got True"),
        ("2", bool, "expected true or false, got '2'"),
        (1, bool, "expected true or false, got 1"),
        (3, str, "expected a text, got 3"),
        ("maths", Literal["math", "bits"], "expected 'math' or 'bits', got 'maths'"),
        ("GREEN", Colour, "expected RED or BLUE, got 'GREEN'"),
        ("no", int | None, "expected an integer or none, got 'no'"),
        (None, int, "expected an integer, got None"),
        ("1,x", tuple[int, ...], r"here.1: expected an integer, got 'x'"),
        ("1,2,3", tuple[int, int], r"expected 2 values \(an integer, an integer\), got 3"),
        (5, Sequence[int], "expected integers separated by commas, got 5"),
        ("[1", Mapping[str, int], "expected a mapping such as"),
        ("float33", torch.dtype, "expected a dtype of torch"),
        ("Cosin(1)", Schedule, "there is no 'Cosin' to call; did you mean Cosine"),
        ("Cosine(rat=1)", Schedule, "Cosine takes no 'rat'; did you mean rate"),
        ("Cosine(0.1, samples=many)", Schedule, r"Cosine\(samples=\): expected an integer, got 'many'"),
        ("Cosine(0.1)", Schedule, r"here: Cosine\(0.1\): .*missing 1 required"),
        ("Steps((1,), borders=(1,))", Schedule, "one rate more than borders"),
        ("0.1", Schedule, "expected a function"),
        ("cosinus", Schedule, "expected a function"),
        ("nowhere:thing", Schedule, "there is no nowhere:thing"),
        ("none", Schedule, "expected a function"),
        (3, WeightL2, "expected WeightL2, got 3"),
    ],
)
def test_a_wrong_value_is_told_what_is_expected(value, hint, message):
    with pytest.raises(ValueError, match=message):
        converted(value, hint, "here")


PLAIN = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=5)


@given(PLAIN)
def test_plain_values_survive_config_json(value):
    hint = type(value) if value is not None else None
    assert converted(described(value), hint, "x") == value
    if not isinstance(value, str):
        assert converted(repr(value), hint, "x") == value


@pytest.mark.parametrize(
    "value",
    [
        Cosine(0.1, samples=100),
        Warmup(5, then=Cosine(0.1, samples=100)),
        RateSteps((0.1, 0.01), borders=(5,)),
        (Constant(1.0), None),
        Path("a"),
    ],
)
def test_values_made_of_frozen_ones_come_back_from_config_json(value):
    hint = {tuple: Sequence[Schedule | None]}.get(type(value), Any)
    found = converted(described(value), hint if not isinstance(value, Path) else Path, "x")
    assert described(found) == described(value)
    assert type(found) is type(value)

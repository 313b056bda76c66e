"""cuda-convnet2's schedules give its rates, from its own strings."""

import pytest

from minibatch.train.schedules import Constant, DiscreteExponential, Linear, from_convnet
from tests.plain.schedules import convnet_rates, convnet_run

WRITTEN = {
    "linear": "linear[base=0.01;tgtFactor=250]",
    "exp": "exp[base=0.01;tgtFactor=250]",
    "dexp": "dexp[base=0.01;tgtFactor=250;numSteps=4]",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_rates_are_those_of_lr_cu(kind):
    samples = 12_000
    rate = from_convnet(WRITTEN[kind], max_samples=samples)
    for t in (0, 1, 2999, 3001, 6001, 8999, 9001, 11_999):
        assert rate(t) == pytest.approx(convnet_rates(kind, 0.01, 250, 4, t / samples), rel=1e-12), t


@pytest.mark.parametrize("kind", WRITTEN)
def test_with_data_batches_every_sample_of_a_run_gets_the_rate_it_got_there(kind):
    batches, data_batch = 28, 24
    rate = from_convnet(WRITTEN[kind], max_samples=batches * data_batch, data_batch=data_batch)
    expected = convnet_run(kind, 0.01, 250, 4, batches, data_batch)
    assert [rate(t) for t in range(batches * data_batch)] == pytest.approx(expected, rel=1e-12)


def test_levels_change_exactly_at_a_quarter_and_one_batch_later_with_data_batches():
    exact = from_convnet(WRITTEN["dexp"], max_samples=4096)
    assert exact(1023) == 0.01 > exact(1024)
    late = from_convnet(WRITTEN["dexp"], max_samples=4096, data_batch=128)
    assert late(1024) == late(1151) == 0.01 > late(1152)


def test_what_is_written_becomes_a_plain_value():
    assert from_convnet("0.001", 100) == from_convnet(0.001, 100) == from_convnet("const[base=0.001]", 100)
    assert from_convnet("0.001", 100) == Constant(0.001)
    assert from_convnet(" linear[ tgtFactor=10, base=0.5 ] ", 100) == Linear(0.5, samples=100, last=0.05)
    assert from_convnet("dexp[base=1;tgtFactor=4;numSteps=2]", 100) == DiscreteExponential(1.0, 0.25, 2, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "expected a number, or one of const"),
        ("quadratic[base=1]", "unknown kind of schedule 'quadratic'"),
        ("exp[base=1]", "exp needs the parameters base, tgtFactor and no others, got base"),
        ("exp[base=1;tgtFactor=3;numSteps=4]", "exp needs the parameters base, tgtFactor and no others"),
        ("exp[base=1;tgtFactor=0]", "tgtFactor must be > 0"),
        ("exp[base=1;tgtFactor=x]", "'tgtFactor=x' is not of the form name=number"),
        ("exp[base=1;base=2;tgtFactor=3]", "gives base twice"),
        ("dexp[base=1;tgtFactor=3;numSteps=1]", "numSteps must be an integer from 2 on"),
        ("dexp[base=1;tgtFactor=3;numSteps=2.5]", "numSteps must be an integer from 2 on"),
        ("const[]", "const needs the parameters base and no others, got none"),
        ("exp[base=nan;tgtFactor=3]", "must be finite"),
    ],
)
def test_strings_that_are_no_schedule_say_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message):
        from_convnet(text, 100)

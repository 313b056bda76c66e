"""What a measurement says of the machine it was made on."""

from minibatch.limits import available_memory
from minibatch.tools import machine


def test_this_machine_says_what_a_measurement_needs():
    found = machine.described()
    assert "cores" in found["machine"]
    assert set(found) == {"machine", "python", "numpy", "minibatch", "date"}
    assert 0 < available_memory().available < 1 << 60

"""promise="bits": equal digests for any microbatch, any order of leaves, and a resume at any step."""

import random

import pytest
import torch
from torch import nn

from minibatch.errors import CheckpointError
from minibatch.models.noise import Dropout
from minibatch.train import Term, cross_entropy, mse, on, parameters_digest
from minibatch.train.errors import NonFiniteError
from tests.train.small import make_source, make_trainer, write

STEPS = 20
# Adam, dropout, clipping, weights and two tasks with missing labels: the defaults of the small run.
OPTIONS = {"promise": "bits", "leaf_size": 4, "minibatch_size": 18, "microbatch_size": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bits") / "data")


def run(data, *, steps=STEPS, order=None, dtype=torch.float32, **options):
    """The digest of the small run after some steps, its first weights in float32, and its last result."""
    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "inputs": Casted(dtype), **options})
        trainer.model.to(dtype)
        if order is not None:
            trainer.gradient.order = order
        for _ in range(steps):
            result = trainer.train_minibatch()
        return parameters_digest(trainer.model), result


class Casted:
    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, model, batch):
        return model(batch["x"].to(self.dtype))


def shuffled(seed):
    generator = random.Random(seed)

    def order(cuts):
        return generator.sample(cuts, len(cuts))

    return order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_leaves_changes_no_bit(data, dtype):
    expected, result = run(data, dtype=dtype)
    for order in (lambda cuts: cuts[::-1], shuffled(1), shuffled(2)):
        digest, other = run(data, dtype=dtype, order=order)
        assert digest == expected
        assert other.numerators == result.numerators
        assert other.grad_norm == result.grad_norm


@pytest.mark.parametrize("microbatch", [4, 7, 18, 100])
def test_the_microbatch_changes_no_bit(data, microbatch):
    assert run(data, microbatch_size=microbatch)[0] == run(data)[0]


def test_plain_addition_would_change_bits(data):
    """The test above can fail: without leaves and the exact sum it does."""
    digests = {run(data, promise="math", microbatch_size=size)[0] for size in (4, 7, 18)}
    assert len(digests) == 3


def test_bits_agree_with_math_but_for_rounding(data):
    with make_source(data) as one, make_source(data) as two:
        bits = make_trainer(one, **OPTIONS)
        math = make_trainer(two, **{**OPTIONS, "promise": "math"})
        for _ in range(STEPS):
            bits.train_minibatch(), math.train_minibatch()
        for a, b in zip(bits.model.parameters(), math.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("at", [1, 7, 19])
def test_a_resume_at_any_step_changes_no_bit(data, tmp_path, at):
    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "inputs": Casted(torch.float32)})
        trainer.model.float()
        for _ in range(at):
            trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / "saved")
    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "inputs": Casted(torch.float32), "microbatch_size": 6})
        trainer.model.float()
        trainer.restore_from_checkpoint(tmp_path / "saved")
        for _ in range(STEPS - at):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == run(data)[0]


def test_another_number_of_threads_is_refused_unless_overridden(data, tmp_path):
    threads = torch.get_num_threads()
    with make_source(data) as source:
        make_trainer(source, **OPTIONS).save_checkpoint(tmp_path / "saved")
    try:
        torch.set_num_threads(threads + 1)
        with make_source(data) as source:
            trainer = make_trainer(source, **OPTIONS)
            with pytest.raises(CheckpointError, match=r"threads: .* → "):
                trainer.restore_from_checkpoint(tmp_path / "saved")
            trainer.restore_from_checkpoint(tmp_path / "saved", override=["environment"])
        with make_source(data) as source:  # what promises less is only told
            make_trainer(source, **{**OPTIONS, "promise": "math"}).restore_from_checkpoint(tmp_path / "saved")
    finally:
        torch.set_num_threads(threads)


def test_leaves_larger_than_microbatches_are_refused(data):
    with make_source(data) as source, pytest.raises(ValueError, match="leaf_size=3"):
        make_trainer(source, promise="bits", leaf_size=4, microbatch_size=3)


def test_a_leaf_cut_in_two_by_a_border_is_two_leaves(data):
    """Minibatches that are no multiples of a leaf: what a step computes depends on its interval alone."""
    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "minibatch_size": 9})
        trainer.train_minibatch()
        parts = trainer.streams.parts(trainer.streams.take(9), 9, None)
        assert parts[0].cuts == [(0, 3), (3, 7), (7, 9)]  # times 9 … 17 in leaves of 4


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(data):
    def broken(outputs, batch):
        values = outputs["logits"].sum(1)
        return values.where(batch["label"] > 0, torch.inf)

    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "terms": Term("x", broken), "check_unreached": False})
        before = parameters_digest(trainer.model)
        with pytest.raises(NonFiniteError):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == before


def test_a_leaf_beyond_the_range_of_the_sum_stops_the_run(data):
    def huge(outputs, batch):
        return outputs["logits"].sum(1) * 1e9

    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "terms": Term("x", huge), "check_unreached": False})
        with pytest.raises(NonFiniteError):
            trainer.train_minibatch()


def test_numerators_on_other_devices_do_not_depend_on_the_order_either(data):
    """The path of devices, forced on the CPU: numerators stay tensors until they are looked at."""
    found = []
    for order in (list, lambda cuts: cuts[::-1], shuffled(3)):
        with make_source(data) as source:
            trainer = make_trainer(source, **OPTIONS)
            trainer.steps.update.watch = "wait"
            trainer.gradient.order = order
            result = trainer.train_minibatch()
            found.append([result[name] for name in result])
    assert found[0] == found[1] == found[2]


def test_leaves_of_nominal_time_do_not_see_each_other(data):
    """Dropout masks belong to samples: leaf sizes change rounding, not the noise."""
    with make_source(data) as one, make_source(data) as two:
        small = make_trainer(one, **{**OPTIONS, "leaf_size": 2}, dropout=0.5)
        large = make_trainer(two, **{**OPTIONS, "leaf_size": 16}, dropout=0.5)
        assert any(isinstance(layer, Dropout) for layer in small.model.modules())
        for _ in range(5):
            a, b = small.train_minibatch(), large.train_minibatch()
            assert a["total_loss"] == pytest.approx(b["total_loss"], rel=1e-12)


def test_convolutions_keep_the_promise(tmp_path):
    data = write(tmp_path / "data")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(3)
                self.conv, self.out = nn.Conv1d(1, 8, 3, padding=1), nn.Linear(48, 3)

        def forward(self, x):
            return {"logits": self.out(torch.relu(self.conv(x[:, None].float())).flatten(1))}

    digests = set()
    for order in (list, lambda cuts: cuts[::-1], shuffled(5)):
        with make_source(data) as source:
            from minibatch.train import Trainer

            model = Net()
            trainer = Trainer(
                model,
                Term("class", on(cross_entropy, "label", output="logits")),
                torch.optim.Adam(model.parameters(), lr=0.01),
                source,
                32,
                inputs="x",
                promise="bits",
                leaf_size=8,
            )
            trainer.gradient.order = order
            for _ in range(5):
                trainer.train_minibatch()
            digests.add(parameters_digest(model))
    assert len(digests) == 1


def test_a_term_that_reaches_no_parameter_is_only_watched(data):
    watched = Term("watched", on(mse, "target", output="values"), coefficient=0.0)
    _, result = run(data, steps=1, terms=(Term("class", on(cross_entropy, "label", output="logits")), watched))
    assert result["watched"] > 0


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_a_loss_that_is_not_a_number_is_told_as_such_and_stops_the_run(data, precision):
    """As under "math": its leaves are added up although the step ends early, and no smaller scale is tried."""

    def broken(outputs, batch):
        values = outputs["logits"].square().sum(1)
        return values * float("nan") if 3 in batch.times else values

    options = {"terms": Term("x", broken), "check_unreached": False, "precision": precision, "minibatch_size": 9}
    with make_source(data) as source:
        trainer = make_trainer(source, **{**OPTIONS, "inputs": Casted(torch.float32), **options})
        trainer.model.float()
        trainer.precision.scale = 1.0
        before = parameters_digest(trainer.model)
        with pytest.raises(NonFiniteError, match=r"step 1, .*total_loss nan, x nan"):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == before
        assert trainer.precision.scale == 1.0

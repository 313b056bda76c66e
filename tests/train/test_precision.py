"""Mixed precision: float32 losses, a scale that overflow halves, and the promises kept."""

import pytest
import torch

from minibatch.models import MLP
from minibatch.models.noise import Dropout
from minibatch.train import Term, Trainer, cross_entropy, mse, on, parameters_digest
from minibatch.train.precision import FIRST_SCALE, GROWTH_STEPS, Precision
from minibatch.train.spikes import Spikes
from tests.train.small import CLASSES, FEATURES, fields, make_source, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("precision") / "data")


def make_trainer(source, *, factor=1.0, **options):
    model = torch.nn.Sequential(MLP(sizes=(FEATURES, 16), seed=1), Dropout(0.2), MLP(sizes=(16, CLASSES), seed=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []

    def loss(outputs, batch):
        seen.append(outputs.dtype)
        return factor * cross_entropy(outputs, batch["label"])

    trainer = Trainer(model, Term("class", loss), optimizer, source, 16, inputs="x", **options)
    trainer.seen = seen
    return trainer


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_see_single_precision_of_a_model_that_computes_in_half(data, precision):
    with make_source(data) as one, make_source(data) as two:
        half, single = make_trainer(one, precision=precision), make_trainer(two)
        a, b = half.train_minibatch(), single.train_minibatch()
        assert a["class"] == pytest.approx(b["class"], rel=0.02)
        assert a["class"] != b["class"]
        losses = [half.train_minibatch()["class"] for _ in range(30)]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
        assert set(half.seen) == {torch.float32}
        assert all(p.dtype == torch.float32 for p in half.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_bits_are_kept_in_half_precision(data, precision):
    digests = set()
    for order, microbatch in ((list, None), (lambda cuts: cuts[::-1], 8)):
        with make_source(data) as source:
            trainer = make_trainer(source, precision=precision, promise="bits", leaf_size=4, microbatch_size=microbatch)
            trainer.gradient.order = order
            for _ in range(8):
                trainer.train_minibatch()
            digests.add(parameters_digest(trainer.model))
    assert len(digests) == 1


@pytest.mark.parametrize("promise", ["math", "bits"])
def test_an_overflow_skips_the_update_and_halves_the_scale(data, promise):
    with make_source(data) as source:
        trainer = make_trainer(source, precision="fp16", factor=100.0, promise=promise, leaf_size=4)
        before = parameters_digest(trainer.model)
        results = [trainer.train_minibatch()]
        assert results[0].overflow
        assert not results[0].updated
        assert parameters_digest(trainer.model) == before
        assert trainer.precision.scale == FIRST_SCALE / 2
        while not results[-1].updated:
            results.append(trainer.train_minibatch())
        assert len(results) > 2
        assert trainer.precision.scale == FIRST_SCALE / 2 ** (len(results) - 1)
        assert results[-1].grad_norm < 1e4  # the scale is taken out again


def test_the_scale_is_part_of_a_checkpoint(data, tmp_path):
    digests = []
    for resume in (False, True):
        with make_source(data) as source:
            trainer = make_trainer(source, precision="fp16", factor=100.0)
            if resume:
                trainer.restore_from_checkpoint(tmp_path / "saved")
            for step in range(6, 12) if resume else range(12):
                if step == 6 and not resume:
                    trainer.save_checkpoint(tmp_path / "saved")
                trainer.train_minibatch()
            digests.append((parameters_digest(trainer.model), trainer.precision.scale))
    assert digests[0] == digests[1]
    assert digests[0][1] < FIRST_SCALE


def test_the_scale_grows_after_many_good_steps():
    precision = Precision("fp16", torch.device("cpu"))
    for _ in range(GROWTH_STEPS):
        precision.went_well()
    assert precision.scale == 2 * FIRST_SCALE
    precision.overflowed()
    assert precision.steps_since == 0


def test_a_gradient_that_no_scale_helps_stops_the_run(data):
    from minibatch.train import NonFiniteError

    with make_source(data) as source:
        trainer = make_trainer(source, precision="fp16", factor=float("nan"))
        with pytest.raises(NonFiniteError):
            trainer.train_minibatch()


def test_an_unknown_precision_is_refused(data):
    with make_source(data) as source, pytest.raises(ValueError, match="precision='int8'"):
        make_trainer(source, precision="int8")


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_a_compiled_model_trains_the_same_with_the_same_noise(data):
    with make_source(data) as one, make_source(data) as two:
        compiled = make_trainer(one, compile={"backend": "aot_eager"})
        eager = make_trainer(two)
        for _ in range(4):
            a, b = compiled.train_minibatch(), eager.train_minibatch()
            assert a["class"] == pytest.approx(b["class"], rel=1e-5)
        assert [n for n, _ in compiled.model.named_parameters()] == [n for n, _ in eager.model.named_parameters()]


def test_the_loss_is_the_same_under_activation_checkpointing(data):
    from torch.utils.checkpoint import checkpoint

    class Recomputed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(MLP(sizes=(FEATURES, 16), seed=1), Dropout(0.5))
            self.head = MLP(sizes=(16, CLASSES), seed=2)
            self.recompute = True

        def forward(self, x):
            x = x.float()
            hidden = checkpoint(self.body, x, use_reentrant=False) if self.recompute else self.body(x)
            return self.head(hidden)

    digests = set()
    for recompute in (True, False):
        with make_source(data) as source:
            model = Recomputed()
            model.recompute = recompute
            trainer = Trainer(model, Term("class", on(cross_entropy, "label")), torch.optim.Adam(model.parameters()),
                              source, 16, inputs="x", promise="bits", leaf_size=4)  # fmt: skip
            for _ in range(5):
                trainer.train_minibatch()
            digests.add(parameters_digest(model))
    assert len(digests) == 1


def test_a_spike_that_is_left_out_says_nothing_about_the_scale(tmp_path):
    target = fields()["target"].copy()
    target[30] = 1e4
    with make_source(write(tmp_path / "data", target=target)) as source:
        model = MLP(sizes=(FEATURES, 2), seed=1)
        trainer = Trainer(
            model, Term("fit", on(mse, "target")), torch.optim.SGD(model.parameters(), lr=0.01), source, 9, inputs="x",
            precision="fp16", spikes=Spikes(action="skip", warmup=4, window=8, factor=8.0), announce=lambda text: None,
        )  # fmt: skip
        trainer.precision.scale = 8.0
        results = [trainer.train_minibatch() for _ in range(20)]
    assert sum(result.spike for result in results) > 2
    assert not any(result.overflow for result in results)
    assert trainer.precision.scale == 8.0


def test_a_step_whose_terms_reach_no_parameter_has_a_gradient_of_zero_in_half_precision_too(data):
    with make_source(data) as source:
        model = MLP(sizes=(FEATURES, CLASSES), seed=1)
        term = Term("size", lambda outputs, batch: batch["x"].float().square().sum(1))
        trainer = Trainer(
            model, term, torch.optim.SGD(model.parameters(), lr=0.1), source, 9, inputs="x", precision="fp16",
            check_unreached=False,
        )  # fmt: skip
        result = trainer.train_minibatch()
        assert result["size"] > 0
        assert result.grad_norm == 0.0
        assert result.finite

"""The trainer: sizes, sources, several optimizers, what is refused before the first step."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import Dataset, Window
from minibatch.models import MLP, Dropout
from minibatch.train import Term, Trainer, WeightL2, cross_entropy, mse, on, parameters_digest
from minibatch.train.errors import TrainingError
from minibatch.train.schedules import Constant, Steps
from tests.train.small import TwoHeads, fields, make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("trainer") / "data")


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


CLASS = Term("class", on(cross_entropy, "label", output="logits"))
FIT = Term("fit", on(mse, "target", output="values"))


def test_a_step_is_the_next_interval_of_the_axis(data):
    with make_source(data) as source:
        trainer = make_trainer(source)
        results = [trainer.train_minibatch() for _ in range(3)]
    assert [result.interval for result in results] == [(0, 9), (9, 18), (18, 27)]
    assert [result.step for result in results] == [1, 2, 3]
    assert trainer.nominal_time == 27
    assert all(result and result.finite and result.updated for result in results)


def test_the_axis_ends_with_a_short_step_and_then_falsy_results(data):
    with make_source(data, max_samples=20) as source:
        trainer = make_trainer(source)
        steps = list(trainer.itertrain())
        assert [step.num_samples for step in steps] == [9, 9, 2]
        before = parameters_digest(trainer.model)
        result = trainer.train_minibatch()
        assert not result
        assert (result.num_samples, trainer.step, parameters_digest(trainer.model)) == (0, 3, before)


def test_the_microbatch_size_changes_nothing_but_rounding(data):
    models = []
    for size in (None, 1, 4, 9, 100):
        with make_source(data) as source:
            trainer = make_trainer(source, microbatch_size=size)
            trainer.fit(max_samples=200)
            models.append(torch.cat([p.detach().ravel() for p in trainer.model.parameters()]))
    for model in models[1:]:
        assert (model - models[0]).abs().max() < 1e-11
    assert models[0].abs().max() > 0.1


def test_the_order_of_reading_changes_nothing(data):
    """The source may be windowed, asked in advance, or sought: a step is a function of its interval."""
    digests = []
    for disturb in (False, True):
        with make_source(data, shuffle=Window(rows=15)) as source:
            trainer = make_trainer(source)
            for _ in range(10):
                if disturb:
                    t = source.nominal_time
                    source.next_minibatch(31)
                    source.seek(t)
                trainer.train_minibatch()
            digests.append(parameters_digest(trainer.model))
    assert digests[0] == digests[1]


def test_samples_may_be_given_as_a_batch_or_as_fields(data):
    digests = []
    for kind in ("own", "batch", "fields", "tensors", "no source"):
        with make_source(data) as source:
            trainer = make_trainer(None if kind == "no source" else source, seed=5)
            for step in range(4):
                if kind == "own":
                    trainer.train_minibatch()
                elif kind == "batch":
                    trainer.train_minibatch(source.next_minibatch(9))
                else:
                    rows = source.at(9 * step, 9)
                    given = Dataset.open(data).read(rows)
                    if kind == "tensors":
                        given = {name: torch.from_numpy(values) for name, values in given.items()}
                    result = trainer.train_minibatch(given)
                    assert result.interval == (9 * step, 9 * step + 9)
                assert trainer.nominal_time == 9 * step + 9
            digests.append(parameters_digest(trainer.model))
    assert len(set(digests)) == 1


def test_given_samples_must_be_a_minibatch(data):
    with make_source(data) as source:
        trainer = make_trainer(source)
        with pytest.raises(TypeError, match="Batch, or a mapping"):
            trainer.train_minibatch([1, 2])
        with pytest.raises(ValueError, match="one number of samples"):
            trainer.train_minibatch({"x": np.zeros(3), "label": np.zeros(2)})
        with pytest.raises(ValueError, match="no source"):
            make_trainer(None).train_minibatch()


def test_inputs_may_be_fields_or_a_function(data):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TwoHeads()

        def forward(self, x, extra):
            return self.inner(x + 0.0 * extra[:, None])

    digests = set()
    for inputs in (("x", "uniform"), lambda model, batch: model(batch["x"], batch["uniform"])):
        with make_source(data) as source:
            model = Sum().double()
            trainer = Trainer(model, [CLASS, FIT], sgd(model), source, 9, inputs=inputs)
            trainer.train_minibatch()
            digests.add(parameters_digest(model))
    assert len(digests) == 1
    for wrong in ((), (3,)):
        with make_source(data) as source, pytest.raises(TypeError, match="inputs"):
            make_trainer(source, inputs=wrong)


@pytest.mark.parametrize("size", [0, -1, 2.0, "9", True, None])
def test_sizes_are_integers_from_one(data, size):
    with make_source(data) as source:
        with pytest.raises((TypeError, ValueError), match=r"minibatch_size.* must be"):
            make_trainer(source, minibatch_size=size)
        if size is not None:
            with pytest.raises((TypeError, ValueError), match="microbatch_size must be"):
                make_trainer(source, microbatch_size=size)


def test_a_minibatch_may_be_larger_than_several_sweeps(data):
    with make_source(data) as source:
        result = make_trainer(source, minibatch_size=1000, microbatch_size=None).train_minibatch()
    assert result.num_samples == 1000


def test_several_optimizers_own_disjoint_parameters(data):
    """Two optimizers with schedules of their own do what each does alone on its part."""
    with make_source(data) as source:
        model = TwoHeads().double()
        body = torch.optim.Adam(model.body.parameters(), lr=1.0)
        heads = torch.optim.SGD([*model.classes.parameters(), *model.values.parameters()], lr=0.3)
        trainer = Trainer(
            model, [CLASS, FIT], [body, heads], source, 9, inputs="x", schedules=[Steps((0.0, 0.1), borders=(9,)), None]
        )
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        first = trainer.train_minibatch()
        assert first.learning_rates == (0.0, 0.3)
        for name, parameter in model.named_parameters():
            moved = not torch.equal(parameter, start[name])
            assert moved == (not name.startswith("body")), name
            if moved:
                assert torch.allclose(parameter, start[name] - 0.3 * parameter.grad, atol=1e-15)
        assert trainer.train_minibatch().learning_rates == (0.1, 0.3)


def test_groups_may_scale_the_scheduled_rate(data):
    with make_source(data) as source:
        model = TwoHeads().double()
        groups = [
            {"params": list(model.body.parameters())},
            {"params": [*model.classes.parameters(), *model.values.parameters()], "lr_scale": 0.5},
        ]
        optimizer = torch.optim.SGD(groups, lr=7.0)
        trainer = Trainer(model, [CLASS, FIT], optimizer, source, 9, inputs="x", schedules=Constant(0.2))
        trainer.train_minibatch()
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


def test_ownership_of_parameters_is_checked(data):
    with make_source(data) as source:

        def refused(make, message):
            model = TwoHeads().double()
            with pytest.raises(ValueError, match=message):
                Trainer(model, [CLASS, FIT], make(model), source, 9, inputs="x")

        refused(lambda m: [sgd(m), sgd(m.body)], r"body\.layers\.0\.weight is owned by optimizers\[0\] and by")
        refused(lambda m: sgd(m.body), r"classes\.layers\.0\.weight is trainable but owned by no optimizer")
        refused(lambda m: [sgd(m), sgd(nn.Linear(2, 2))], r"optimizers\[1\] \(SGD\).*\(2, 2\).*the model has not")
        refused(lambda m: [], "empty")
        model = TwoHeads().double()
        with pytest.raises(TypeError, match="LBFGS"):
            Trainer(model, CLASS, torch.optim.LBFGS(model.parameters()), source, 9, inputs="x")
        with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer"):
            Trainer(model, CLASS, [3], source, 9, inputs="x")


def test_a_frozen_parameter_needs_no_optimizer(data):
    with make_source(data) as source:
        model = TwoHeads().double()
        model.values.requires_grad_(False)
        optimizer = sgd(nn.ModuleList([model.body, model.classes]))
        Trainer(model, CLASS, optimizer, source, 9, inputs="x").train_minibatch()


def test_a_parameter_that_no_term_reaches_is_named_before_anything_is_updated(data):
    with make_source(data) as source:
        model = TwoHeads().double()
        before = parameters_digest(model)
        with pytest.raises(ValueError, match=r"reaches 2 trainable parameters: values\.layers\.0\.weight, values"):
            Trainer(model, CLASS, sgd(model), source, 9, inputs="x").train_minibatch()
        assert parameters_digest(model) == before
        assert source.nominal_time == 0
        Trainer(model, CLASS, sgd(model), source, 9, inputs="x", check_unreached=False).train_minibatch()


def test_a_term_that_is_absent_at_first_may_reach_its_parameters_later(tmp_path):
    mask = np.arange(53) >= 20
    path = write(tmp_path / "data", has_target=mask)
    with make_source(path, shuffle=None) as source:
        model = TwoHeads().double()
        head = model.values.layers[0].weight.detach().clone()
        terms = [CLASS, Term("fit", FIT.loss, mask="has_target")]
        trainer = Trainer(model, terms, sgd(model, momentum=0.9), source, 9, inputs="x")
        first, second = trainer.train_minibatch(), trainer.train_minibatch()
        assert (first["fit"], second["fit"]) == (None, None)
        assert torch.equal(model.values.layers[0].weight, head)
        assert first["total_loss"] == first["class"]
        third = trainer.train_minibatch()
        assert third["fit"] is not None
        assert third.denominators == (9.0, 7.0)
        assert not torch.equal(model.values.layers[0].weight, head)


def test_a_step_without_any_sample_of_weight_updates_nothing_and_counts_on(data):
    with make_source(data) as source:
        term = Term("class", CLASS.loss, weight="nothing")
        model = TwoHeads().double()
        optimizer = sgd(model, weight_decay=0.5)
        trainer = Trainer(
            model,
            term,
            optimizer,
            source,
            9,
            inputs="x",
            check_unreached=False,
            regularizers=[WeightL2(coefficient=1.0)],
        )
        before = parameters_digest(model)
        result = trainer.train_minibatch()
        assert (result["class"], result["total_loss"], result.updated) == (None, 0.0, False)
        assert (trainer.step, trainer.nominal_time) == (1, 9)
        assert parameters_digest(model) == before


def test_a_step_that_is_all_holes_updates_nothing_and_counts_on(data):
    with make_source(data, skip=[(9, 18)]) as source:
        trainer = make_trainer(source)
        trainer.train_minibatch()
        before = parameters_digest(trainer.model)
        result = trainer.train_minibatch()
        assert result
        assert (result.num_samples, result.updated, trainer.nominal_time, trainer.step) == (0, False, 18, 2)
        assert parameters_digest(trainer.model) == before
        assert trainer.train_minibatch().num_samples == 9


def test_denominators_see_holes_or_do_not(data):
    with make_source(data, skip=[(0, 4)]) as source:
        terms = [
            Term("count", CLASS.loss, denominator="count"),
            Term("nominal", CLASS.loss, denominator="nominal"),
        ]
        model = TwoHeads().double()
        result = Trainer(model, terms, sgd(model), source, 9, inputs="x", check_unreached=False).train_minibatch()
    assert result.denominators == (5.0, 9.0)
    assert result["count"] == pytest.approx(result["nominal"] * 9 / 5)


def test_the_gradient_norm_is_that_of_the_whole_gradient_and_clipping_scales_it(data):
    with make_source(data) as source:
        norms = []
        for clip in (None, 0.05):
            source.seek(0)
            model = TwoHeads().double()
            trainer = Trainer(model, [CLASS, FIT], sgd(model, lr=0.0), source, 9, inputs="x", clip_grad_norm=clip)
            result = trainer.train_minibatch()
            kept = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
            norms.append((result.grad_norm, kept))
    assert norms[0][0] == pytest.approx(norms[0][1], rel=1e-14)
    assert norms[1][0] == norms[0][0]
    assert norms[1][1] == pytest.approx(0.05, rel=1e-12)
    with make_source(data) as source, pytest.raises(ValueError, match="clip_grad_norm"):
        make_trainer(source, clip_grad_norm=0.0)


def test_sparse_gradients_are_measured_and_clipped_like_dense_ones():
    results = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(10, 3, sparse=sparse, dtype=torch.float64)
        trainer = Trainer(
            model, Term("c", on(cross_entropy, "y")), sgd(model), None, 4, 2, "x", clip_grad_norm=0.1, seed=1
        )
        result = trainer.train_minibatch({"x": np.array([1, 2, 3, 1]), "y": np.array([0, 1, 2, 0])})
        results.append((result.grad_norm, model.weight.detach()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert torch.allclose(results[0][1], results[1][1], rtol=0, atol=1e-15)


def test_weight_l2_is_part_of_the_loss_and_leaves_biases_alone(data):
    columns = {name: torch.from_numpy(values) for name, values in fields().items()}
    with make_source(data) as source:
        rows = source.at(0, 9)
        model, reference = TwoHeads().double(), TwoHeads().double()
        regularizers = [WeightL2(coefficient=0.01), WeightL2(coefficient=0.5, pattern="classes.*")]
        trainer = Trainer(
            model, CLASS, sgd(model, lr=0.0), source, 9, 2, inputs="x", check_unreached=False, regularizers=regularizers
        )
        result = trainer.train_minibatch()
    out = reference(columns["x"][rows])
    loss = torch.nn.functional.cross_entropy(out["logits"], columns["label"][rows])
    for name, p in reference.named_parameters():
        if name.endswith("weight"):
            loss = loss + (0.51 if name.startswith("classes") else 0.01) * p.square().sum()
    loss.backward()
    assert result["total_loss"] == pytest.approx(loss.item(), rel=1e-12)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)
    with make_source(data) as source, pytest.raises(ValueError, match=r"'conv\*'.*matches no parameter"):
        make_trainer(source, regularizers=[WeightL2(coefficient=0.1, pattern="conv*")])
    with pytest.raises(ValueError, match="coefficient"):
        WeightL2(coefficient=-1.0)


@pytest.mark.parametrize("rate", [math.nan, -0.1, math.inf])
def test_a_schedule_that_gives_no_rate_is_an_error_before_anything_moves(data, rate):
    with make_source(data) as source:
        trainer = make_trainer(source, schedules=lambda t: rate)
        with pytest.raises(ValueError, match="gives lr"):
            trainer.train_minibatch()
        assert (source.nominal_time, trainer.step) == (0, 0)


def test_schedules_see_the_nominal_time_at_the_beginning_of_the_step(data):
    seen = []
    with make_source(data) as source:
        trainer = make_trainer(source, schedules=lambda t: seen.append(t) or 0.01)
        trainer.fit(max_samples=30)
        assert seen == [0, 9, 18, 27]
        with pytest.raises(ValueError, match="2 schedules for 1 optimizers"):
            make_trainer(source, schedules=[None, None])


def test_batch_norm_in_microbatches_cannot_keep_the_promise_of_exactness(data):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.BatchNorm1d(6), TwoHeads()

        def forward(self, x):
            return self.inner(self.norm(x))

    with make_source(data) as source:

        def make(**options):
            model = Normed().double()
            return Trainer(model, [CLASS, FIT], sgd(model), source, 9, inputs="x", **options)

        with pytest.raises(ValueError, match=r"microbatches of 3.*norm.*promise='data'"):
            make(microbatch_size=3)
        make(microbatch_size=3, promise="data").train_minibatch()
        make(microbatch_size=9).train_minibatch()
        make().train_minibatch()
        with pytest.raises(ValueError, match="leaf by leaf"):
            make(promise="bits")


def test_a_model_needs_one_device(data):
    with make_source(data) as source:
        model = nn.Linear(2, 2)
        with pytest.raises(ValueError, match="one device"):
            Trainer(nn.Identity(), CLASS, sgd(model), source, 9)
        model.weight = nn.Parameter(torch.zeros(2, 2, device="meta"))
        with pytest.raises(ValueError, match="one device"):
            Trainer(model, CLASS, sgd(model), source, 9)


def test_results_read_like_mappings(data):
    with make_source(data) as source:
        result = make_trainer(source).train_minibatch()
    assert list(result) == ["total_loss", "class", "fit"]
    assert len(result) == 3
    assert "StepResult(step=1, interval=(0, 9)" in repr(result)
    with pytest.raises(KeyError, match="no term of this run; there are total_loss, class, fit"):
        result["accuracy"]


def test_dropout_follows_the_seed_of_the_run_and_the_name_of_the_layer(data):
    def losses(**options):
        with make_source(data) as source:
            return [make_trainer(source, **options).train_minibatch()["total_loss"]]

    assert losses() == losses(seed=5)
    assert losses() != losses(seed=6)


def test_a_model_in_eval_mode_stays_there(data):
    with make_source(data) as source:
        model = MLP(sizes=(6, 4, 3), dropout=0.9).double().eval()
        Trainer(model, Term("c", on(cross_entropy, "label")), sgd(model), source, 9, inputs="x").train_minibatch()
        assert not any(module.training for module in model.modules())
        assert any(isinstance(module, Dropout) for module in model.modules())


def test_fit_counts_from_zero_and_gives_the_reason_for_ending(data):
    with make_source(data) as source:
        trainer = make_trainer(source)
        assert trainer.fit(max_samples=20).stopped == "max_samples"
        assert (trainer.nominal_time, trainer.step) == (20, 3)
        ended = trainer.fit(max_samples=100, callbacks=[lambda t, r: "enough" if r.step == 5 else None])
        assert (ended.stopped, ended.step, ended.nominal_time) == ("enough", 5, 38)
        assert trainer.fit(max_sweeps=2).nominal_time == 106
        assert trainer.fit(max_samples=50).nominal_time == 106
    with make_source(data, max_samples=40) as source:
        ended = make_trainer(source).fit(max_samples=1000)
        assert (ended.stopped, ended.nominal_time) == ("the axis has ended", 40)
    for wrong in ({"max_samples": 0}, {"save_every": 1.5}, {"max_sweeps": -1}):
        with make_source(data) as source, pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            make_trainer(source).fit(**wrong)
    with pytest.raises(ValueError, match="max_sweeps"):
        make_trainer(None).fit(max_sweeps=1)
    for missing, needed in (("validate_every", "validation="), ("save_every", "folder=")):
        with pytest.raises(ValueError, match=f"{missing}= needs.*{needed}"):
            make_trainer(None).fit(max_samples=10, **{missing: 5})


def test_the_last_short_step_of_fit_keeps_the_nominal_denominator(data):
    with make_source(data) as source:
        terms = [Term("c", CLASS.loss, denominator="nominal"), Term("fit", FIT.loss)]
        seen = []
        make_trainer(source, terms=terms).fit(max_samples=20, callbacks=[lambda t, r: seen.append(r.denominators)])
    assert seen == [(9.0, 9.0), (9.0, 9.0), (9.0, 2.0)]


def test_validations_and_checkpoints_come_where_a_multiple_is_crossed(data, tmp_path):
    with make_source(data) as source:
        trainer = make_trainer(source, validation=data, folder=tmp_path / "run")
        ended = trainer.fit(max_samples=60, validate_every=20, save_every=25)
        trainer.close()
    assert ended.validation.nominal_time == 60
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["t-000000000027", "t-000000000054", "t-000000000060"]
    lines = (tmp_path / "run" / "validation.jsonl").read_text().splitlines()
    assert [line.split('"t": ')[1].split(",")[0] for line in lines] == ["27", "45", "60"]


@pytest.mark.parametrize(
    ("option", "message"), [("save_every", "pass folder="), ("validate_every", "pass validation=")]
)
def test_what_fit_will_need_later_is_asked_for_before_the_first_step(data, option, message):
    with make_source(data) as source:
        trainer = make_trainer(source)
        with pytest.raises(ValueError, match=message):
            trainer.fit(max_samples=10_000, **{option: 9_000})
        assert trainer.step == 0


def test_a_loss_in_which_every_output_met_every_target_is_refused(data):
    """Outputs (n, 1) less targets (n,) are (n, n) in torch: it trains, and learns something else."""
    model = nn.Linear(6, 1).double()
    crossed = Term("fit", lambda outputs, batch: (outputs - batch["target"][:, 0]) ** 2)
    with make_source(data) as source:
        trainer = Trainer(model, crossed, sgd(model), source, 9, inputs="x")
        with pytest.raises(ValueError, match=r"every output met every target.*outputs.squeeze\(1\)"):
            trainer.train_minibatch()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.float16, np.bool_])
def test_weights_of_any_dtype_weigh_the_same(dtype):
    outputs = torch.nn.Parameter(torch.arange(4.0, dtype=torch.float64))
    weights = np.array([1, 0, 1, 1]).astype(dtype)
    term = Term("it", lambda out, batch: out, weight="w", mask="m")
    model = nn.ParameterList([outputs])
    trainer = Trainer(model, term, sgd(model), None, 4, inputs=lambda model, batch: model[0])
    result = trainer.train_minibatch({"w": weights, "m": np.array([1, 1, 1, 0]).astype(dtype)})
    assert result["it"] == 1.0  # (0 + 2) / 2
    assert outputs.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


def test_after_ctrl_c_in_the_middle_of_a_step_half_of_it_is_neither_continued_nor_saved(data, tmp_path):
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / "one")
        whole = parameters_digest(trainer.model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.optimizers[0], "step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                trainer.train_minibatch()
        for attempt in (trainer.train_minibatch, lambda: trainer.save_checkpoint(tmp_path / "two")):
            with pytest.raises(TrainingError, match=r"step 2 was interrupted in its middle.*restore_from_checkpoint"):
                attempt()
        assert not (tmp_path / "two").exists()
        trainer.restore_from_checkpoint(tmp_path / "one")
        assert parameters_digest(trainer.model) == whole
        assert trainer.train_minibatch().interval == (9, 18)


@pytest.mark.parametrize("moment", ["the reading", "the forward pass"])
def test_after_ctrl_c_before_weights_change_the_step_is_taken_again(data, moment):
    with make_source(data) as source:
        trainer = make_trainer(source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                *((source, "next_minibatch") if moment == "the reading" else (trainer.model, "forward")), interrupted
            )
            with pytest.raises(KeyboardInterrupt):
                trainer.train_minibatch()
        assert trainer.train_minibatch().interval == (0, 9)


def test_clip_may_be_none_and_what_is_no_way_of_clipping_is_refused(data):
    with make_source(data) as source:
        assert make_trainer(source, clip=None, clip_grad_norm=None).train_minibatch().clipped is None
        for wrong in (3, [3], "norm"):
            with pytest.raises(TypeError, match=r"clip=.*expected values like ClipNorm\(1\.0\)"):
                make_trainer(source, clip=wrong)


class Failing:
    """Clips nothing, and fails where it is told to."""

    def __init__(self, error):
        self.error = error

    def __call__(self, gradients, norm=None, *, samples=None):
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("kind", ["regularizer", "clip", "ctrl-c in a clip"])
def test_what_is_raised_before_weights_move_leaves_all_as_before_the_step(data, tmp_path, kind):
    """Source and Trainer go on as if the step had not been tried; its statistics of normalisation are put back."""
    rate, clip = [0.1], Failing(None)

    def make(source, **options):
        model = nn.Sequential(nn.BatchNorm1d(6), TwoHeads()).double()
        return Trainer(model, FIT, sgd(model), source, 9, inputs="x", check_unreached=False, **options)

    with make_source(data) as source:
        plain = make(source, regularizers=[WeightL2(coefficient=0.1)])
        expected = [(plain.train_minibatch(), parameters_digest(plain.model))[1] for _ in range(2)]
        source.seek(0)
        trainer = make(source, regularizers=[WeightL2(coefficient=lambda t: rate[0])], clip=clip)
        trainer.train_minibatch()
        if kind == "regularizer":
            rate[0] = math.nan
        else:
            clip.error = RuntimeError("user") if kind == "clip" else KeyboardInterrupt("user")
        with pytest.raises((ValueError, RuntimeError, KeyboardInterrupt), match=r"WeightL2|user"):
            trainer.train_minibatch()
        assert (trainer.step, trainer.nominal_time, source.nominal_time) == (1, 9, 9)
        assert parameters_digest(trainer.model) == expected[0]
        trainer.save_checkpoint(tmp_path / "saved")
        rate[0], clip.error = 0.1, None
        assert trainer.train_minibatch().interval == (9, 18)
        assert parameters_digest(trainer.model) == expected[1]


def test_after_ctrl_c_behind_the_reading_the_same_samples_come_again(data):
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.train_minibatch()
        take = trainer.streams.take

        def taken_then_interrupted(size):
            take(size)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.streams, "take", taken_then_interrupted)
            with pytest.raises(KeyboardInterrupt):
                trainer.train_minibatch()
        assert trainer.train_minibatch().interval == (9, 18)


def test_a_function_that_draws_is_refused_at_every_attempt(data):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = TwoHeads().double()

        def forward(self, x):
            return self.heads(nn.functional.dropout(x, 0.5))

    with make_source(data) as source:
        model = Dropped()
        trainer = Trainer(model, FIT, sgd(model), source, 9, inputs="x", check_unreached=False)
        before = parameters_digest(model)
        for _ in range(3):
            with pytest.raises(ValueError, match="global generator"):
                trainer.train_minibatch()
        assert parameters_digest(model) == before
        assert trainer.nominal_time == 0

"""Batch normalisation: what each policy computes, and which promise it keeps."""

import pytest
import torch
from torch import nn

from minibatch.train import Term, Trainer, mse, on, parameters_digest
from tests.train.small import FEATURES, make_source, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("statistics") / "data")


def make_model(dtype=torch.float64, **options):
    model = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5, **options), nn.Linear(5, 2)).to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape) * (0.5 + 0.1 * number))
    return model


def make_trainer(source, model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dtype = next(model.parameters()).dtype

    def call(model, batch):
        return model(batch["x"].to(dtype))

    term = Term("fit", lambda outputs, batch: mse(outputs, batch["target"].to(dtype)))
    return Trainer(model, term, optimizer, source, 16, inputs=call, **options)


def test_leaves_are_normalised_each_by_itself_and_count_as_one_update(data):
    with make_source(data) as source:
        model, reference = make_model(momentum=0.2), make_model(momentum=0.2)
        batch = source.next_minibatch(16)
        source.seek(0)
        x = torch.tensor(batch["x"])
        hidden = reference[0](x).detach()
        leaves = hidden.split(4)
        mean = torch.stack([leaf.mean(0) for leaf in leaves]).mean(0)
        variance = torch.stack([leaf.var(0) for leaf in leaves]).mean(0)
        pairs = zip(x.split(4), torch.tensor(batch["target"]).split(4), strict=True)
        loss = sum(mse(reference(leaf), t).sum() for leaf, t in pairs)
        result = make_trainer(source, model, batch_norm="leaf", leaf_size=4).train_minibatch()
    assert result["fit"] == pytest.approx(loss.item() / 16, rel=1e-12)
    torch.testing.assert_close(model[1].running_mean, 0.2 * mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model[1].running_var, 0.8 * torch.ones(5).double() + 0.2 * variance)
    assert model[1].num_batches_tracked == 1
    assert model[1].momentum == 0.2


@pytest.mark.parametrize("microbatch", [4, 8, None])
def test_with_leaves_microbatches_and_order_change_no_bit(data, microbatch):
    digests = set()
    for order in (list, lambda cuts: cuts[::-1]):
        with make_source(data) as source:
            model = make_model(torch.float32)
            trainer = make_trainer(
                source, model, promise="bits", batch_norm="leaf", leaf_size=4, microbatch_size=microbatch
            )
            trainer.gradient.order = order
            for _ in range(6):
                trainer.train_minibatch()
            digests.add(parameters_digest(model))
    assert len(digests) == 1


def test_a_cumulative_average_counts_steps_not_leaves(data):
    with make_source(data) as source:
        model = make_model(momentum=None)
        trainer = make_trainer(source, model, batch_norm="leaf", leaf_size=4)
        means = []
        for _ in range(3):
            start = source.nominal_time
            hidden = model[0](torch.tensor(source.next_minibatch(16)["x"])).detach()
            source.seek(start)
            means.append(torch.stack([leaf.mean(0) for leaf in hidden.split(4)]).mean(0))
            trainer.train_minibatch()
        torch.testing.assert_close(model[1].running_mean, torch.stack(means).mean(0), rtol=1e-12, atol=1e-14)


def test_frozen_statistics_stay_while_gains_learn(data):
    with make_source(data) as source:
        model = make_model()
        gain = model[1].weight.detach().clone()
        trainer = make_trainer(source, model, batch_norm="frozen", promise="bits", leaf_size=4)
        for _ in range(3):
            trainer.train_minibatch()
        assert model[1].running_mean.tolist() == [0.0] * 5
        assert not torch.equal(model[1].weight, gain)


def test_sync_needs_the_whole_minibatch_at_once(data):
    with make_source(data) as source:
        make_trainer(source, make_model(), batch_norm="sync").train_minibatch()
        with pytest.raises(ValueError, match="microbatch_size=4 cuts it"):
            make_trainer(source, make_model(), batch_norm="sync", microbatch_size=4)
        with pytest.raises(ValueError, match="leaf by leaf"):
            make_trainer(source, make_model(), batch_norm="sync", promise="bits")


def test_a_step_that_is_not_finite_leaves_the_statistics_alone(data):
    with make_source(data) as source:
        model = make_model()
        trainer = make_trainer(source, model, batch_norm="leaf", leaf_size=4, on_nonfinite="skip")
        trainer.train_minibatch()
        before = parameters_digest(model)
        bad = {"x": torch.full((8, FEATURES), torch.nan).numpy(), "target": torch.zeros(8, 2).numpy()}
        assert not trainer.train_minibatch(bad).finite
        assert parameters_digest(model) == before
        assert model[1].momentum == 0.1
        assert trainer.train_minibatch().finite


def test_an_unknown_policy_is_refused(data):
    with make_source(data) as source, pytest.raises(ValueError, match="batch_norm='ghost'"):
        make_trainer(source, make_model(), batch_norm="ghost")


def test_a_term_on_a_frozen_layer_still_finds_its_parameters(data):
    with make_source(data) as source:
        model = make_model()
        trainer = Trainer(model, Term("fit", on(mse, "target")), torch.optim.SGD(model.parameters(), lr=0.1), source, 8,
                          inputs="x", batch_norm="frozen")  # fmt: skip
        assert trainer.train_minibatch().updated


def test_leaves_larger_than_microbatches_are_refused(data):
    """A leaf is computed at once: a smaller microbatch would not be what goes through the model."""
    with make_source(data) as source:
        with pytest.raises(ValueError, match=r"microbatch_size=4 is smaller than a leaf of 8.*batch_norm='leaf'"):
            make_trainer(source, make_model(), batch_norm="leaf", leaf_size=8, microbatch_size=4)
        make_trainer(source, make_model(), batch_norm="leaf", leaf_size=4, microbatch_size=4).train_minibatch()


@pytest.mark.parametrize("promise", ["math", "data"])
def test_sync_is_refused_for_cut_minibatches_whatever_is_promised(data, promise):
    with make_source(data) as source, pytest.raises(ValueError, match=r"batch_norm='sync'.*microbatch_size=4 cuts it"):
        make_trainer(source, make_model(), batch_norm="sync", microbatch_size=4, promise=promise)


def test_frozen_statistics_stay_so_after_the_model_is_set_to_train_again(data):
    with make_source(data) as source:
        model = make_model()
        trainer = make_trainer(source, model, batch_norm="frozen", promise="bits", leaf_size=4)
        trainer.train_minibatch()
        model.eval()
        model.train()
        trainer.train_minibatch()
        assert model[1].running_mean.tolist() == [0.0] * 5
        assert model[1].num_batches_tracked == 0


def test_layers_that_normalise_each_sample_and_keep_running_statistics_are_layers_with_statistics(data):
    def make():
        layers = (nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(FEATURES, 2)).double()

    with make_source(data) as source:
        with pytest.raises(ValueError, match="the layers 1 would use statistics of 4 samples"):
            make_trainer(source, make(), microbatch_size=4)
        with pytest.raises(ValueError, match=r"the layers 1 .*promise='bits'"):
            make_trainer(source, make(), promise="bits")
        whole, leaves, frozen = make(), make(), make()
        for model, options in (
            (whole, {}),
            (leaves, {"batch_norm": "leaf", "leaf_size": 4}),
            (frozen, {"batch_norm": "frozen", "microbatch_size": 4}),
        ):
            source.seek(0)
            make_trainer(source, model, **options).train_minibatch()
        torch.testing.assert_close(leaves[1].running_mean, whole[1].running_mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(leaves[1].running_var, whole[1].running_var, rtol=1e-12, atol=1e-14)
        assert whole[1].running_mean.any()
        assert not frozen[1].running_mean.any()


def test_a_step_leaves_no_hook_on_the_layers(data):
    model = make_model()
    for _ in range(2):
        with make_source(data) as source:
            trainer = make_trainer(source, model, batch_norm="leaf", leaf_size=4)
            assert not model[1]._forward_hooks
            trainer.train_minibatch()
            assert not model[1]._forward_hooks

"""Cutting at a named layer: the same numbers as the layer gives inside, the same names, and clear refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minibatch.models import MLP, FeedForward
from minibatch.models.cut import NewHead, cut
from minibatch.models.fast_convnet import FastConvNet
from minibatch.models.noise import Dropout, bind

IMAGES = torch.arange(4 * 32 * 32 * 3).view(4, 32, 32, 3).remainder(251).to(torch.uint8)
LAYERS = ["whitening", "stage1", "stage2.conv1", "stage2.norm2", "stage3", "head"]


def seen_at(model: nn.Module, name: str, *inputs: torch.Tensor) -> torch.Tensor:
    """What the layer gives inside the model."""
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, given, output: found.append(output))
    model(*inputs)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_part_gives_what_the_layer_gives(name, training):
    model = FastConvNet(widths=(26, 8, 12), seed=1).train(training)
    whole = copy.deepcopy(model)
    part = cut(model, name)
    assert part.training is training
    assert torch.equal(part(IMAGES), seen_at(whole, name, IMAGES))
    for key, tensor in part.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[key]), (
            "statistics of norms have moved alike, under the same names"
        )


def test_what_comes_after_is_gone_and_what_is_left_is_shared_and_learns():
    model = FastConvNet(widths=(26, 8, 12), seed=1)
    part = cut(model, "stage2.conv1")
    before = {"mean", "std", "whitening.weight", "whitening.bias", "stage2.conv1.weight"}
    stage1 = {f"stage1.{name}" for name in model.stage1.state_dict()}
    assert set(part.state_dict()) == before | stage1
    part(IMAGES).square().mean().backward()
    assert model.stage1.conv1.weight.grad is not None
    assert model.stage3.conv1.weight.grad is None


class Nested(nn.Module):
    """A transformer's layer, which torch.fx takes as a whole, with a residual path around it; and branches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.block = nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)])
        self.unused = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.block:
            x = x + block(x)
        return self.out(x.mean(1))


def test_tokens_are_averaged_and_layers_beside_the_path_are_left_out():
    model = Nested()
    x = torch.arange(2 * 5 * 4.0).view(2, 5, 4)
    part = cut(model, "block.1")
    assert torch.equal(part(x), seen_at(model, "block.1", x))
    assert not any(name.startswith(("out", "unused")) for name in part.state_dict())
    net = NewHead(model, after="block.1", outputs=2, sample=x[:1], seed=3)
    features = seen_at(model, "block.1", x).mean(1)
    torch.testing.assert_close(net(x), features @ net.head.weight.T + net.head.bias)


def test_keyed_noise_stays_what_it_is():
    model = MLP(sizes=(6, 8, 8, 3), dropout=0.5, seed=1)
    part = cut(model, "layers.4")
    assert [name for name, module in part.named_modules() if isinstance(module, Dropout)] == ["layers.2"]
    x, times = torch.ones(4, 6), torch.arange(4)
    with bind(part, lambda name: 7).at(times):
        found = part(x)
    with bind(model, lambda name: 7).at(times):
        assert torch.equal(found, seen_at(model, "layers.4", x))
    assert (found == 0).any()


def test_the_head_is_a_function_of_its_seed_and_as_wide_as_the_layer():
    nets = [
        NewHead(FastConvNet(widths=(26, 8, 12), seed=1), after="stage2", outputs=5, sample=IMAGES[:1], seed=seed)
        for seed in (1, 1, 2)
    ]
    assert nets[0].head.weight.shape == (5, 8)
    assert torch.equal(nets[0].head.weight, nets[1].head.weight)
    assert not torch.equal(nets[0].head.weight, nets[2].head.weight)
    assert nets[0].training
    assert nets[0].body.stage1.norm1.num_batches_tracked == 0, "reading off the width is no step"


def test_flat_features_go_to_the_head_as_they_are():
    net = NewHead(MLP(sizes=(6, 5, 3), seed=1), after="layers.1", outputs=2, sample=torch.ones(1, 6), seed=1)
    assert net(torch.ones(4, 6)).shape == (4, 2)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.dropout(self.a(x), 0.5, training=self.training))


class Branching(nn.Module):
    """Cannot be traced, and need not be where it is beside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x.sum() > 0 else x


class Repeating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.a(x))


@pytest.mark.parametrize(
    ("model", "after", "message"),
    [
        (Functional(), "c", "Functional has no layer 'c' to cut at; it has a, b"),
        (Functional(), "b", "functions that differ in training"),
        (Branching(), "a", "cannot be traced by torch.fx"),
        (Repeating(), "a", "calls the layer 'a' 2 times"),
        (Repeating(), "b", "calls the layer 'b' 0 times"),
        (FeedForward((6, 5, 3), seed=1), "hid1", r"torch.fx writes it as Python.* self\.in\("),
    ],
)
def test_what_cannot_be_cut_is_refused(model, after, message):
    with pytest.raises(ValueError, match=message):
        cut(model, after)
    assert model.training


def test_functions_behind_the_cut_and_inside_other_modules_do_not_matter():
    assert cut(Functional(), "a")(torch.ones(2, 3)).shape == (2, 3)
    model = nn.Sequential(Branching(), Functional(), nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    x = torch.ones(2, 3)
    part = cut(model, "2")
    assert torch.equal(part(x), seen_at(model, "2", x))
    part.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert not torch.equal(part(x), part(x)), "its dropout follows the mode"


def test_outputs_that_a_head_cannot_take_are_refused():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 1, 1, 2, 3)), nn.Flatten())
    with pytest.raises(ValueError, match=r"the layer '1' gives \(1, 1, 1, 2, 3\); a new head takes"):
        NewHead(model, after="1", outputs=2, sample=torch.ones(2, 3))

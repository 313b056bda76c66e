"""Recurrent nets against a twin that goes step by step; padding and company change nothing; noise is keyed."""

import numpy as np
import pytest
import torch

from minibatch.models.noise import bind
from minibatch.models.recurrent import Recurrent, places, strongest
from minibatch.models.tagger import Tagger
from minibatch.models.two_towers import TwoTowers
from tests.plain import recurrent as plain

WORDS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 0, 0, 0], [6, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 2, 1])


def recurrent(**options):
    return Recurrent(**{"words": 9, "embedding": 4, "hidden": 3, "layers": 2, "seed": 7, **options}).double().eval()


def test_states_are_those_of_the_twin():
    model = recurrent()
    with torch.no_grad():
        for layer in model.layers:  # biases begin at 0, where a wrong one would not be seen
            for number, parameter in enumerate(layer.parameters()):
                parameter += 0.1 * torch.arange(parameter.numel()).view(parameter.shape).cos() * (number + 1)
        states = model(WORDS, LENGTHS).numpy()
    embedding = model.embedding.weight.detach().numpy()
    for words, length, found in zip(WORDS.numpy(), LENGTHS.tolist(), states, strict=True):
        expected = embedding[words[:length]]
        for layer in model.layers:
            weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
            expected = plain.both_directions(expected, weights)
        assert np.allclose(found[:length], expected, rtol=1e-12)
        assert (found[length:] == 0).all()


def test_padding_and_company_change_nothing():
    model = recurrent()
    whole = model(WORDS, LENGTHS)
    other = WORDS.where(places(LENGTHS, 5), 8)
    assert torch.equal(model(other, LENGTHS), whole)
    for row in range(3):
        alone = model(WORDS[row : row + 1, : LENGTHS[row]], LENGTHS[row : row + 1])
        assert torch.allclose(alone[0], whole[row, : LENGTHS[row]], rtol=1e-12, atol=0)


def test_an_empty_sequence_has_zeros_and_finite_gradients():
    model = recurrent().train()
    states = model(WORDS, torch.tensor([5, 0, 1]))
    assert (states[1] == 0).all()
    most = strongest(states, torch.tensor([5, 0, 1]))
    assert (most[1] == 0).all()
    most.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert (model.embedding.weight.grad[7] == 0).all()


def test_strongest_is_the_largest_inside():
    states = -torch.arange(1.0, 13.0).view(2, 3, 2)
    assert strongest(states, torch.tensor([3, 1])).tolist() == [[-1, -2], [-7, -8]]
    states[1, 1:] = 100.0
    assert strongest(states, torch.tensor([2, 1])).tolist() == [[-1, -2], [-7, -8]]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Recurrent(words=9, embedding=4, hidden=3, layers=2, seed=seed),
        lambda seed: Tagger(words=9, intents=2, slots=3, embedding=4, hidden=3, seed=seed),
        lambda seed: TwoTowers(first_words=9, second_words=9, embedding=4, hidden=3, size=5, seed=seed),
    ],
)
def test_first_weights_are_a_function_of_the_seed_and_draw_from_no_global_generator(make):
    before = torch.get_rng_state()
    one, again, other = make(1), make(1), make(2)
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        assert torch.isfinite(parameter).all()
        if "bias" in name:
            assert (parameter == 0).all()
        else:
            assert not torch.equal(parameter, other.get_parameter(name))
            assert parameter.std() > 0.05


def test_word_dropout_takes_whole_words_by_nominal_time():
    model = recurrent(word_dropout=0.5, layers=1).train()
    seen = []
    model.layers[0].register_forward_hook(lambda module, given, output: seen.append(given[0].data))
    keys = bind(model, lambda name: 7)
    with keys.at(torch.arange(3)):
        model(WORDS, LENGTHS)
    with keys.at(torch.arange(3)):
        model(torch.nn.functional.pad(WORDS, (0, 4)), LENGTHS)
    assert torch.equal(seen[0], seen[1])
    zero = (seen[0] == 0).all(1)
    assert ((seen[0] == 0).any(1) == zero).all()
    assert 0 < zero.sum() < 8


def test_a_tagger_gives_each_head_the_same_states():
    model = Tagger(words=9, intents=2, slots=4, embedding=4, hidden=3, seed=1).double().eval()
    outputs = model(WORDS, LENGTHS)
    states = model.encoder(WORDS, LENGTHS)
    intent, slots = model.heads["intent"].linear, model.heads["slots"].linear
    for row, length in enumerate(LENGTHS):
        assert torch.allclose(outputs["intent"][row], intent(states[row, :length].amax(0)), rtol=1e-12)
        for place in range(length):
            assert torch.allclose(outputs["slots"][row, :, place], slots(states[row, place]), rtol=1e-12)


def test_towers_share_nothing_and_give_vectors_of_length_1():
    model = TwoTowers(first_words=9, second_words=9, embedding=4, hidden=3, size=5, seed=1).double().eval()
    vectors = model(WORDS, LENGTHS, WORDS, LENGTHS)
    for vector in vectors.values():
        assert torch.allclose(vector.norm(dim=1), torch.ones(3, dtype=torch.float64), rtol=1e-12)
    assert not torch.allclose(vectors["first"], vectors["second"])
    vectors["first"].sum().backward()
    assert all(parameter.grad is None for parameter in model.second.parameters())
    assert all(parameter.grad is not None for parameter in model.first.parameters())


def test_sizes_that_make_no_net_are_refused():
    with pytest.raises(ValueError, match="hidden=0"):
        recurrent(hidden=0)

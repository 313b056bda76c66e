"""The GPT is its plain twin, and packing sequences into rows changes nothing of what it says about them."""

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models import noise
from minibatch.models.gpt import GPT, visible
from tests.plain import gpt as plain

LAYERS, HEADS, WIDTH, VOCABULARY = 2, 2, 12, 11


def model_of(*, dropout=0.0, seed=3, scale=8.0):
    """A net whose first weights are large enough for attention to matter."""
    model = GPT(vocabulary=VOCABULARY, layers=LAYERS, heads=HEADS, width=WIDTH, dropout=dropout, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    return model.double()


def tokens_of(*shape, seed=1):
    count = int(np.prod(shape))
    return torch.tensor(rng.integers(rng.key(seed, "tokens"), np.arange(count), VOCABULARY)).view(shape)


def test_it_is_its_plain_twin_with_and_without_segments():
    model = model_of().eval()
    tokens = tokens_of(2, 9)
    segment_ids = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 3, 3], [1, 1, 0, 0, 2, 2, 2, 2, 0]])
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for ids, given in ((torch.ones_like(tokens), None), (segment_ids, segment_ids)):
        logits = model(tokens, given).detach().numpy()
        for row in range(2):
            expected = plain.gpt(tokens[row].numpy(), ids[row].numpy(), state, layers=LAYERS, heads=HEADS)
            np.testing.assert_allclose(logits[row], expected, rtol=1e-9, atol=1e-9)


def test_sequences_packed_into_a_row_get_the_logits_they_get_alone():
    model = model_of().eval()
    lengths = [5, 1, 7]
    sequences = [tokens_of(1, length, seed=length) for length in lengths]
    ids = torch.repeat_interleave(torch.arange(1, 4), torch.tensor(lengths)).unsqueeze(0)
    packed = model(torch.cat(sequences, 1), ids)[0].split(lengths)
    for sequence, logits in zip(sequences, packed, strict=True):
        torch.testing.assert_close(logits, model(sequence)[0], rtol=1e-10, atol=1e-10)


def test_no_token_sees_what_comes_later_or_another_sequence():
    model = model_of().eval()
    tokens, ids = tokens_of(1, 8), torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    before = model(tokens, ids)[0]
    other = tokens.clone()
    other[0, 2] = (tokens[0, 2] + 1) % VOCABULARY
    changed = (model(other, ids)[0] != before).any(1).tolist()
    assert changed == [False, False, True, True, False, False, False, False]
    assert (model(other)[0] != model(tokens)[0]).any(1).tolist() == [False] * 2 + [True] * 6


def test_padding_gives_finite_gradients():
    model = model_of()
    ids = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    model(tokens_of(2, 4), ids)[ids > 0].sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_visible_is_the_lower_triangle_of_each_segment():
    seen = visible(torch.tensor([[1, 1, 2, 0, 0]]))[0, 0]
    places = [(int(q), int(k)) for q, k in seen.nonzero()]
    assert places == [(0, 0), (1, 0), (1, 1), (2, 2), (3, 3), (4, 3), (4, 4)]


def test_bfloat16_is_near_float32_and_attention_is_float32_on_the_cpu():
    model = GPT(vocabulary=VOCABULARY, layers=LAYERS, heads=HEADS, width=WIDTH, seed=3)
    tokens = tokens_of(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(tokens, torch.ones_like(tokens))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), model(tokens), rtol=0.05, atol=0.02)
    low.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_first_weights_are_a_function_of_the_seed_and_of_the_rule_in_the_docstring():
    state = torch.get_rng_state()
    one, same, other = (GPT(vocabulary=65, layers=4, heads=4, width=128, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert one.blocks[2].hidden.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert one.blocks[2].hidden_out.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.02)
    assert bool((one.norm.weight == 1).all())


def test_dropout_is_keyed_to_the_row_and_not_to_the_minibatch():
    model = model_of(dropout=0.3)
    keys = noise.bind(model, lambda name: rng.key(1, name))
    tokens, times = tokens_of(4, 6), torch.arange(4) * 6
    with keys.at(times):
        whole = model(tokens)
    with keys.at(times[1:3]):
        part = model(tokens[1:3])
    torch.testing.assert_close(part, whole[1:3], rtol=1e-12, atol=1e-12)
    with keys.at(times + 6):
        assert not torch.allclose(model(tokens), whole)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"heads": 5}, "multiple of 2 · heads = 10"), ({"layers": 0}, "layers=0"), ({"vocabulary": -1}, "vocabulary=-1")],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        GPT(**{"vocabulary": 5, "layers": 1, "heads": 2, "width": 12, **options})


def test_what_are_no_tokens_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match=r"integers; got torch.float64 \(2, 3\)"):
        model(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        model(torch.zeros(3, dtype=torch.int64))

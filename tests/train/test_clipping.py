"""Clips against their formulas in plain NumPy, in place, for all types, with what is not finite passing through."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.train.clipping import ClipElement, ClipNorm, ClipPerSample, ClipTensorNorm

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ALL = [ClipNorm(1.0), ClipTensorNorm(1.0), ClipElement(1.0), ClipPerSample(0.25), ClipPerSample(0.25, truncate=False)]


def plain(clip, gradients, samples):
    """What the documents say, one tensor after the other."""
    if isinstance(clip, ClipNorm):
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        return [g * min(1.0, clip.limit / norm) if norm else g for g in gradients]
    limit = clip.limit * samples if isinstance(clip, ClipPerSample) else clip.limit
    if isinstance(clip, ClipElement) or (isinstance(clip, ClipPerSample) and clip.truncate):
        return [np.clip(g, -limit, limit) for g in gradients]
    norms = [np.sqrt((g**2).sum()) for g in gradients]
    return [g * min(1.0, limit / norm) if norm else g for g, norm in zip(gradients, norms, strict=True)]


def norm_of(gradients, form):
    norm = torch.linalg.vector_norm(torch.cat([g.flatten().double() for g in gradients]))
    return {"none": None, "float": norm.item(), "tensor": norm}[form]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=6), min_size=1, max_size=5),
    clip=st.sampled_from(ALL),
    form=st.sampled_from(["none", "float", "tensor"]),
)
def test_clips_are_their_formulas(values, clip, form):
    arrays = [np.array(each) for each in values]
    gradients = [torch.tensor(each, dtype=torch.float64) for each in values]
    places = [g.data_ptr() for g in gradients]
    assert clip(gradients, norm_of(gradients, form), samples=4) is None
    for mine, expected in zip(gradients, plain(clip, arrays, 4), strict=True):
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-12, atol=1e-300)
    assert [g.data_ptr() for g in gradients] == places


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["none", "float", "tensor"])
@pytest.mark.parametrize("clip", ALL, ids=repr)
def test_every_type_is_clipped_and_stays_what_it_is(clip, form, dtype, device):
    arrays = [np.full((40, 50), 0.5), np.array([-3.0, 0.25]), np.array(2.0)]
    gradients = [torch.tensor(a, dtype=dtype, device=device) for a in arrays]
    clip(gradients, norm_of(gradients, form), samples=4)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for mine, expected in zip(gradients, plain(clip, arrays, 4), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.double().cpu().numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize("clip", ALL, ids=repr)
def test_types_can_be_mixed(clip):
    arrays = [np.full(7, 3.0), np.full(5, 2.0), np.full(2, 1.5)]
    gradients = [torch.tensor(a, dtype=d) for a, d in zip(arrays, (torch.float32, torch.bfloat16, torch.float64),
                                                          strict=True)]  # fmt: skip
    clip(gradients, None, samples=4)
    for mine, expected in zip(gradients, plain(clip, arrays, 4), strict=True):
        np.testing.assert_allclose(mine.double().numpy(), expected, rtol=1e-2)


@pytest.mark.parametrize("form", ["none", "float", "tensor"])
@pytest.mark.parametrize("clip", ALL, ids=repr)
def test_nan_stays_nan(clip, form):
    gradients = [torch.tensor([1.0, float("nan"), 2.0]), torch.tensor([5.0])]
    clip(gradients, norm_of(gradients, form), samples=4)
    assert gradients[0][1].isnan()


@pytest.mark.parametrize("form", ["none", "float", "tensor"])
@pytest.mark.parametrize("clip", ALL, ids=repr)
def test_small_gradients_and_zeros_keep_their_bits(clip, form):
    gradients = [torch.tensor([0.1, -0.2, 1e-30]), torch.zeros(3), torch.zeros(0)]
    before = [g.clone() for g in gradients]
    clip(gradients, norm_of(gradients, form), samples=4)
    assert all(torch.equal(g, old) for g, old in zip(gradients, before, strict=True))
    clip([], None, samples=4)


@pytest.mark.parametrize("kind", [ClipNorm, ClipTensorNorm, ClipElement, ClipPerSample])
@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_limits_that_cannot_be_meant_are_refused(kind, limit):
    with pytest.raises(ValueError, match=f"{kind.__name__}: limit={limit!r}"):
        kind(limit)


def test_clipping_by_samples_needs_their_number():
    with pytest.raises(TypeError, match="samples="):
        ClipPerSample(1.0)([torch.ones(1)], 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clip", ALL, ids=repr)
def test_no_clip_waits_for_the_device(clip):
    gradients = [torch.ones(10, device="cuda"), torch.ones(3, device="cuda")]
    norm = torch.linalg.vector_norm(torch.cat(gradients))
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip(gradients, norm, samples=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")

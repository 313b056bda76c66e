"""Digests tell apart what differs in name, dtype, shape or a single bit, and nothing else."""

import itertools

import torch
from torch import nn

from minibatch.train.digest import file_digest, parameters_digest, tensors_digest


def test_every_difference_is_seen():
    base = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.zeros(2)}
    others = [
        base,
        {"a": base["a"], "c": base["b"]},
        {**base, "a": base["a"].view(2, 2)},
        {**base, "a": base["a"].view(torch.int32)},
        {**base, "a": torch.nextafter(base["a"], torch.tensor(9.0))},
        {**base, "b": -base["b"]},
        {**base, "b": base["b"].double()},
        {**base, "c": torch.zeros(0)},
        {"a": base["b"], "b": base["a"]},
        {},
    ]
    digests = [tensors_digest(tensors) for tensors in others]
    for one, other in itertools.combinations(digests, 2):
        assert one != other


def test_order_and_layout_do_not_matter():
    a, b = torch.arange(6.0).view(2, 3), torch.ones(1, dtype=torch.bfloat16)
    columns = a.T.contiguous().T
    assert not columns.is_contiguous()
    assert tensors_digest({"a": a, "b": b}) == tensors_digest({"b": b, "a": columns})


def test_buffers_belong_to_a_model():
    model = nn.BatchNorm1d(3)
    before = parameters_digest(model)
    model.running_mean += 1
    assert parameters_digest(model) != before


def test_files(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)
    (tmp_path / "b").write_bytes(b"x" * 4_999_999 + b"y")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    assert len(file_digest(tmp_path / "a")) == 32

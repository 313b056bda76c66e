"""`combine`: models by name, called together, with shared weights as one."""

import pytest
import torch
from torch import nn

from minibatch.models.combined import combine


def test_shared_modules_are_one_parameter_each():
    body = nn.Linear(2, 3)
    model = combine(a=nn.Sequential(body, nn.Linear(3, 1)), b=nn.Sequential(body, nn.Linear(3, 2)))
    assert len(list(model.parameters())) == 6
    assert model["a"][0] is model["b"][0]


def test_every_model_is_called_with_the_same_inputs():
    model = combine(twice=nn.Identity(), once=nn.Flatten())
    x = torch.ones(2, 3, 4)
    assert {name: tuple(y.shape) for name, y in model(x).items()} == {"twice": (2, 3, 4), "once": (2, 12)}


def test_what_is_no_module_is_refused_by_name():
    with pytest.raises(TypeError, match=r"combine\(b=…\) is builtin"):
        combine(a=nn.Identity(), b=torch.relu)
    with pytest.raises(ValueError, match="by name"):
        combine()

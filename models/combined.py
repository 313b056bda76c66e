"""Several models as one, by name: for joint training, and to keep a model without its losses.

Shapes: those of the models that are combined.
"""

from typing import Any

from torch import nn


class Combined(nn.ModuleDict):
    """Models by name, called together: `model(x)` is {name: model(x) of each}; `model["tower"]` is one of them.

    Models may share modules: shared weights are one parameter, and learn from the losses of all.

    >>> import torch
    >>> body = nn.Linear(2, 3)
    >>> model = combine(intent=nn.Sequential(body, nn.Linear(3, 5)), slots=nn.Sequential(body, nn.Linear(3, 7)))
    >>> {name: tuple(y.shape) for name, y in model(torch.zeros(4, 2)).items()}
    {'intent': (4, 5), 'slots': (4, 7)}
    """

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        return {name: module(*inputs, **named) for name, module in self.items()}


def combine(**modules: nn.Module) -> Combined:
    """The models as one, which holds the parameters of all and gives out a mapping: CNTK's `combine`.

    Raises TypeError for what is no module, ValueError for none at all.

    >>> list(combine(a=nn.Linear(1, 1), b=nn.Identity()))
    ['a', 'b']
    """
    if not modules:
        raise ValueError("combine() needs models by name: combine(intent=…, slots=…)")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"combine({name}=…) is {type(module).__name__}, expected a torch module")
    return Combined(modules)

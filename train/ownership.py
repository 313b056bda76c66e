"""Which optimizer owns which parameter: disjoint, complete, and known by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from minibatch.train.errors import TrainingError


def owned_parameters(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[dict[str, Tensor]]:
    """The parameters of each optimizer by qualified name, in the optimizer's order.

    Raises ValueError naming every parameter that two optimizers own, that is trainable and owned by none, or that an
    optimizer has but the model has not.

    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> [list(owned) for owned in owned_parameters(model, [torch.optim.SGD(model.parameters(), lr=0.1)])]
    [['weight', 'bias']]
    """
    if not optimizers:
        raise ValueError("optimizers is empty: expected a torch optimizer, or several over disjoint parameters")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owner: dict[str, int] = {}
    owned: list[dict[str, Tensor]] = []
    problems: list[str] = []
    for number, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizers[{number}] is {type(optimizer).__name__}, expected a torch.optim.Optimizer")
        if isinstance(optimizer, LBFGS):
            raise TypeError(
                "LBFGS calls the loss several times within one step, which has one gradient here; use another optimizer"
            )
        mine: dict[str, Tensor] = {}
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names.get(id(parameter))
            if name is None:
                problems.append(
                    f"optimizers[{number}] ({type(optimizer).__name__}) has a parameter of shape "
                    f"{tuple(parameter.shape)} that the model has not: was the model copied after the "
                    "optimizer was made?"
                )
            elif name in owner:
                problems.append(f"{name} is owned by optimizers[{owner[name]}] and by optimizers[{number}]")
            else:
                owner[name] = number
                mine[name] = parameter
        owned.append(mine)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        problems.append("the model has no trainable parameter: all have requires_grad=False")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in owner:
            problems.append(f"{name} is trainable but owned by no optimizer: add it, or set requires_grad to False")
    if problems:
        raise ValueError("parameters and optimizers do not fit: " + "; ".join(problems))
    return owned


def reached_parameters(values: Tensor | Sequence[Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The parameters of `model` that `values` depend on, by name, in the model's order: CNTK's `loss.parameters`.

    values: losses (or anything else that was computed), with their graphs: found is what backward would reach.

    >>> import torch
    >>> model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    >>> list(reached_parameters(model["used"](torch.ones(1, 2)), model))
    ['used.weight', 'used.bias']
    """
    roots = [values] if isinstance(values, Tensor) else list(values)
    waiting: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    reached = {id(root) for root in roots if root.grad_fn is None and root.requires_grad}
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of the nodes that stand for leaves
        if variable is not None:
            reached.add(id(variable))
        waiting += [following for following, _ in node.next_functions]
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in reached}


def unreached_message(unreached: Mapping[str, Tensor]) -> str:
    """The error for parameters that got no gradient though every term has been present."""
    shown = ", ".join(list(unreached)[:10]) + (" …" if len(unreached) > 10 else "")
    return (
        f"no term reaches {len(unreached)} trainable parameter{'s' if len(unreached) > 1 else ''}: {shown}; "
        "use them in the forward pass or a loss, set requires_grad to False, or pass check_unreached=False"
    )


def check_still_owned(model: nn.Module, owned: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise TrainingError if the model has trainable parameters that no optimizer had when the Trainer was made.

    Such as those of a layer that was exchanged meanwhile: they would stay as they are, and nobody would notice.
    """
    known = {id(parameter) for mine in owned for parameter in mine.values()}
    strange = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if strange:
        raise TrainingError(
            "trainable parameters came into the model after the Trainer was made, and no optimizer has them: "
            f"{', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}; finish the model first, or make a new Trainer"
        )

"""Cutting a model at a named layer, and a new head on what is left: for transfer, where a body learned something else.

Shapes: n samples · f features that the head sees · c outputs of the head.

    inputs → the model up to and with the layer → (n, f, h, w), (n, tokens, f) or (n, f) → mean of each feature → (n, f)
           → linear → (n, c)
"""

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import skip_init

from minibatch.models import init


class NewHead(nn.Module):
    """Logits (n, c) of a linear layer on what `model` gives at its layer `after`, averaged over space or tokens.

    body: the model cut there, see `cut`; head: the new layer, with Glorot's first weights of `seed` and zero bias.
    sample: inputs of any one sample, of which the number of features is read off.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    >>> net = NewHead(model, after="1", outputs=2, sample=torch.zeros(1, 3, 8, 8), seed=7)
    >>> [name for name, _ in net.named_parameters()], net(torch.zeros(5, 3, 8, 8)).shape
    (['body.0.weight', 'body.0.bias', 'head.weight', 'head.bias'], torch.Size([5, 2]))
    """

    def __init__(self, model: nn.Module, *, after: str, outputs: int, sample: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.body = cut(model, after)
        self.after = after
        training = self.body.training
        with torch.no_grad():
            found = self.body.eval()(sample)
        self.body.train(training)
        if not isinstance(found, Tensor) or found.ndim not in (2, 3, 4) or not found.is_floating_point():
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"the layer {after!r} gives {shape}; a new head takes floating (n, f), (n, tokens, f) or (n, f, h, w): "
                "cut at another layer"
            )
        self.head = skip_init(nn.Linear, _averaged(found).shape[1], outputs, dtype=found.dtype)
        init.fill(self.head, "glorot_uniform", seed=seed)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(_averaged(self.body(*inputs)))
        return logits


def cut(model: nn.Module, after: str) -> nn.Module:
    """The part of `model` that computes the output of its layer `after`, under the same names; it shares the weights.

    after: the qualified name of a module, as `named_modules` has it. What does not lead to it is left out, with its
    parameters. The modules around the layer are traced by `torch.fx`: their own hooks are not in the part, and they may
    not branch on values. Raises ValueError where there is no such module, where the model does not call it just once or
    cannot be traced, and where functions around it (not layers) behave otherwise in training.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> part = cut(model, "1")
    >>> part(torch.ones(5, 4)).shape, list(part.state_dict())
    (torch.Size([5, 3]), ['0.weight', '0.bias'])
    """
    names = [name for name, _ in model.named_modules() if name]
    if after not in names:
        some = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise ValueError(f"{type(model).__name__} has no layer {after!r} to cut at; it has {some}")
    before = model.training
    try:
        graphs = [_graph(model.train(training), after) for training in (True, False)]
    finally:
        model.train(before)
    try:
        parts = [fx.GraphModule(model, graph, class_name=type(model).__name__) for graph in graphs]
    except SyntaxError as error:  # torch.fx writes Python, where self.in is no name
        raise ValueError(
            f"{type(model).__name__} cannot be cut at {after!r}: torch.fx writes it as Python and cannot, because of a "
            f"module's name: {str(error.text).strip()}"
        ) from error
    if parts[0].code != parts[1].code:
        raise ValueError(
            f"{type(model).__name__} computes the output of {after!r} by functions that differ in training and "
            "evaluation, such as F.dropout(…, training=self.training): cut at a layer before them, or write them as "
            "layers"
        )
    return parts[0].train(before)


def _graph(model: nn.Module, after: str) -> fx.Graph:
    """The graph of the output of the layer `after`, and of nothing else."""
    try:
        graph = _Tracer(after).trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, so it cannot be cut at {after!r}: {error}"
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == after]
    if len(calls) != 1:
        raise ValueError(f"{type(model).__name__} calls the layer {after!r} {len(calls)} times: cut where it is once")
    needed = set(calls)
    for node in reversed(list(graph.nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
        elif node.op != "placeholder":  # of what comes later, the last first
            graph.erase_node(node)
    graph.output(calls[0])
    return graph


class _Tracer(fx.Tracer):
    """Goes into the modules around the layer `after` alone: all others stay whole, with their hooks and branches."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.after = after

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.after.startswith(f"{module_qualified_name}.")


def _averaged(features: Tensor) -> Tensor:
    """The mean of every feature: (n, f) of (n, f, h, w), (n, tokens, f) or (n, f)."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features

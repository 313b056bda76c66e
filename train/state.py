"""The state of a run as named tensors and a JSON document, and back; what does not fit is refused by name.

Optimizer state is kept by parameter name, never by position. Settings (sizes, rates, schedules, terms) are written only
to be compared: a resumed run takes its own, and what changed is listed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch.errors import CheckpointError
from minibatch.train.config import described
from minibatch.train.rates import ENTRIES

Owned = Sequence[Mapping[str, Tensor]]
#: What the safetensors format has a name for.
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, where they lie; tied weights under every name they have.

    Raises CheckpointError for modules whose state is no tensor (`get_extra_state`): it could only be pickled; and for
    tensors that the format has no place for.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"the model's state has {name!r} of type {type(value).__name__}; checkpoints hold tensors only: "
                "register it as a buffer"
            )
        tensors[name] = _storable(value, f"the model's {name}")
    return tensors


def optimizer_tensors(optimizers: Sequence[Optimizer], owned: Owned) -> dict[str, Tensor]:
    """The optimizers' tensors, named "number/parameter/entry"."""
    return {
        f"{number}/{name}/{entry}": _storable(value, f"{entry!r} of optimizers[{number}] for {name}")
        for number, name, entry, value in _entries(optimizers, owned)
        if isinstance(value, Tensor)
    }


# Entries of groups that are settings: a resumed run takes its own.
SETTINGS = {"lr", "momentum", "weight_decay", "betas", "eps", "dampening", "initial_lr"}


def group_numbers(optimizers: Sequence[Optimizer]) -> list[list[dict[str, Any]]]:
    """The numbers in the groups of every optimizer, for telling later which of them it has changed by itself."""
    return [
        [{k: v for k, v in group.items() if isinstance(v, bool | int | float)} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def changed_numbers(optimizer: Optimizer, before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every group the numbers that are not as they were: what some optimizers count there, and no settings."""
    return [
        {
            k: v
            for k, v in group.items()
            if isinstance(v, bool | int | float) and k not in SETTINGS and k not in ENTRIES and v != earlier.get(k)
        }
        for group, earlier in zip(optimizer.param_groups, before, strict=True)
    ]


def optimizer_document(
    optimizers: Sequence[Optimizer], owned: Owned, before: Sequence[Sequence[Mapping[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """Kind, parameters and numbers of every optimizer, ready for JSON.

    before: what `group_numbers` said when the run was made. Raises CheckpointError for state that belongs to no
    parameter, or is neither tensor nor number.
    """
    for number, (optimizer, mine) in enumerate(zip(optimizers, owned, strict=True)):
        known = {id(parameter) for parameter in mine.values()}
        strange = [key for key in optimizer.state if id(key) not in known]
        if strange:
            shown = strange[0] if isinstance(strange[0], str) else type(strange[0]).__name__
            raise CheckpointError(
                f"optimizers[{number}] ({kind_of(optimizer)}) keeps state under {shown!r}, which is no parameter of "
                "the model: checkpoints hold the state of parameters only"
            )
    documents: list[dict[str, Any]] = [
        {"kind": kind_of(optimizer), "parameters": list(mine), "values": {}, "on_host": []}
        for optimizer, mine in zip(optimizers, owned, strict=True)
    ]
    for number, name, entry, value in _entries(optimizers, owned):
        if isinstance(value, Tensor):
            if value.device != owned[number][name].device:
                documents[number]["on_host"].append(f"{name}/{entry}")
            continue
        if value is not None and not isinstance(value, bool | int | float | str):
            raise CheckpointError(
                f"{documents[number]['kind']} keeps {entry!r} of type {type(value).__name__} for parameter {name}; "
                "checkpoints hold tensors and numbers only"
            )
        documents[number]["values"].setdefault(name, {})[entry] = value
    if before is not None:
        for document, optimizer, earlier in zip(documents, optimizers, before, strict=True):
            document["groups"] = changed_numbers(optimizer, earlier)
    return documents


def settings_of(optimizers: Sequence[Optimizer], owned: Owned) -> list[dict[str, Any]]:
    """The hyperparameters of every group of every optimizer, ready for JSON, for comparison."""
    settings = []
    for number, (optimizer, mine) in enumerate(zip(optimizers, owned, strict=True)):
        names = {id(parameter): name for name, parameter in mine.items()}
        if any(id(parameter) not in names for group in optimizer.param_groups for parameter in group["params"]):
            raise CheckpointError(
                f"optimizers[{number}] has been given parameters after the Trainer was made, which would not clear "
                "their gradients between steps: make the Trainer after the last add_param_group"
            )
        groups = []
        for group in optimizer.param_groups:
            plain = {k: described(v) for k, v in group.items() if k not in ("params", "param_names", "initial_lr")}
            groups.append({**plain, "parameters": [names[id(p)] for p in group["params"]]})
        settings.append({"kind": kind_of(optimizer), "groups": groups})
    return settings


def kind_of(optimizer: Optimizer) -> str:
    """Module and name of an optimizer's class.

    >>> import torch
    >>> kind_of(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    'torch.optim.sgd.SGD'
    """
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def check_model(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Return if `saved` are this model's tensors by name, shape and dtype; else CheckpointError: differences."""
    mine = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    problems = [f"{name} is in the checkpoint only {_shape(saved[name])}" for name in saved if name not in mine]
    problems += [f"{name} is in this model only {_shape(mine[name])}" for name in mine if name not in saved]
    problems += [
        f"{name} is {_shape(saved[name])} in the checkpoint, {_shape(mine[name])} in this model"
        for name in mine
        if name in saved and _shape(saved[name]) != _shape(mine[name])
    ]
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError("the checkpoint is of another model: " + "; ".join(problems[:6]) + more)


def check_optimizers(optimizers: Sequence[Optimizer], owned: Owned, saved: Sequence[Mapping[str, Any]]) -> None:
    """Return if the saved optimizers are of the same kinds over the same parameters; else CheckpointError."""
    kinds, theirs = [kind_of(optimizer) for optimizer in optimizers], [document["kind"] for document in saved]
    if kinds != theirs:
        raise CheckpointError(f"the checkpoint was made with the optimizers {theirs}, this run has {kinds}")
    for number, (mine, document) in enumerate(zip(owned, saved, strict=True)):
        added, missing = (set(mine) - set(document["parameters"])), (set(document["parameters"]) - set(mine))
        if added or missing:
            raise CheckpointError(
                f"optimizers[{number}] owns other parameters than in the checkpoint: here only {sorted(added)}, there "
                f"only {sorted(missing)}"
            )


def load_optimizers(
    optimizers: Sequence[Optimizer], owned: Owned, tensors: Mapping[str, Tensor], saved: Sequence[Mapping[str, Any]]
) -> None:
    """Give every optimizer the saved entries of its parameters; hyperparameters stay as they were made."""
    states: list[dict[str, dict[str, Any]]] = [
        {name: dict(values) for name, values in document["values"].items()} for document in saved
    ]
    for key, tensor in tensors.items():
        number, _, rest = key.partition("/")
        name, _, entry = rest.rpartition("/")
        states[int(number)].setdefault(name, {})[entry] = tensor
    for optimizer, mine, state, document in zip(optimizers, owned, states, saved, strict=True):
        positions = {name: position for position, name in enumerate(mine)}
        # torch's own loading knows where "step" belongs and what old states lack; it counts parameters as `owned` does.
        optimizer.load_state_dict(
            {
                "state": {positions[name]: entries for name, entries in state.items()},
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
        for group, numbers in zip(optimizer.param_groups, document.get("groups", ()), strict=False):
            group.update(numbers)
        # But it casts every other entry to the parameter's dtype, and so changes the bits of NAdam's `mu_product`.
        for name, entries in state.items():
            for entry, value in entries.items():
                if isinstance(value, Tensor) and entry != "step":
                    on_host = f"{name}/{entry}" in document["on_host"]
                    optimizer.state[mine[name]][entry] = value if on_host else value.to(mine[name].device)


def _storable(tensor: Tensor, what: str) -> Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or dtype not in DTYPES:
        layout = "" if tensor.layout is torch.strided else f" in {str(tensor.layout).removeprefix('torch.')}"
        raise CheckpointError(
            f"{what} is a tensor of {dtype}{layout}, which checkpoints cannot hold: use a dense tensor of "
            f"{', '.join(DTYPES[:4])} …, or leave it out of the state (register_buffer(…, persistent=False))"
        )
    return tensor


def _entries(optimizers: Sequence[Optimizer], owned: Owned) -> list[tuple[int, str, str, Any]]:
    return [
        (number, name, entry, value)
        for number, (optimizer, mine) in enumerate(zip(optimizers, owned, strict=True))
        for name, parameter in mine.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    ]


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

"""What layers of a model put out, for every sample, as a data set: cuda-convnet2's --write-features.

Rows come in the order of the data: of a data set its own, of a source its nominal order. The model works in leaves, cut
at multiples of leaf_size of nominal time whatever the minibatch size, so that not even the last bits depend on how the
data are read; another leaf_size, number of threads or device may change them.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minibatch import Dataset, DatasetWriter, MinibatchSource
from minibatch.arguments import checked_integer
from minibatch.train.batches import Inputs, TensorBatch, forward_function
from minibatch.train.cuts import leaves
from minibatch.train.eval_mode import eval_mode
from minibatch.train.named_calls import nearest

ROW = "row"


def write_features(
    model: nn.Module,
    data: MinibatchSource | Dataset | str | os.PathLike[str],
    layers: Sequence[str] | str,
    out: str | os.PathLike[str],
    *,
    inputs: Inputs,
    fields: Sequence[str] = (),
    outputs: bool = False,
    minibatch_size: int = 1024,
    leaf_size: int = 64,
    overwrite: bool = False,
) -> int:
    """Write a data set to `out` with what `layers` put out for one sweep of `data`; the number of rows.

    layers: names of modules, as in `model.named_modules()`. Fields: "row", int64: the sample's row in `data`; each of
    `fields` as it is there; one field per layer, called like it, in its dtype (bfloat16 as float32), shape (n, …). A
    layer that gives several tensors, or runs several times in a forward pass, has a field for each: "layer.0",
    "layer.1", in order (of a mapping "layer.key"). outputs: also those of the whole model, as "output". inputs: what
    the model is called with, as in `Trainer`. The model is in eval mode meanwhile.

    Raises ValueError for names that are not there, layers that did not run, and outputs that are not per sample.

    >>> import tempfile
    >>> folder, out = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.ones((5, 2), np.float32), "label": np.arange(5)})
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> write_features(model, folder, "1", out, inputs="x", fields=["label"])
    5
    >>> Dataset.open(out).read([4])["1"].shape
    (1, 3)
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    checked_integer(minibatch_size, "minibatch_size", least=1)
    leaf = checked_integer(leaf_size, "leaf_size", least=1)
    reading = -(-minibatch_size // leaf) * leaf  # whole leaves
    modules = {name: _module(model, name) for name in names}
    if not modules and not outputs:
        raise ValueError("layers=[]: expected the name of at least one layer, or outputs=True")
    forward = forward_function(inputs)
    source = data if isinstance(data, MinibatchSource) else MinibatchSource(data, shuffle=None)
    _check_names(source, fields)
    parameter = next(model.parameters(), None)
    device = None if parameter is None or parameter.device.type == "cpu" else parameter.device
    end, position = len(source.dataset), source.nominal_time
    taken: dict[str, list[Any]] = defaultdict(list)
    expected: list[str] | None = None
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(_taker(taken[name])).remove)
        # It may be the source that is trained on.
        stack.callback(source.seek if isinstance(data, MinibatchSource) else lambda _: source.close(), position)
        stack.enter_context(eval_mode(model))
        source.seek(0)
        writer = stack.enter_context(
            DatasetWriter(out, source=f"features of {type(model).__name__}: {', '.join(names)}", overwrite=overwrite)
        )
        stack.enter_context(torch.inference_mode())
        while source.nominal_time < end:
            batch = source.next_minibatch(min(reading, end - source.nominal_time))
            if not batch:
                break
            host = TensorBatch(batch)
            count = host.num_samples
            pieces: dict[str, list[NDArray[Any]]] = defaultdict(list)
            whole = host if device is None else host.on(device)
            for start, stop in leaves(host.places, leaf):
                part = whole if stop - start == count else whole.part(start, stop)
                for calls in taken.values():
                    calls.clear()
                said = forward(model, part)
                found = _named_tensors(taken)
                if outputs:
                    found.update(_parts("output", said))
                _check(found, names, stop - start, expected)
                expected = list(found)
                for name, tensor in found.items():
                    pieces[name].append(_array(tensor))
            if count:
                columns = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
                writer.write({ROW: host.rows, **{name: batch[name] for name in fields}, **columns})
        return writer.rows


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    modules.pop("", None)
    if name not in modules:
        raise ValueError(f"the model has no layer {name!r}{nearest(name, modules)}")
    found: nn.Module = modules[name]
    return found


def _check_names(source: MinibatchSource, fields: Sequence[str]) -> None:
    known = source.dataset.fields
    for name in fields:
        if name == ROW:
            raise ValueError(f"fields=: {ROW!r} is written in any case, as the row of each sample in the data")
        if name not in known and not source.arguments.get("transforms"):
            raise ValueError(f"the data have no field {name!r}{nearest(name, known, title='they have')}")


def _taker(calls: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that notes what a layer put out: copies, because the layer behind it may work in place."""

    def take(module: nn.Module, given: Any, output: Any) -> None:
        calls.append({name.removeprefix("."): tensor.clone() for name, tensor in _parts("", output).items()})

    return take


def _named_tensors(taken: Mapping[str, Sequence[Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, calls in taken.items():
        for number, call in enumerate(calls):
            place = name if len(calls) == 1 else f"{name}.{number}"
            found.update({f"{place}.{inner}" if inner else place: tensor for inner, tensor in call.items()})
    return found


def _parts(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors of an output by name: its own if it is one, "name.0" and so on if there are several."""
    if isinstance(value, Tensor):
        return {name: value}
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    return {inner: tensor for key, item in items for inner, tensor in _parts(f"{name}.{key}", item).items()}


def _check(found: Mapping[str, Tensor], names: Sequence[str], samples: int, expected: Sequence[str] | None) -> None:
    for name in names:
        if not any(one == name or one.startswith(f"{name}.") for one in found):
            raise ValueError(f"layer {name!r} put out no tensor: it did not run in a forward pass of the model")
    for name, tensor in found.items():
        if not tensor.ndim or len(tensor) != samples:
            raise ValueError(
                f"layer {name!r} put out shape {tuple(tensor.shape)} for {samples} samples: features are per sample, "
                f"expected ({samples}, …)"
            )
    if expected is not None and list(found) != expected:
        raise ValueError(f"the layers put out {list(found)} for these samples, and {expected} for those before")


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype is torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    array: NDArray[Any] = tensor.cpu().numpy()
    return array

"""A minibatch as tensors, without a copy wherever NumPy and PyTorch can share memory.

| field | becomes |
|---|---|
| (u)int8 … 64, float16/32/64, bool | a tensor (n, *shape) of the same dtype |
| dates, times, durations | the same, int32 or int64 of their unit |
| `Ragged` | `"padded"`: (n, longest, *shape) and a mask; `"nested"`: a jagged `torch.nested`; `"lists"`: `Lists` |
| `Sparse` | `"csr"`: `torch.sparse_csr`; `"dense"`: (n, width) |
| text, bytes | a list of str or bytes |

A tensor shares its memory with the minibatch it was made of and with nothing else: each minibatch is handed out once,
and the memory is used again only when nothing looks at it any more. So it may be written into.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from minibatch.arguments import checked_integer
from minibatch.batch import Batch
from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.torch.pinned import sharing_storage

RAGGED_FORMS = ("padded", "nested", "lists")
SPARSE_FORMS = ("csr", "dense")
PACKED = ("segment_ids", "positions")
Device = torch.device | str | int | None

DTYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(name): getattr(torch, name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}


@dataclass(frozen=True, kw_only=True)
class TensorForm:
    """How fields become tensors.

    `ragged` is "padded" (the mask comes as a field of its own, named like the field with "_mask" behind it), "nested"
    or "lists"; sequences of texts are Python's lists in any case. Padding is `padding_value`, one for all fields or
    {field: value}, and the width of a padded field a multiple of `pad_to_multiple_of`. `sparse` is "csr" or "dense".

    `include` names what else of a minibatch comes as a field: "rows" and "times" (int64 (n,)), "sources" of a mixture,
    and of packed sequences "segment_ids", "positions" and "cu_seqlens"; unless it is given, a packed minibatch has the
    first two of these.

    >>> TensorForm(ragged="nested").sparse
    'csr'
    """

    ragged: str = "padded"
    padding_value: Any = 0
    pad_to_multiple_of: int = 1
    sparse: str = "csr"
    include: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("ragged", RAGGED_FORMS), ("sparse", SPARSE_FORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"TensorForm({name}=…) must be one of {allowed}, got {getattr(self, name)!r}")
        checked_integer(self.pad_to_multiple_of, "pad_to_multiple_of", least=1)
        if isinstance(self.include, str):
            raise TypeError(f"TensorForm(include=…) takes a sequence of names, got the string {self.include!r}")

    def padding_of(self, name: str) -> Any:
        """What stands behind the ends of field `name`'s sequences."""
        value = self.padding_value
        return value.get(name, 0) if isinstance(value, Mapping) else value


class Lists(NamedTuple):
    """n sequences: `values` (total, *shape), or again `Lists`; sequence i is values[offsets[i]:offsets[i + 1]]."""

    values: Any
    offsets: Tensor


class Tensors(dict[str, Any]):
    """The fields of a minibatch as tensors: a dict, which also knows its place on the axis.

    `nominal_time` and `nominal_end` are the interval of the whole minibatch, `num_samples` counts what this rank has
    of it, `sweeps_ended` the borders of sweeps that it reaches or crosses. They are None in a copy that somebody has
    made as a plain dict is copied.
    """

    __slots__ = ("nominal_end", "nominal_time", "num_samples", "sweeps_ended")

    def __init__(
        self,
        fields: Any = (),
        *,
        nominal_time: int | None = None,
        nominal_end: int | None = None,
        num_samples: int | None = None,
        sweeps_ended: int | None = None,
    ) -> None:
        super().__init__(fields)
        self.nominal_time = nominal_time
        self.nominal_end = nominal_end
        self.num_samples = num_samples
        self.sweeps_ended = sweeps_ended

    @property
    def end_of_sweep(self) -> bool:
        """Whether the whole minibatch reaches or crosses the border of a sweep."""
        return bool(self.sweeps_ended)

    def with_fields(self, fields: Mapping[str, Any]) -> "Tensors":
        """Other fields at the same place of the axis."""
        return Tensors(
            fields,
            nominal_time=self.nominal_time,
            nominal_end=self.nominal_end,
            num_samples=self.num_samples,
            sweeps_ended=self.sweeps_ended,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Tensors":
        """`change` applied to every tensor, also to those that nested and sparse tensors consist of."""
        return self.with_fields({name: mapped(value, change) for name, value in self.items()})

    def parts(self) -> Iterator[Tensor]:
        """Every plain tensor of the minibatch, also those that nested and sparse tensors consist of."""
        for value in self.values():
            yield from parts_of(value)

    def to(self, device: Any, non_blocking: bool = False) -> "Tensors":
        """The same with all tensors on `device`; Lightning and Accelerate call this."""
        refuse_forked(device)
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> "Tensors":
        """The same in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        return self.map(lambda tensor: tensor.pin_memory())

    def __repr__(self) -> str:
        shown = {name: shape_of(value) for name, value in self.items()}
        return f"Tensors([{self.nominal_time}, {self.nominal_end}), {shown})"


def to_tensors(batch: Batch, device: Device = None, form: TensorForm | None = None) -> Tensors:
    """The fields of a minibatch as tensors, on `device` (None: where they are, on the CPU); see the table above.

    Raises `SchemaError`, naming the field, where the form asked for does not exist.

    >>> import tempfile
    >>> from minibatch import DatasetWriter, MinibatchSource
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10), "name": [f"row {i}" for i in range(10)]})
    >>> source = MinibatchSource(folder, seed=7)
    >>> to_tensors(source.next_minibatch(2), form=TensorForm(include=["rows"]))
    Tensors([0, 2), {'x': 'int64 (2,)', 'name': 'list of 2', 'rows': 'int64 (2,)'})
    """
    form = form or TensorForm()
    fields: dict[str, Any] = {}
    for name in batch.fields:
        convert(batch[name], name, form, fields)
    for name in included(batch, form):
        add(fields, name, extra(batch, name))
    tensors = Tensors(
        fields,
        nominal_time=batch.nominal_time,
        nominal_end=batch.nominal_end,
        num_samples=batch.num_samples,
        sweeps_ended=batch.sweeps_ended,
    )
    return tensors if device is None else tensors.to(device)


def included(batch: Batch, form: TensorForm) -> Sequence[str]:
    """What of a minibatch comes as a field beside its fields."""
    if form.include is not None:
        return form.include
    return PACKED if getattr(batch, PACKED[0], None) is not None else ()


def extra(batch: Batch, name: str) -> Any:
    """The tensor of an array that a minibatch has beside its fields."""
    values = getattr(batch, name, None)
    if not isinstance(values, np.ndarray):
        raise SchemaError(f"TensorForm(include=[{name!r}]): this minibatch has no array called {name!r}")
    return as_tensor(values, name)


def add(fields: dict[str, Any], name: str, value: Any) -> None:
    """Set a field that is not one of the data set's own."""
    if name in fields:
        raise SchemaError(f"the minibatch has a field {name!r} of its own: rename it, or choose another TensorForm")
    fields[name] = value


def convert(values: Any, name: str, form: TensorForm, fields: dict[str, Any]) -> None:
    """Add what `values` become to `fields`."""
    if isinstance(values, Ragged) and texts(values):
        add(fields, name, listed(values))
    elif isinstance(values, Sparse):
        add(fields, name, sparse_tensor(values, name, form))
    elif not isinstance(values, Ragged):
        add(fields, name, as_tensor(values, name))
    elif form.ragged == "lists":
        add(fields, name, lists_of(values, name))
    elif form.ragged == "nested":
        if not isinstance(values.values, np.ndarray):
            raise SchemaError(f"field {name!r}: lists of lists have no nested tensor: use TensorForm(ragged='lists')")
        flat = as_tensor(values.values, name)
        add(fields, name, torch.nested.nested_tensor_from_jagged(flat, as_tensor(values.offsets, name)))
    else:
        if isinstance(innermost(values), Sparse):
            raise SchemaError(f"field {name!r}: sequences of sparse vectors have no padding: use ragged='lists'")
        padded = values.padded(value=form.padding_of(name), multiple_of=form.pad_to_multiple_of)
        add(fields, name, as_tensor(padded, name))
        add(fields, f"{name}_mask", as_tensor(values.mask(multiple_of=form.pad_to_multiple_of), name))


def lists_of(values: Ragged, name: str) -> Lists:
    """Values and offsets as they are."""
    fields: dict[str, Any] = {}
    convert(values.values, name, TensorForm(ragged="lists"), fields)
    return Lists(fields[name], as_tensor(values.offsets, name))


def innermost(values: Any) -> Any:
    """What the lists of a `Ragged` consist of."""
    return innermost(values.values) if isinstance(values, Ragged) else values


def texts(values: Ragged) -> bool:
    """Whether the lists are of texts or bytes, of which there are no tensors."""
    inner = innermost(values)
    return isinstance(inner, np.ndarray) and inner.dtype.kind in "OSU"


def listed(values: Any) -> Any:
    """Lists of texts as Python's."""
    return [listed(value) for value in values] if isinstance(values, Ragged) else values.tolist()


def sparse_tensor(values: Sparse, name: str, form: TensorForm) -> Tensor:
    """(n, width), as CSR or with all its zeros."""
    if form.sparse == "dense":
        dense: Tensor = as_tensor(values.dense(), name)
        return dense
    offsets, indices, stored = canonical(values)
    return torch.sparse_csr_tensor(
        as_tensor(offsets, name),
        as_tensor(indices, name),
        as_tensor(stored, name),
        size=(len(values), values.width),
        check_invariants=True,  # an index outside would be a crash much later
    )


def canonical(values: Sparse) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Offsets, indices and values with the indices of each row ascending and distinct, as PyTorch wants them: int64."""
    offsets, indices, stored = values.csr()
    rows = np.repeat(np.arange(len(values)), np.diff(offsets))
    wide = indices.astype(np.int64, copy=False)
    if ((np.diff(wide) > 0) | (np.diff(rows) > 0)).all():
        return offsets, wide, stored
    by_place = np.lexsort((wide, rows))
    rows, wide, stored = rows[by_place], wide[by_place], stored[by_place]
    first = np.flatnonzero(np.concatenate([[True], (np.diff(rows) > 0) | (np.diff(wide) > 0)]))
    combine = np.logical_or if stored.dtype == np.bool_ else np.add
    counts = np.bincount(rows[first], minlength=len(values))
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return ends, wide[first], combine.reduceat(stored, first).astype(stored.dtype)


def as_tensor(values: Any, name: str = "values") -> Any:
    """An array as a tensor that shares its memory; text and bytes as a list.

    Copied only where PyTorch could not use the memory as it is: read-only arrays, backward strides, foreign byte order.

    >>> as_tensor(np.arange(3, dtype=np.uint16))
    tensor([0, 1, 2], dtype=torch.uint16)
    """
    if not isinstance(values, np.ndarray):
        raise SchemaError(f"field {name!r} is a {type(values).__name__}, of which no tensor can be made")
    dtype = DTYPES.get(values.dtype)
    if dtype is not None and (flags := values.flags).c_contiguous and flags.writeable:  # nearly always
        shared = sharing_storage(values, dtype)
        return torch.from_numpy(values) if shared is None else shared
    if values.dtype.kind in "OSU":
        return values.tolist()
    if values.dtype.kind in "mM":
        values = values.view(np.int64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    dtype = DTYPES.get(values.dtype)
    if dtype is None:
        raise SchemaError(f"field {name!r} has dtype {values.dtype}, which PyTorch has not: {list(map(str, DTYPES))}")
    if not values.flags.writeable or any(stride < 0 for stride in values.strides):
        values = values.copy()  # PyTorch warns of the former and refuses the latter
    shared = sharing_storage(values, dtype)
    return torch.from_numpy(values) if shared is None else shared


def cumulative_lengths(segment_ids: Tensor) -> tuple[Tensor, int]:
    """Where the documents of packed sequences begin and end, and how long the longest is.

    `segment_ids` is (blocks, block). The blocks are laid end to end and no document reaches from one block into the
    next. Gives int32 (documents + 1,), from 0 to blocks · block, on the same device, as variable-length attention
    takes it (`cu_seqlens` and `max_seqlen` of flash-attn).

    >>> cumulative_lengths(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]]))
    (tensor([0, 2, 4, 7, 8], dtype=torch.int32), 3)
    """
    if segment_ids.ndim != 2:
        raise ValueError(f"segment_ids must be (blocks, block), got {tuple(segment_ids.shape)}")
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    total = torch.tensor([segment_ids.numel()], device=segment_ids.device)
    marks = torch.cat([begins.reshape(-1).nonzero().reshape(-1), total])
    longest = int(marks.diff().max()) if len(marks) > 1 else 0
    return marks.to(torch.int32), longest


def one_minibatch(batches: Sequence[Any]) -> Any:
    """The only element of a list: the `collate_fn` of a loader that insists on a batch size, which must then be 1.

    >>> one_minibatch([{"x": 3}])
    {'x': 3}
    """
    if len(batches) != 1:
        raise ValueError(
            f"got {len(batches)} minibatches to collate: a TimelineDataset gives whole minibatches, so the batch size "
            f"of what reads it must be 1 (per_device_train_batch_size=1); minibatch_size says how many samples"
        )
    return batches[0]


def refuse_collation(batches: Sequence[Tensors], *, collate_fn_map: Any = None) -> Any:
    """The error of a `DataLoader` that was left to batch minibatches again."""
    raise TypeError(
        f"DataLoader was about to make a batch of {len(batches)} minibatches: write DataLoader(dataset, "
        f"batch_size=None), since a TimelineDataset gives whole minibatches; where a batch size must be given, "
        f"batch_size=1 and collate_fn=minibatch.torch.one_minibatch"
    )


default_collate_fn_map[Tensors] = refuse_collation


def refuse_forked(device: Any) -> None:
    """Raise in a forked process where a GPU of its parent would be used."""
    kind = torch.device(device).type if device is not None else "cpu"
    if kind == "cuda" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            f"a forked worker process cannot use {device}, which its parent has opened: let workers give CPU tensors "
            f"and have them copied in the main process (minibatch.torch.Loader(…, device={str(device)!r}, "
            f"num_workers=…)), or start workers with multiprocessing_context='spawn'"
        )


def is_nested(value: Any) -> bool:
    """Whether a value is a jagged nested tensor."""
    return isinstance(value, Tensor) and value.is_nested


def parts_of(value: Any) -> Iterator[Tensor]:
    """The plain tensors that a field consists of."""
    if isinstance(value, Lists):
        for part in value:
            yield from parts_of(part)
    elif is_nested(value):
        yield from (value.values(), value.offsets())
    elif isinstance(value, Tensor) and value.layout == torch.sparse_csr:
        yield from (value.crow_indices(), value.col_indices(), value.values())
    elif isinstance(value, Tensor):
        yield value


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field with `change` applied to the plain tensors it consists of."""
    if isinstance(value, Lists):
        return Lists(mapped(value.values, change), change(value.offsets))
    if is_nested(value):
        return torch.nested.nested_tensor_from_jagged(change(value.values()), change(value.offsets()))
    if isinstance(value, Tensor) and value.layout == torch.sparse_csr:
        crow, column, stored = (change(part) for part in parts_of(value))
        return torch.sparse_csr_tensor(crow, column, stored, size=value.shape, check_invariants=False)
    return change(value) if isinstance(value, Tensor) else value


def shape_of(value: Any) -> str:
    """A field in a few words."""
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"{layout}{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__

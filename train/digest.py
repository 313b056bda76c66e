"""Digests of tensors and files: XXH3-128, as fast as memory, for telling equal from different (not for security)."""

import os
from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor, nn

BLOCK_BYTES = 1 << 22


def parameters_digest(model: nn.Module) -> str:
    """The digest of all parameters and saved buffers of a model: 32 hexadecimal digits.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    >>> parameters_digest(layer)
    '4be0cc0b0a3f1a2b77e889bdc5cfe626'
    """
    return tensors_digest({name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The digest of name, dtype, shape and bytes of every tensor, in the order of names: 32 hexadecimal digits.

    Equal exactly where all of these are (but for chance, 2^-128); -0.0 differs from 0.0, as their bytes do. Tensors on
    other devices are copied to the CPU one after the other.
    """
    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        hasher.update(f"{name}\n{dtype}\n{tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The digest of a file's bytes: 32 hexadecimal digits."""
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()

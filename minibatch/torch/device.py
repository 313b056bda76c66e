"""Minibatches on their way to a device: copied on a stream of their own, while the device computes on earlier ones."""

from typing import Any, Protocol

import torch
from torch import Tensor

from minibatch.torch.tensors import Tensors


class Lane(Protocol):
    """A way to a device: `send` begins, `receive` gives what has arrived, in the order in which it was sent.

    >>> class Nowhere:
    ...     def send(self, tensors: Tensors) -> Tensors:
    ...         return tensors
    ...     def receive(self, sent: Tensors) -> Tensors:
    ...         return sent
    """

    def send(self, tensors: Tensors) -> Any:
        """Begin the copy."""
        ...

    def receive(self, sent: Any) -> Tensors:
        """The minibatch on the device, ready for the stream that is current now."""
        ...


class Direct:
    """To a device without streams: copied when it is sent (None: not at all)."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device

    def send(self, tensors: Tensors) -> Tensors:
        """The minibatch on the device."""
        return tensors if self._device is None else tensors.to(self._device)

    def receive(self, sent: Tensors) -> Tensors:
        """The same."""
        return sent


class SideStream:
    """To a CUDA device, on a stream that waits for nothing the device computes.

    Three things make that right. Copies start from page-locked memory, or they would not run beside anything; what is
    not page-locked yet (a minibatch across a block border, what a transform made) is copied there first. The
    stream that uses a minibatch waits for its copy, on the device, not here. And the allocator is told of that stream
    (`record_stream`): the memory belongs to the side stream, and would else be given to the next copy while
    somebody still computes on it.

    Host memory may be let go of at once: PyTorch's pinned allocator gives it to nobody before the copy has ended.

    `streams` is `torch.cuda`, or something that acts like it in tests.
    """

    def __init__(self, device: torch.device, streams: Any = torch.cuda) -> None:
        self._device = device
        self._streams = streams
        self._side = streams.Stream(device)

    def send(self, tensors: Tensors) -> tuple[Tensors, Any]:
        """Begin the copies; the event says when they have ended."""
        pinned = tensors.map(page_locked)
        with self._streams.stream(self._side):
            moved = pinned.map(lambda tensor: tensor.to(self._device, non_blocking=True))
            arrived = self._streams.Event()
            arrived.record(self._side)
        return moved, arrived

    def receive(self, sent: tuple[Tensors, Any]) -> Tensors:
        """The minibatch, which the current stream may use from now on."""
        moved, arrived = sent
        current = self._streams.current_stream(self._device)
        current.wait_event(arrived)
        for tensor in moved.parts():
            tensor.record_stream(current)
        return moved


def page_locked(tensor: Tensor) -> Tensor:
    """`tensor` in page-locked memory: itself, if it lies there."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()


def lane_to(device: torch.device | None) -> Lane:
    """The fastest way to `device`."""
    if device is not None and device.type == "cuda":
        return SideStream(device)
    return Direct(device)

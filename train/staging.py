"""Checkpoints written while training goes on: the state is copied at the step's edge, the rest is done by a thread.

The copies go into the same memory at every save, because memory that nobody has touched yet costs more than the copy.
There is one writer at a time: a save that finds the one before it unfinished waits.
"""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minibatch.errors import CheckpointError


class Staging:
    """Copies of named tensors on the CPU, which stay valid until the next call."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of every tensor, contiguous and on the CPU, in memory of its own.

        >>> weight = torch.ones(2)
        >>> copy = Staging().copied({"weight": weight})
        >>> weight.zero_(), copy["weight"]
        (tensor([0., 0.]), tensor([1., 1.]))
        """
        waiting = []
        copies = {}
        for name, tensor in tensors.items():
            tensor = tensor.detach()
            copy = self._copies.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                pinned = tensor.device.type == "cuda"
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            copy.copy_(tensor, non_blocking=True)
            if tensor.device.type != "cpu":
                waiting.append(tensor.device)
            copies[name] = copy
        for device in set(waiting):
            torch.accelerator.synchronize(device) if hasattr(torch, "accelerator") else torch.cuda.synchronize(device)
        self._copies = copies
        return copies


class Background:
    """Runs one function at a time in a thread; what it raises is raised by the next call.

    >>> done = []
    >>> background = Background()
    >>> background.run(lambda: done.append(1))
    >>> background.wait()
    >>> done
    [1]
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def run(self, function: Callable[[], None]) -> None:
        """Begin to run `function`, after what runs already."""
        self.wait()

        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                self._error = error

        # Not a daemon: an interpreter that ends waits for the checkpoint.
        self._thread = threading.Thread(target=guarded, name="minibatch checkpoint", daemon=False)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing runs. Raises CheckpointError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from error

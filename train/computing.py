"""How torch computes during a run, and as before after it: its threads, and deterministic algorithms."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from minibatch.train.config import RunConfig
from minibatch.train.progress import announce

MOST_THREADS = 1024  # of an OpenMP library that cannot make so many, the process ends without a word


@contextmanager
def computing(config: RunConfig, say: Callable[[str], None] = announce) -> Iterator[None]:
    """Let torch compute as the configuration says: with so many threads, by deterministic algorithms or any.

    Deterministic: torch raises RuntimeError in an operation that has no such algorithm on the device, and never chooses
    one by the clock. Source: torch.use_deterministic_algorithms; HALCON's `cudnn_deterministic`. Raises ValueError for
    more than MOST_THREADS threads.
    """
    if config.threads is not None and config.threads > MOST_THREADS:
        raise ValueError(f"threads={config.threads}: expected 1 to {MOST_THREADS}, or none for as many as torch has")
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic, warning = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if config.threads is not None and config.threads != threads:
        say(
            f"torch computes with {config.threads} thread{'s' if config.threads > 1 else ''} during this run "
            f"(it had {threads})"
        )
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warning)
        torch.backends.cudnn.benchmark = benchmark

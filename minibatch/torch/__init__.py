"""Minibatches as PyTorch tensors: a loader for any training loop, and a data set for whoever insists on `DataLoader`.

`Loader` is what most people want. It reads in this process (the source has a reading thread of its own, so worker
processes are for slow Python transforms only), copies to the GPU on a side stream, and **its state is that of the
minibatches you were given**, never of those read ahead.

>>> import tempfile
>>> import numpy as np
>>> from minibatch import DatasetWriter
>>> folder = tempfile.mkdtemp()
>>> with DatasetWriter(folder) as writer:
...     writer.write({"x": np.arange(10, dtype=np.float32), "label": np.arange(10) % 3})

>>> from minibatch.torch import Loader
>>> loader = Loader(folder, 4, seed=7)              # device="cuda": the tensors are there when they are handed out
>>> len(loader)                                     # an epoch is one sweep's worth of minibatches: ceil(10 / 4)
3
>>> for batch in loader:
...     print(batch["x"].tolist(), batch.nominal_time)
[7.0, 3.0, 6.0, 5.0] 0
[8.0, 1.0, 0.0, 2.0] 4
[4.0, 9.0, 6.0, 2.0] 8

>>> state = loader.state_dict()                     # some 200 bytes of JSON
>>> again = Loader(folder, 6, seed=7)               # another minibatch size: still the same axis
>>> again.load_state_dict(state)
>>> next(iter(again)).nominal_time
12

**Who drives the loop**, what to give them, and where the state of the data is kept:

- your own loop: `for batch in Loader(source, 256, device=device)`; `loader.state_dict()`.
- Lightning: `trainer.fit(model, Loader(source, 256))`; in Lightning's checkpoints, by itself.
- Accelerate: `Loader(source, 256, device=accelerator.device)`, which `prepare` leaves as it is;
  `accelerator.register_for_checkpointing(loader)`.
- Hugging Face's `Trainer`: `train_dataset=TimelineDataset(source, 256)`, `data_collator=one_minibatch` and
  `per_device_train_batch_size=1`; the Trainer finds its place by itself: it reads again what it has seen of the epoch.
- torchdata: `StatefulDataLoader(TimelineDataset(source, 256), batch_size=None)`; its own state.
- `DataLoader(TimelineDataset(source, 256), batch_size=None)`; `dataset.state_dict(after=batch)`.

**Epochs.** A pass (`for batch in …`) begins at the nominal time where the source stands and ends at the border of an
epoch: epochs lie on the axis as a grid of `steps_per_epoch` minibatches, by default as many as show one sweep's worth
of samples. A pass broken off is continued by the next one, and so is one restored in its middle. Nothing is short at a
border and nothing happens there. `set_epoch` does nothing, but for a source that stands at time 0: it goes to where
that epoch begins, as whoever starts a run in the middle without our state expects.

**Ranks.** Where `torch.distributed` is initialised, each rank reads its own part of every minibatch, of which
`minibatch_size` is the size over all ranks; `num_data_partitions=` and `partition_index=` say otherwise.

**Prefetching loops.** What a caller takes from a loader before it uses it counts as used. Lightning does so for loaders
without a length (`steps_per_epoch="axis"` without an end): give one. Accelerate does so around every `DataLoader`: give
it the `Loader`, or save `dataset.state_dict(after=batch)`.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from minibatch.errors import MissingExtraError as _MissingExtraError

    raise _MissingExtraError(
        "minibatch.torch needs 'torch', which is not installed: pip install \"minibatch-timeline[train]\""
    ) from error

from minibatch.torch.dataset import TimelineDataset as TimelineDataset
from minibatch.torch.loader import Loader as Loader
from minibatch.torch.pinned import PinnedPool as PinnedPool
from minibatch.torch.tensors import Lists as Lists
from minibatch.torch.tensors import TensorForm as TensorForm
from minibatch.torch.tensors import Tensors as Tensors
from minibatch.torch.tensors import cumulative_lengths as cumulative_lengths
from minibatch.torch.tensors import one_minibatch as one_minibatch
from minibatch.torch.tensors import to_tensors as to_tensors

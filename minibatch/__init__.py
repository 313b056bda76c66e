"""Minibatches as a function of (data, seed, nominal time): shuffled, exact, checkpointable by one integer.

source = MinibatchSource("data/digits", seed=7)
batch = source.next_minibatch(256)
state = source.get_checkpoint_state()
"""

__version__ = "0.1.0"

from minibatch.batch import Batch as Batch
from minibatch.buffers import NullMask as NullMask
from minibatch.dataset import Dataset as Dataset
from minibatch.joining import join as join
from minibatch.length_groups import LengthGroups as LengthGroups
from minibatch.mixture import Mixture as Mixture
from minibatch.order import Window as Window
from minibatch.ragged import Ragged as Ragged
from minibatch.source import MinibatchSource as MinibatchSource
from minibatch.sparse import Sparse as Sparse
from minibatch.timeline import SkipRows as SkipRows
from minibatch.views import concatenate as concatenate
from minibatch.views import split as split
from minibatch.views import subset as subset
from minibatch.write import DatasetWriter as DatasetWriter

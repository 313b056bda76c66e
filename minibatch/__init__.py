"""Minibatches as a function of (data, seed, nominal time): shuffled, exact, checkpointable by one integer.

source = MinibatchSource("data/digits", seed=7)
batch = source.next_minibatch(256)
state = source.get_checkpoint_state()
"""

__version__ = "0.1.0"

from minibatch.batch import Batch as Batch
from minibatch.dataset import Dataset as Dataset
from minibatch.order import Window as Window
from minibatch.source import MinibatchSource as MinibatchSource
from minibatch.timeline import SkipRows as SkipRows
from minibatch.write import DatasetWriter as DatasetWriter

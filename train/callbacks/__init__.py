"""Callbacks of `fit`: functions of (trainer, result), and listeners that hear of validations and the end, too."""

from minibatch.train.callbacks.epochs import LossMonitor as LossMonitor
from minibatch.train.callbacks.epochs import TimeMonitor as TimeMonitor
from minibatch.train.callbacks.epochs import place_in_epoch as place_in_epoch
from minibatch.train.callbacks.hooks import Callback as Callback
from minibatch.train.callbacks.hooks import Hooks as Hooks
from minibatch.train.callbacks.hooks import Listener as Listener
from minibatch.train.callbacks.keeping import Checkpoint as Checkpoint
from minibatch.train.callbacks.keeping import EarlyStopping as EarlyStopping
from minibatch.train.callbacks.keeping import KeepBest as KeepBest

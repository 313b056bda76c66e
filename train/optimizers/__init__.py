"""Optimizers by name, and those that torch does not have; the import name is minibatch.train.optimizers."""

from minibatch.train.optimizers.adaptive import GravesRMSprop as GravesRMSprop
from minibatch.train.optimizers.adaptive import InsideAdagrad as InsideAdagrad
from minibatch.train.optimizers.cntk import CntkAdam as CntkAdam
from minibatch.train.optimizers.cntk import CntkRMSprop as CntkRMSprop
from minibatch.train.optimizers.cntk import FSAdagrad as FSAdagrad
from minibatch.train.optimizers.descent import Descent as Descent
from minibatch.train.optimizers.esgd import ESGD as ESGD
from minibatch.train.optimizers.momentum import Momentum as Momentum
from minibatch.train.optimizers.named import optimizer as optimizer
from minibatch.train.optimizers.named import optimizer_names as optimizer_names
from minibatch.train.optimizers.on_top import AdadeltaOnTop as AdadeltaOnTop
from minibatch.train.optimizers.on_top import AdamOnTop as AdamOnTop
from minibatch.train.optimizers.on_top import RpropOnTop as RpropOnTop
from minibatch.train.optimizers.staged import Staged as Staged

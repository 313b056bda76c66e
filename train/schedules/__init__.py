"""Learning rates, momenta, coefficients and minibatch sizes as functions of nominal time: nothing of them is saved.

A schedule is any function `t -> value`, called with the nominal time (samples) at the beginning of a step. Those here
are frozen values, so that they go into the run's saved configuration. Those that react to validation get all validation
values so far as well, and are pure functions of both.

A parameter group with an entry "lr_scale" gets its multiple of the optimizer's rate.
"""

from minibatch.train.schedules.cntk import cntk_list as cntk_list
from minibatch.train.schedules.cntk import momentum_at as momentum_at
from minibatch.train.schedules.cntk import rate_per_minibatch as rate_per_minibatch
from minibatch.train.schedules.cntk import rate_per_sample as rate_per_sample
from minibatch.train.schedules.cntk import time_constant as time_constant
from minibatch.train.schedules.convnet import from_convnet as from_convnet
from minibatch.train.schedules.curves import Constant as Constant
from minibatch.train.schedules.curves import Cosine as Cosine
from minibatch.train.schedules.curves import CosineRestarts as CosineRestarts
from minibatch.train.schedules.curves import DiscreteExponential as DiscreteExponential
from minibatch.train.schedules.curves import Exponential as Exponential
from minibatch.train.schedules.curves import Linear as Linear
from minibatch.train.schedules.curves import OneCycle as OneCycle
from minibatch.train.schedules.curves import Polynomial as Polynomial
from minibatch.train.schedules.curves import Steps as Steps
from minibatch.train.schedules.joined import Held as Held
from minibatch.train.schedules.joined import Product as Product
from minibatch.train.schedules.joined import Scaled as Scaled
from minibatch.train.schedules.joined import Sum as Sum
from minibatch.train.schedules.joined import Then as Then
from minibatch.train.schedules.joined import Warmup as Warmup
from minibatch.train.schedules.reacting import Newbob as Newbob
from minibatch.train.schedules.reacting import Plateau as Plateau
from minibatch.train.schedules.schedule import Schedule as Schedule
from minibatch.train.schedules.schedule import Values as Values
from minibatch.train.schedules.schedule import ValuesByName as ValuesByName
from minibatch.train.schedules.schedule import value_at as value_at
from minibatch.train.schedules.schedule import watched as watched
from minibatch.train.schedules.sizes import Growing as Growing
from minibatch.train.schedules.sizes import checked_sizes as checked_sizes
from minibatch.train.schedules.sizes import cntk_sizes as cntk_sizes
from minibatch.train.schedules.sizes import size_at as size_at
from minibatch.train.schedules.stages import Stage as Stage
from minibatch.train.schedules.stages import theanets_newbob as theanets_newbob

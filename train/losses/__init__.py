"""Per-sample losses: each returns values (n,), one per sample, and never a reduction; terms.py does the sums.

`on(cross_entropy, "label")` makes of such a function the loss of a term: which output it is of, which field it is
compared with, and its options, all of which go into the run's saved configuration.

Functions take outputs and targets of n samples. Where a sample has several elements (an image, a vector), its loss is
their mean; with `reduce="none"` the elements stay (n, …), for weights and masks per element. Half precision is
computed in float32. What `missing=` names has the loss 0 and the gradient 0; mask it in the term, too.
"""

from minibatch.train.losses.binary import binary_cross_entropy as binary_cross_entropy
from minibatch.train.losses.classes import cross_entropy as cross_entropy
from minibatch.train.losses.contrastive import Temperature as Temperature
from minibatch.train.losses.contrastive import contrastive as contrastive
from minibatch.train.losses.contrastive import contrastive_margin as contrastive_margin
from minibatch.train.losses.ctc import ctc as ctc
from minibatch.train.losses.discrepancy import mmd as mmd
from minibatch.train.losses.distributions import gaussian_nll as gaussian_nll
from minibatch.train.losses.distributions import kl as kl
from minibatch.train.losses.fields import ClassWeight as ClassWeight
from minibatch.train.losses.fields import Compared as Compared
from minibatch.train.losses.fields import OfBatch as OfBatch
from minibatch.train.losses.fields import OfOutputs as OfOutputs
from minibatch.train.losses.fields import Present as Present
from minibatch.train.losses.fields import class_weight as class_weight
from minibatch.train.losses.fields import of_batch as of_batch
from minibatch.train.losses.fields import of_outputs as of_outputs
from minibatch.train.losses.fields import on as on
from minibatch.train.losses.fields import present as present
from minibatch.train.losses.focal import focal as focal
from minibatch.train.losses.focal import sigmoid_focal as sigmoid_focal
from minibatch.train.losses.margins import hinge as hinge
from minibatch.train.losses.margins import multiclass_hinge as multiclass_hinge
from minibatch.train.losses.regression import cosine as cosine
from minibatch.train.losses.regression import huber as huber
from minibatch.train.losses.regression import l1 as l1
from minibatch.train.losses.regression import mse as mse
from minibatch.train.losses.regression import overshoot as overshoot
from minibatch.train.losses.regression import sum_of_squares as sum_of_squares
from minibatch.train.losses.shapes import Reduce as Reduce
from minibatch.train.losses.uncertainty import Uncertain as Uncertain
from minibatch.train.losses.uncertainty import Uncertainty as Uncertainty
from minibatch.train.losses.uncertainty import uncertain as uncertain

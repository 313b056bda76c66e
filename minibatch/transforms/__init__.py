"""Changes to samples on their way out of the source, each random number keyed to nominal time.

A transform is any callable `(fields, draws) -> fields`: a dict of n samples in, a dict of n samples out, and `draws`
(`minibatch.rng.Draws`) for random numbers, which are functions of (seed, operation, nominal time of the sample). So
augmentation does not depend on minibatch size, partitions, threads or restarts, as long as a transform treats each
sample by itself, or, where it has an attribute `neighbourhood`, each neighbourhood of nominal time.

>>> import numpy as np
>>> from minibatch.rng import Draws
>>> def brighter(fields, draws):
...     return {**fields, "x": fields["x"] * draws.uniform((1,))}
>>> brighter({"x": np.ones((2, 3))}, Draws(7, "brighter", np.arange(2)))["x"].shape
(2, 3)
"""

from minibatch.transforms.boxes import CropWithBoxes as CropWithBoxes
from minibatch.transforms.boxes import FlipWithBoxes as FlipWithBoxes
from minibatch.transforms.boxes import PresentClasses as PresentClasses
from minibatch.transforms.boxes import ResizeBoxes as ResizeBoxes
from minibatch.transforms.colours import ColorJitter as ColorJitter
from minibatch.transforms.colours import ColorNoise as ColorNoise
from minibatch.transforms.colours import Normalize as Normalize
from minibatch.transforms.colours import color_components as color_components
from minibatch.transforms.decoding import DecodeImage as DecodeImage
from minibatch.transforms.images import CenterCrop as CenterCrop
from minibatch.transforms.images import HorizontalFlip as HorizontalFlip
from minibatch.transforms.images import MultiCrop as MultiCrop
from minibatch.transforms.images import RandomCrop as RandomCrop
from minibatch.transforms.labels import Cast as Cast
from minibatch.transforms.labels import LabelSmoothing as LabelSmoothing
from minibatch.transforms.labels import OneHot as OneHot
from minibatch.transforms.mixing import CutMix as CutMix
from minibatch.transforms.mixing import MixUp as MixUp
from minibatch.transforms.noise import Cutout as Cutout
from minibatch.transforms.noise import Dropout as Dropout
from minibatch.transforms.noise import GaussianNoise as GaussianNoise
from minibatch.transforms.noise import RandomErasing as RandomErasing
from minibatch.transforms.operations import Fields as Fields
from minibatch.transforms.operations import Transform as Transform
from minibatch.transforms.operations import apply as apply
from minibatch.transforms.operations import hull as hull
from minibatch.transforms.operations import name_operations as name_operations
from minibatch.transforms.operations import named as named
from minibatch.transforms.rois import AnchorGrid as AnchorGrid
from minibatch.transforms.rois import SampleRois as SampleRois
from minibatch.transforms.sizes import RandomResizedCrop as RandomResizedCrop
from minibatch.transforms.sizes import Resize as Resize
from minibatch.transforms.tokens import NextToken as NextToken

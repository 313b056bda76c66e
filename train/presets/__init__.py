"""The habits of five systems, each as one frozen value: `preset("halcon")`; the import name is minibatch.train.presets.

Everything here can be written without presets, by the options that each behaviour has. They exist to be compared, and
so that a run from one of those systems can be done again with all of its conventions at once.
"""

from minibatch.train.presets.preset import Preset as Preset
from minibatch.train.presets.systems import SYSTEMS as SYSTEMS
from minibatch.train.presets.systems import preset as preset

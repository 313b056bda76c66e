"""Noise layers whose randomness is keyed to nominal time: no generator, no state, nothing to save.

Every layer bound by `bind` has a 64-bit key. The random word of one element of one sample is a hash of (key of the
layer, number of the call of that layer within one forward pass, nominal time of the sample, index of the element in
the sample), in integer arithmetic alone. So a mask is the same for any cut into microbatches, on any device, with any
number of threads, after a resume and in a recomputation; and no state of a generator is ever saved.

words.py has the hash, keys.py the keys, layers.py the layers; attach.py puts them into a model by patterns of names,
and foreign.py finds and replaces layers that draw from torch's global generator.
"""

from minibatch.models.noise.attach import attach as attach
from minibatch.models.noise.attach import attach_named as attach_named
from minibatch.models.noise.foreign import advice as advice
from minibatch.models.noise.foreign import convert as convert
from minibatch.models.noise.foreign import foreign as foreign
from minibatch.models.noise.keys import KeyedNoise as KeyedNoise
from minibatch.models.noise.keys import NoiseKeys as NoiseKeys
from minibatch.models.noise.keys import bind as bind
from minibatch.models.noise.keys import checkpoint_contexts as checkpoint_contexts
from minibatch.models.noise.layers import AlphaDropout as AlphaDropout
from minibatch.models.noise.layers import Dropout as Dropout
from minibatch.models.noise.layers import DropPath as DropPath
from minibatch.models.noise.layers import GaussianNoise as GaussianNoise
from minibatch.models.noise.layers import NoisyReLU as NoisyReLU
from minibatch.models.noise.layers import RReLU as RReLU
from minibatch.models.noise.words import GOLDEN as GOLDEN
from minibatch.models.noise.words import MASK_64 as MASK_64
from minibatch.models.noise.words import element_bits as element_bits
from minibatch.models.noise.words import element_words as element_words
from minibatch.models.noise.words import mix64 as mix64
from minibatch.models.noise.words import sample_words as sample_words
from minibatch.models.noise.words import signs as signs

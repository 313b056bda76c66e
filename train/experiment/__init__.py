"""Quick work: nets from layer sizes, trained on arrays with one call; the import name is minibatch.train.experiment."""

from minibatch.train.experiment.experiment import Experiment as Experiment
from minibatch.train.experiment.networks import Autoencoder as Autoencoder
from minibatch.train.experiment.networks import Classifier as Classifier
from minibatch.train.experiment.networks import Network as Network
from minibatch.train.experiment.networks import Regressor as Regressor
from minibatch.train.experiment.settings import Settings as Settings

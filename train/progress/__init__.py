"""What a person sees of a run, and what programs read: lines, curves, files. Nothing here runs between log points."""

from minibatch.train.progress.boards import TensorBoard as TensorBoard
from minibatch.train.progress.boards import WandB as WandB
from minibatch.train.progress.convnet import ConvnetLines as ConvnetLines
from minibatch.train.progress.json_lines import JsonLines as JsonLines
from minibatch.train.progress.line import ProgressLine as ProgressLine
from minibatch.train.progress.reporter import Reporter as Reporter
from minibatch.train.progress.reporter import Several as Several
from minibatch.train.progress.reporter import Told as Told
from minibatch.train.progress.reporter import announce as announce

"""Time travel: what was in a step, the step again, who is to blame for it, and whether two runs are one.

A step is a function of a checkpoint and an interval of nominal time, so the past of a run can be asked after it:
everything here takes a run's folder (`Past`), changes nothing in it, and works while the run goes on.
"""

from minibatch.train.travel.blame import Blame as Blame
from minibatch.train.travel.blame import Spike as Spike
from minibatch.train.travel.blame import Suspect as Suspect
from minibatch.train.travel.blame import blame as blame
from minibatch.train.travel.blame import worst_step as worst_step
from minibatch.train.travel.compare import TensorDifference as TensorDifference
from minibatch.train.travel.diff_runs import RunDifferences as RunDifferences
from minibatch.train.travel.diff_runs import diff_runs as diff_runs
from minibatch.train.travel.diff_runs import paired_validations as paired_validations
from minibatch.train.travel.fork import Forked as Forked
from minibatch.train.travel.fork import fork as fork
from minibatch.train.travel.opening import Past as Past
from minibatch.train.travel.opening import Saved as Saved
from minibatch.train.travel.opening import Standing as Standing
from minibatch.train.travel.replay import Replay as Replay
from minibatch.train.travel.replay import TermReplay as TermReplay
from minibatch.train.travel.replay import replay as replay
from minibatch.train.travel.verify_resume import Verification as Verification
from minibatch.train.travel.verify_resume import verify_resume as verify_resume
from minibatch.train.travel.who import Occurrence as Occurrence
from minibatch.train.travel.who import StepRows as StepRows
from minibatch.train.travel.who import axes_of as axes_of
from minibatch.train.travel.who import when_seen as when_seen
from minibatch.train.travel.who import who as who

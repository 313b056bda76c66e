"""Plain twins of the schedules that other systems have, written as those systems do it: step by step, with state."""

import math


def convnet_rates(kind: str, base: float, factor: float, levels: int, progress: float) -> float:
    """The value of a schedule of cuda-convnet2 at `progress` from 0 to 1, after lr.cu."""
    if kind == "linear":
        return base * (1 - progress) + (base / factor) * progress
    if kind == "exp":
        return base * math.pow(1.0 / factor, progress)
    rates = [base * math.pow(1.0 / factor, i / (levels - 1)) for i in range(levels - 1)]
    rates.append(base / factor)
    for i, rate in enumerate(rates):
        if progress <= (i + 1) / len(rates):
            return rate
    return rates[-1]


def convnet_run(kind: str, base: float, factor: float, levels: int, batches: int, data_batch: int) -> list[float]:
    """The rate of every sample of a run over so many data batches: it is set once for each data batch."""
    rates = []
    for done in range(1, batches + 1):
        rates += [convnet_rates(kind, base, factor, levels, (done - 1) / batches)] * data_batch
    return rates


def cntk_values(pairs: list[tuple[int, float]], epoch_size: int, samples: int) -> list[float]:
    """The value at each of the first `samples` samples, one epoch after the other."""
    values: list[float] = []
    for count, value in pairs:
        values += [value] * (count * epoch_size)
    return (values + [pairs[-1][1]] * samples)[:samples]


def cntk_weights(gradients: list[list[float]], rate: float, tau: float, unit_gain: bool) -> float:
    """One weight after momentum SGD on the gradients of samples, grouped into minibatches; CNTK's rates per sample."""
    weight, velocity = 0.0, 0.0
    for minibatch in gradients:
        momentum = math.exp(-len(minibatch) / tau)
        velocity = momentum * velocity + (1.0 - momentum if unit_gain else 1.0) * rate * sum(minibatch)
        weight -= velocity
    return weight


class Newbob:
    """QuickNet's rate: `rate` as long as things get better by `threshold`, afterwards less after every validation."""

    def __init__(self, rate: float, factor: float, threshold: float, stop: float) -> None:
        self.rate, self.factor, self.threshold, self.stop = rate, factor, threshold, stop
        self.before: float | None = None
        self.ramping = self.finished = False

    def measured(self, accuracy: float) -> None:
        if self.before is not None:
            better = accuracy - self.before
            if self.ramping:
                self.finished = better < self.stop
                self.rate *= self.factor
            elif better < self.threshold:
                self.ramping = True
                self.rate *= self.factor
        self.before = accuracy


class Patience:
    """downhill's early stopping, after `Optimizer._test_patience`."""

    def __init__(self, patience: int, min_improvement: float) -> None:
        self.patience, self.min_improvement = patience, min_improvement
        self.best_loss, self.best_iter, self.curr_iter = 1e100, 0, 0
        self.best_place: int | None = None

    def elapsed(self, loss: float) -> bool:
        self.curr_iter += 1
        if self.best_loss - loss > self.best_loss * self.min_improvement:
            self.best_loss, self.best_iter = loss, self.curr_iter
            self.best_place = self.curr_iter - 1
        return self.curr_iter - self.best_iter > self.patience

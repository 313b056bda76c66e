"""Runs drawn at random: one straight, checked step by step against plain PyTorch, and one with everything in its way.

`Plan.draw(seed)` chooses model, losses, weights, sizes, promise and the rest. `straight` trains it and compares the
gradient of every step with one whole computation that knows nothing of the engine: columns by row, its own losses and
denominators, one backward pass. `disturbed` trains the same plan with other leaves' order, saves (also by a thread),
new processes' objects, interrupts in the middle of passes. By hand: `python -m tests.train.random_run SECONDS [SEED]`.
"""

import math
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minibatch import MinibatchSource, Window, rng
from minibatch.models import noise
from minibatch.train import (
    EMA,
    ClipElement,
    ClipNorm,
    ClipTensorNorm,
    HiddenL1,
    JointSource,
    NonFiniteError,
    Skip,
    Term,
    Trainer,
    WeightL1,
    WeightL2,
    binary_cross_entropy,
    cross_entropy,
    mse,
    on,
)
from minibatch.train.digest import tensors_digest
from minibatch.train.state import optimizer_tensors
from tests.train.small import CLASSES, FEATURES, ROWS, fields, write

ROWS_OF = {"a": ROWS, "b": 31}
COLUMNS = {name: fields(rows) for name, rows in ROWS_OF.items()}
TOLERANCE = 1e-11
WEIGHTS = (None, None, "uniform", "zero", "extreme", "nothing", "element_weight")
MASKS = (None, None, "has_target", "element_mask", "late")
DENOMINATORS = ("weights", "weights", "count", "nominal", 3.5, None)


class Heads(nn.Module):
    """Two heads on a body with what the plan asks for: noise, batch normalisation, a tied weight."""

    def __init__(self, plan: "Plan") -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 6)
        self.norm = nn.BatchNorm1d(6) if plan.norm == "batch" else nn.LayerNorm(6)
        self.middle, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        if plan.tied:
            self.again.weight = self.middle.weight
        self.drop = noise.Dropout(plan.dropout)
        self.blur = noise.GaussianNoise(plan.blur)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.classes, self.values = nn.Linear(6, CLASSES), nn.Linear(6, 2)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7 + number).view(parameter.shape) * 0.5)

    def forward(self, x):
        hidden = self.blur(torch.tanh(self.norm(self.first(x))))
        hidden = self.frozen(self.drop(torch.tanh(self.again(self.drop(self.middle(hidden))))))
        return {"logits": self.classes(hidden), "values": self.values(hidden)}


def pairs(outputs, batch):
    """A loss over the minibatch: how near each sample's values are to those of all others."""
    values = outputs["values"]
    return torch.tanh(values @ values.T).square().mean(1)


def late(batch):
    return batch.times % 5 != 2


LOSSES = {
    "class": on(cross_entropy, "label", output="logits"),
    "fit": on(mse, "target", output="values"),
    "each": on(mse, "target", output="values", reduce="none"),
    "binary": on(binary_cross_entropy, "binary", output="values"),
    "pairs": pairs,
}


def by_hand(kind, out, columns):
    """The values of a loss, (n,) or (n, 2), with nothing but arithmetic."""
    if kind == "class":
        z = out["logits"]
        shifted = z - z.max(1, keepdim=True).values
        return shifted.exp().sum(1).log() - shifted[torch.arange(len(z)), columns["label"]]
    v = out["values"]
    if kind == "fit":
        return (v - columns["target"]).square().sum(1) / 2
    if kind == "each":
        return (v - columns["target"]).square()
    if kind == "pairs":
        return torch.stack([torch.tanh((v * row).sum(1)).square().sum() / len(v) for row in v])
    y = columns["binary"].double()
    zero = torch.zeros_like(v)
    return (torch.logaddexp(zero, -v) * y + torch.logaddexp(zero, v) * (1 - y)).sum(1) / 2


@dataclass
class Size:
    """A minibatch size that changes with nominal time."""

    sizes: tuple[int, ...]
    period: int

    def __call__(self, t):
        return self.sizes[t // self.period % len(self.sizes)]


@dataclass
class Fading:
    start: float

    def __call__(self, t):
        return self.start / (1 + t / 50)


@dataclass
class Plan:
    seed: int

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        choose = draw.choice
        self.promise = choose(["math", "bits", "bits"])
        self.leaf_size = choose([1, 2, 3, 5, 8, 32])
        self.joint = draw.random() < 0.3
        self.norm = choose(["layer", "layer", "batch"])
        self.batch_norm = choose(["leaf", "frozen"]) if self.norm == "batch" else None
        if self.batch_norm == "leaf":
            self.leaf_size = choose([4, 8, 16])
        self.tied = draw.random() < 0.3
        self.dropout, self.blur = choose([0.0, 0.3]), choose([0.0, 0.2])
        self.minibatch_size = choose([1, 3, 7, 16, 24, 61, 120, Size((5, 17, 9), 40)])
        if self.batch_norm == "leaf":
            # a leaf of one sample has no variance
            self.minibatch_size = choose([16, 32, 48])
        self.microbatch = None if draw.random() < 0.3 else draw.randint(1, 30)
        self.shuffle = choose(["full", "full", None, Window(rows=10)])
        self.holes = [(13, 20), (40, 41)] if draw.random() < 0.3 and self.batch_norm != "leaf" else []
        begin = draw.randint(0, 60)
        self.skips = (
            [Skip(start=begin, stop=begin + draw.randint(1, 80))]
            if draw.random() < 0.3 and self.batch_norm != "leaf"
            else []
        )
        self.ratios = {"a": draw.randint(1, 5), "b": draw.randint(1, 5)}
        if self.batch_norm == "leaf":
            self.joint = False
        self.max_samples = choose([None, None, 150]) if not self.joint else None
        self.terms = []
        for name in draw.sample(list(LOSSES), draw.randint(1, 3)):
            element = name == "each"
            weight = choose([w for w in WEIGHTS if element or w != "element_weight"])
            mask = choose([m for m in MASKS if element or m != "element_mask"])
            self.terms.append(
                Term(
                    name,
                    LOSSES[name],
                    weight=weight,
                    mask=late if mask == "late" else mask,
                    denominator=choose(DENOMINATORS),
                    coefficient=choose([1.0, 0.3, 7.0, -0.1, 0.0, Fading(2.0)]),
                    over="minibatch" if name == "pairs" else "sample",
                    stream=choose("ab") if self.joint else None,
                )
            )
        if self.joint:
            for stream in "ab":
                if not any(term.stream == stream for term in self.terms):
                    self.terms.append(Term(f"more {stream}", LOSSES["fit"], stream=stream, denominator="count"))
        self.l2, self.l1 = choose([None, 0.01, Fading(0.02)]), choose([None, 0.003])
        self.l2_reduce = choose(["sum", "mean", "mean_of_means"])
        self.hidden = draw.random() < 0.2
        self.clip = choose([None, None, ClipNorm(0.5), ClipElement(0.05), ClipTensorNorm(0.3)])
        self.ema = choose([None, EMA(halflife=70), EMA(decay=0.99, start=30, buffers="average")])
        self.optimizer = choose(["sgd", "adam", "adamw", "two"])
        self.rate = choose([None, None, Fading(0.05)])
        self.steps = draw.randint(3, 9)
        self.run_seed = draw.randint(0, 2**62)
        self.dtype = torch.float64 if self.promise == "math" else choose([torch.float32, torch.float64])

    def describe(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items())

    def source(self, folders):
        def one(name, **options):
            return MinibatchSource(
                folders[name], seed=self.run_seed % 1000 + len(name), shuffle=self.shuffle, skip=self.holes, **options
            )

        if self.joint:
            return JointSource({name: one(name) for name in "ab"}, self.ratios)
        return one("a", max_samples=self.max_samples)

    def make(self, folders, *, order=None, **options):
        """A Trainer as a new process would make it; float64 or float32."""
        source = self.source(folders)
        model = Heads(self).to(self.dtype)
        parameters = list(model.parameters())
        optimizers = {
            "sgd": lambda: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
            "adam": lambda: torch.optim.Adam(parameters, lr=0.01),
            "adamw": lambda: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
            "two": lambda: [
                torch.optim.SGD(parameters[::2], lr=0.03, momentum=0.5),
                torch.optim.RMSprop([*reversed(parameters[1::2])], lr=0.003),
            ],
        }[self.optimizer]()
        regularizers = []
        if self.l2 is not None:
            regularizers.append(WeightL2(coefficient=self.l2, reduce=self.l2_reduce))
        if self.l1 is not None:
            regularizers.append(WeightL1(coefficient=self.l1, pattern="*.bias", least_axes=1))
        if self.hidden:
            regularizers.append(HiddenL1(coefficient=0.1, pattern="middle", stream="a" if self.joint else None))
        microbatch = options.pop("microbatch_size", self.microbatch)
        if (self.promise == "bits" or self.batch_norm == "leaf") and microbatch is not None:
            microbatch += self.leaf_size
        dtype = self.dtype
        trainer = Trainer(
            model,
            self.terms,
            optimizers,
            source,
            self.minibatch_size,
            microbatch,
            lambda model, batch: model(batch["x"].to(dtype)),
            self.run_seed,
            schedules=None if self.rate is None else [self.rate] * (2 if self.optimizer == "two" else 1),
            regularizers=regularizers,
            clip=() if self.clip is None else self.clip,
            averaging=self.ema,
            promise=self.promise,
            leaf_size=self.leaf_size,
            batch_norm=self.batch_norm,
            skips=self.skips,
            check_unreached=False,
            announce=lambda text: None,
            **options,
        )
        if order is not None:
            trainer.gradient.order = lambda cuts: order.sample(cuts, len(cuts))
        return trainer


def digest(trainer):
    """Of everything a run is: weights, optimizers, averages, position."""
    tensors = {f"model/{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= optimizer_tensors(trainer.optimizers, trainer.owned)
    if trainer.averaging is not None:
        tensors |= {f"averaged/{name}": tensor for name, tensor in trainer.averaging.tensors().items()}
    return f"{trainer.step} {trainer.nominal_time} {tensors_digest(tensors)}"


def places_of(plan, trainer, t0, t1):
    """By stream: names, rows and nominal times of the samples of [t0, t1), counted one by one."""
    source = trainer.source
    ends = {}
    for stream in "ab" if plan.joint else (None,):
        one = source.sources[stream] if plan.joint else source
        axis = list(range(t0, t1))
        if plan.joint:
            axis = [t for t in axis if source.time_of(stream, t + 1) > source.time_of(stream, t)]
            times = [source.time_of(stream, t) for t in axis]
        else:
            times = axis
        keep = [
            (t, on_axis)
            for t, on_axis in zip(times, axis, strict=True)
            if not any(start <= t < stop for start, stop in plan.holes)
            and not any(skip.start <= on_axis < skip.stop for skip in plan.skips)
        ]
        times = np.array([t for t, _ in keep], np.int64)
        rows = np.array([one.at(int(t), 1)[0] for t in times], np.int64)
        ends[stream] = rows, times
    return ends


def plain_step(plan, trainer, model, keys, t0, t1, nominal):
    """Loss values by term, and the gradient by name, of one whole minibatch; before clipping, with regularizers."""
    for parameter in model.parameters():
        parameter.grad = None
    values, total, present = {}, 0.0, False
    for stream, (rows, times) in places_of(plan, trainer, t0, t1).items():
        columns = {name: torch.from_numpy(values[rows]) for name, values in COLUMNS[stream or "a"].items()}
        n = len(rows)
        if n:
            groups = [slice(0, n)]
            if plan.batch_norm == "leaf":
                edges = [0, *(np.flatnonzero(np.diff(times // plan.leaf_size)) + 1).tolist(), n]
                groups = [slice(a, b) for a, b in pairwise(edges)]
            pieces = []
            for group in groups:
                key = 0 if stream is None else rng.key(plan.run_seed, f"stream.{stream}")
                with keys.at(torch.from_numpy(times[group]), stream=key):
                    pieces.append(model(columns["x"][group].to(plan.dtype)))
            out = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        asked = nominal
        if plan.joint:
            asked = trainer.source.time_of(stream, t0 + nominal) - trainer.source.time_of(stream, t0)
        for term in plan.terms:
            if term.stream != stream:
                continue
            kind = "fit" if term.name.startswith("more") else term.name
            if not n:
                values[term.name] = None
                continue
            loss = by_hand(kind, out, columns).double()
            weight = torch.ones(n) if term.weight is None else columns[term.weight]
            if term.mask is late:
                mask = torch.from_numpy(times % 5 != 2)
            else:
                mask = torch.ones(n, dtype=torch.bool) if term.mask is None else columns[term.mask]
            shape = loss.shape if loss.ndim > 1 else (n,)
            weight, mask = (
                (c.double()[:, None].expand(shape) if c.ndim < loss.ndim else c.double().expand(shape))
                for c in (weight, mask)
            )
            d = {
                "weights": (weight * mask).sum().item(),
                "count": mask.sum().item(),
                "nominal": float(asked),
                None: 1.0,
            }.get(term.denominator, term.denominator)
            if not d:
                values[term.name] = None
                continue
            present = True
            mean = (weight * mask * loss).sum() / d
            coefficient = term.coefficient(t0) if callable(term.coefficient) else term.coefficient
            values[term.name] = mean.item()
            total = total + coefficient * mean
    if isinstance(total, torch.Tensor):
        total.backward()
    if not present:
        return values, None, 0.0
    total = float(total.detach()) if isinstance(total, torch.Tensor) else total
    for name, parameter in model.named_parameters():
        part = 0.0
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        if plan.l2 is not None and parameter.ndim >= 2:
            c = plan.l2(t0) if callable(plan.l2) else plan.l2
            c /= {"sum": 1, "mean": parameter.numel(), "mean_of_means": parameter.numel() * len(matrices)}[
                plan.l2_reduce
            ]
            part = part + 2 * c * parameter.detach()
            total += c * parameter.detach().square().sum().item()
        if plan.l1 is not None and name.endswith("bias"):
            part = part + plan.l1 * parameter.detach().sign()
            total += plan.l1 * parameter.detach().abs().sum().item()
        if isinstance(part, torch.Tensor) and parameter.requires_grad:
            parameter.grad = part if parameter.grad is None else parameter.grad + part
    return values, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, total


def clipped(clip, gradients):
    if isinstance(clip, ClipElement):
        return {n: g.clamp(-clip.limit, clip.limit) for n, g in gradients.items()}
    if isinstance(clip, ClipTensorNorm):
        return {n: g * min(1.0, clip.limit / max(g.norm().item(), 1e-300)) for n, g in gradients.items()}
    if isinstance(clip, ClipNorm):
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
        return {n: g * min(1.0, clip.limit / max(norm, 1e-300)) for n, g in gradients.items()}
    return gradients


def straight(plan, folders, *, compare=True, **options):
    """Train the plan without any disturbance; the digest after every step."""
    trainer = plan.make(folders, **options)
    model = Heads(plan).to(plan.dtype)
    keys = noise.bind(model, lambda name: rng.key(plan.run_seed, f"noise.{name}"))
    model.train(trainer.model.training)
    if plan.batch_norm == "frozen":
        model.norm.eval()
    compare = compare and plan.dtype is torch.float64 and not plan.hidden
    digests = []
    for _ in range(plan.steps):
        t0, nominal = trainer.nominal_time, trainer.next_size
        model.load_state_dict(trainer.model.state_dict())
        try:
            result = trainer.train_minibatch()
        except NonFiniteError:  # weights of 1e4 on steep losses; the exact sum ends at 2^18
            digests.append("not finite")
            break
        if not result:
            assert trainer.nominal_time == plan.max_samples or plan.joint
            break
        if compare:
            assert result.interval[0] == t0
            values, expected, total = plain_step(plan, trainer, model, keys, *result.interval, nominal)
            for name, value in values.items():
                got = result[name]
                assert (got is None) == (value is None), (name, got, value)
                assert value is None or abs(got - value) <= TOLERANCE * max(abs(value), 1e-9), (name, got, value)
            assert result.updated == (expected is not None)
            if expected is not None:
                assert abs(result["total_loss"] - total) <= 1e-10 * max(1.0, abs(total)), (result["total_loss"], total)
                norm = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
                assert abs(result.grad_norm - norm) <= 1e-10 * max(norm, 1e-12)
                expected = clipped(plan.clip, expected)
                size = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
                ours = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
                for name in ours.keys() | expected.keys():
                    zero = torch.zeros_like(trainer.model.get_parameter(name))
                    error = (ours.get(name, zero) - expected.get(name, zero)).abs().max().item()
                    assert error <= TOLERANCE * max(size, 1e-12), (name, error, size)
        digests.append(digest(trainer))
    trainer.close()
    trainer.source.close()
    return digests


class Interrupt:
    """Raises KeyboardInterrupt in the forward pass number `at` of a layer, once."""

    def __init__(self, module, at):
        self.left = at
        self.handle = module.register_forward_hook(self)

    def __call__(self, module, inputs, outputs):
        self.left -= 1
        if self.left == 0:
            self.handle.remove()
            raise KeyboardInterrupt


def disturbed(plan, folders, draw, *, microbatches=()):
    """Train the plan through saves, new objects, interrupts and other orders; the digest after every step.

    microbatches: sizes to choose from in every new life, where they change no bit.
    """
    folder = Path(tempfile.mkdtemp(prefix="läuf e "))
    order = draw if plan.promise == "bits" and plan.batch_norm != "leaf" else None
    digests = {}

    def life():
        options = {"microbatch_size": draw.choice(microbatches)} if microbatches else {}
        return plan.make(folders, order=order, folder=folder / "run", keep_last=2, log_every=3, **options)

    trainer = life()
    try:
        trainer.save_checkpoint()
        while trainer.step < plan.steps:
            event = draw.random()
            if event < 0.15:
                trainer.save_checkpoint(wait=draw.random() < 0.5)
            elif event < 0.3:  # a new process, perhaps with the last save still under way
                if draw.random() < 0.5:
                    trainer.save_checkpoint(wait=False)
                trainer.close()
                trainer.source.close()
                trainer = life()
                trainer.restore_from_checkpoint()
                assert trainer.step not in digests or digest(trainer) == digests[trainer.step]
            elif event < 0.4:
                with_ = Interrupt(trainer.model.middle, draw.randint(1, 4))
                try:
                    result = trainer.train_minibatch()
                    if not result:
                        break
                    digests.setdefault(trainer.step, digest(trainer))
                except KeyboardInterrupt:
                    pass
                except NonFiniteError:
                    digests[trainer.step] = "not finite"
                    break
                with_.handle.remove()
            elif event < 0.5 and trainer.step:
                trainer.restore_from_checkpoint()
            else:
                try:
                    if not trainer.train_minibatch():
                        break
                except NonFiniteError:
                    digests[trainer.step] = "not finite"
                    break
                now = digest(trainer)
                assert digests.setdefault(trainer.step, now) == now
        return [digests[step] for step in sorted(digests)]
    finally:
        trainer.close()
        trainer.source.close()
        shutil.rmtree(folder)


def check(seed, folders):
    """One plan, all of it; how many steps were compared."""
    plan = Plan(seed)
    draw = random.Random(seed + 1)
    whole = straight(plan, folders)
    steps = len(whole)
    if plan.promise == "bits":
        assert straight(plan, folders, compare=False, microbatch_size=None) == whole
        assert disturbed(plan, folders, draw, microbatches=(None, 1, 5, 40)) == whole
    else:
        other = draw.choice([None, 1, 2, 5, 11])
        straight(plan, folders, microbatch_size=other)
        assert disturbed(plan, folders, draw) == whole
    return 3 * steps


def write_data(folder):
    return {name: write(folder / name, rows) for name, rows in ROWS_OF.items()}


def main(seconds, seed):
    torch.set_num_threads(1)
    folders = write_data(Path(tempfile.mkdtemp()))
    end, steps, failed = time.monotonic() + seconds, 0, 0
    first = seed
    while time.monotonic() < end:
        try:
            steps += check(seed, folders)
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:600]}\n    {Plan(seed).describe()}", flush=True)
        seed += 1
    print(f"{seed - first} plans, {steps} steps, {failed} failures")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)

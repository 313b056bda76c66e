"""The five systems: what theanets, cuda-convnet2, CNTK, HALCON and MindSpore do differently, set together."""

import difflib
from dataclasses import replace
from typing import Any

from minibatch.train.every import Sweeps
from minibatch.train.presets.preset import Preset

_ELEMENTS = {"reduce": "none"}  # theanets weights have the shape of the target: every element counts by its own

THEANETS = Preset(  # of the 0.6 era, with downhill
    system="theanets",
    denominator="weights",
    losses={
        "mse": _ELEMENTS,
        "l1": _ELEMENTS,
        "cross_entropy": {"clip": 1e-8},
        "kl": {"absolute": True, "clip": 1e-8, "reduce": "mean"},
        "gaussian_nll": {"given": "absolute", "eps": 1e-3, "full": True, "reduce": "sum"},
        "multiclass_hinge": {"margin": 0.0},
    },
    reduce="mean",
    penalties={
        "weight_l2": {"kind": "WeightL2"},
        "weight_decay": {"kind": "WeightL2"},
        "weight_l1": {"kind": "WeightL1"},
        "weight_sparsity": {"kind": "WeightL1"},
        "hidden_l1": {"kind": "HiddenL1"},
        "hidden_sparsity": {"kind": "HiddenL1"},
        "contractive": {"kind": "Contractive", "form": "theanets", "reduce": "mean_of_means"},
        "recurrent_norm": {"kind": "RecurrentNorm"},
        "recurrent_state": {"kind": "RecurrentState", "reduce": "mean_of_means"},
    },
    algorithm="rmsprop",
    optimizers="theanets",
    spelling={"rms_halflife": "halflife", "rms_regularizer": "eps"},
    needs_rate=False,
    clipping="per tensor",
    dropout="never",
    batch_size=32,
    stopping={"validate_every": Sweeps(10), "validate_first": True, "patience": 5, "restore_best": True},
)

CONVNET = Preset(
    system="convnet",
    denominator="nominal",
    losses={"binary_cross_entropy": {"reduce": "sum"}},
    penalties={"wball": {"kind": "MaxNorm"}},
    optimizers="convnet",
    spelling={"wc": "weight_decay", "mom": "momentum", "eps": "lr"},
    rates="run",
    batch_size=128,
)

CNTK = Preset(
    system="cntk",
    denominator=None,
    losses={"mse": {"reduce": "sum"}, "binary_cross_entropy": {"reduce": "sum"}},
    optimizers="cntk",
    spelling={"l2_regularization_weight": "weight_decay_per_sample"},
    decay="all",
    clipping="per sample",
    rates="epochs",
)

HALCON = Preset(
    system="halcon",
    denominator="count",
    denominators={"huber": None, "focal": None, "sigmoid_focal": None},
    losses={
        "huber": {"beta": 0.11, "reduce": "sum"},
        "focal": {"gamma": 2.0},
        "sigmoid_focal": {"gamma": 2.0, "class_weights": 0.5},
        "cross_entropy": {"normalize": True},
    },
    normalize_class_weights=True,
    penalties={"weight_prior": {"kind": "WeightPrior"}},
    optimizers="halcon",
)

MINDSPORE = Preset(
    system="mindspore",
    denominator="count",
    algorithm="momentum",
    optimizers="mindspore",
    decay="all but norms",
    clipping="global",
    rates="steps",
)

SYSTEMS = {one.system: one for one in (THEANETS, CONVNET, CNTK, HALCON, MINDSPORE)}


def preset(system: str, **changes: Any) -> Preset:
    """The conventions of "theanets", "convnet" (cuda-convnet2), "cntk", "halcon" or "mindspore", some of them changed.

    changes: fields of `Preset`: preset("theanets", reduce="mean_of_means", dropout="train") has those of version 0.7.

    >>> preset("convnet").denominator, preset("convnet", denominator="count").denominator
    ('nominal', 'count')
    """
    if system not in SYSTEMS:
        near = difflib.get_close_matches(str(system), SYSTEMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"preset({system!r}): expected one of {', '.join(map(repr, SYSTEMS))}{hint}")
    return replace(SYSTEMS[system], **changes)

"""Testing a run: every term and metric of its model on held-out data, exactly; and what it says of every sample."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from minibatch.train.batches import Inputs
from minibatch.train.checks import validation_size
from minibatch.train.computing import computing
from minibatch.train.config import RunConfig
from minibatch.train.features import write_features
from minibatch.train.metrics import Measured
from minibatch.train.multiview import MultiView
from minibatch.train.progress import announce
from minibatch.train.saved_model import SavedModel, held_out, load_model
from minibatch.train.terms import Term
from minibatch.train.user_code import noted, places_noted
from minibatch.train.validation import Validation, evaluate
from minibatch.transforms import MultiCrop

Views = Callable[[Inputs], MultiView] | Literal["recipe"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured (`validation`: means by name, exact), with which weights, and how many views a sample had."""

    validation: Validation
    saved: SavedModel
    views: int = 1


def measure_run(
    folder: str | os.PathLike[str],
    *,
    which: str | int | os.PathLike[str] = "newest",
    averaged: bool | None = None,
    data: str | os.PathLike[str] | None = None,
    views: Views | None = None,
    stream: str | None = None,
    predictions: str | os.PathLike[str] | None = None,
    fields: Sequence[str] = (),
    minibatch_size: int | None = None,
    say: Callable[[str], None] = announce,
) -> Measurement:
    """Measure the run in `folder` on its validation data, or on the data set `data`; the folder stays as it is.

    which, averaged: whose weights, see `saved_model.load_model`. data: a data set with the same fields, or the folder
    in which the run's data sets lie. views: makes of the model's inputs those of several views (of what the validation
    source gives, where the recipe has one; of the data as they are, where `data` is a data set); "recipe" for what the
    configuration says as `multiview`. stream: of a joint model, whose data it is; where
    the run has validation data of each stream, all are measured without it. predictions: where to write the
    outputs and `fields` of every sample, as a data set. minibatch_size: by default that of the run's own validations.

    Equal to what `Trainer.validate` gives with these weights and minibatch_size (but for the last bits of the forward
    pass, another minibatch_size gives the same).
    """
    saved = load_model(folder, which=which, averaged=averaged, say=say)
    config = saved.config
    size = validation_size(config.validation_size if minibatch_size is None else minibatch_size, config)
    place = None if data is None else Path(data)
    with (
        computing(config, lambda text: None),
        places_noted(),
        held_out(saved, Path(folder), place) as source,
    ):
        if isinstance(source, Mapping) and stream is None:
            if views is not None or predictions is not None:
                raise ValueError(
                    f"views and predictions are of one stream: say which with stream=, of {', '.join(source)}"
                )
            terms, metrics, shown = config.terms, config.metrics, config.inputs
        else:
            terms, metrics, inputs = of_stream(config, stream)
            shown = shown_as(config, inputs, views)
            source = source[stream] if isinstance(source, Mapping) else source
        on = "its validation data" if data is None else data
        in_views = " in several views, which must have the shape that the model takes" if _count(shown) > 1 else ""
        with noted(f"this was the model of {saved.path}, measured on {on}{in_views}"):
            validation = evaluate(
                saved.model,
                source,
                inputs=shown,
                terms=terms,
                metrics=metrics,
                minibatch_size=size,
                precision=config.precision,
            )
        if predictions is not None:
            assert not isinstance(shown, Mapping)
            write_features(
                saved.model,
                source,
                (),
                predictions,
                inputs=shown,
                fields=fields,
                outputs=True,
                minibatch_size=size,
            )
    validation = replace(validation, step=saved.step, nominal_time=saved.nominal_time)
    return Measurement(validation=validation, saved=saved, views=_count(shown))


def of_stream(config: RunConfig, stream: str | None) -> tuple[Sequence[Term], Sequence[Measured], Inputs]:
    """The terms, metrics and inputs of a run of one source, or of one stream of several.

    Raises ValueError with the names of the streams where none is named, or another.
    """
    streams = sorted({term.stream for term in config.terms if term.stream is not None})
    if stream is None:
        if isinstance(config.inputs, Mapping) or streams:
            raise ValueError(f"the run has several streams: say with stream= which of them, {', '.join(streams)}")
        return config.terms, config.metrics, config.inputs
    if stream not in streams:
        raise ValueError(
            f"the run has no stream {stream!r}; it has {', '.join(streams) or 'one source without a name'}"
        )
    inputs = config.inputs[stream] if isinstance(config.inputs, Mapping) else config.inputs
    terms = [replace(term, stream=None) for term in config.terms if term.stream == stream]
    return terms, [replace(metric, stream=None) for metric in config.metrics if metric.stream == stream], inputs


def shown_as(config: RunConfig, inputs: Inputs, views: Views | None) -> Inputs:
    """The inputs in several views, if that is wanted."""
    if views is None:
        return inputs
    if views != "recipe":
        return views(inputs)
    if config.multiview is None:
        raise ValueError(f"the recipe {config.recipe} says nothing of several views: it has no multiview=")
    return config.multiview


def _count(inputs: Any) -> int:
    if not isinstance(inputs, MultiView):
        return 1
    views = inputs.views
    if isinstance(views, MultiCrop):
        return (9 if views.views == "grid" else 5) * (2 if views.flips else 1)
    return len(views)

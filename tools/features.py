"""`minibatch features RUN LAYER OUT`: what layers of a run's model put out for every sample, as a data set."""

from pathlib import Path
from typing import Annotated

import typer

from minibatch.tools.run_options import Averaged, Checkpoint, Data, Json, Keep, Run, require_training
from minibatch.tools.screen import print_json


def features(
    run: Run,
    layers: Annotated[
        str, typer.Argument(metavar="LAYER", help="Names of layers, separated by commas: layers.2,layers.4.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the data set.")],
    checkpoint: Checkpoint = "newest",
    averaged: Averaged = None,
    data: Data = None,
    keep: Keep = None,
    stream: Annotated[str | None, typer.Option(help="Of a joint model: whose inputs.")] = None,
    minibatch_size: Annotated[int, typer.Option(help="Samples to read at once; changes no bit.", min=1)] = 1024,
    leaf_size: Annotated[int, typer.Option(help="Samples in the model at once.", min=1)] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set in OUT.")] = False,
    as_json: Json = False,
) -> None:
    """Write the outputs of layers, with the row of each sample, in the order of the data (default: validation data)."""
    require_training("features")
    from minibatch import Dataset
    from minibatch.train.computing import computing
    from minibatch.train.features import write_features
    from minibatch.train.saved_model import held_out, load_model
    from minibatch.train.testing import of_stream
    from minibatch.train.user_code import noted, places_noted

    names = [name.strip() for name in layers.split(",") if name.strip()]
    saved = load_model(run, which=checkpoint, averaged=averaged)
    _, _, inputs = of_stream(saved.config, stream)
    with (
        computing(saved.config, lambda text: None),
        places_noted(),
        held_out(saved, run, data) as source,
        noted(f"these are layers of the model of {saved.path}, for {'its validation data' if data is None else data}"),
    ):
        rows = write_features(
            saved.model,
            source[stream] if isinstance(source, dict) else source,
            names,
            out,
            inputs=inputs,
            fields=keep or (),
            minibatch_size=minibatch_size,
            leaf_size=leaf_size,
            overwrite=overwrite,
        )
    written = [name for name in Dataset.open(out).fields if name != "row" and name not in (keep or ())]
    if as_json:
        print_json({"run": str(run), "checkpoint": str(saved.path), "out": str(out), "rows": rows, "layers": written})
    else:
        typer.echo(f"{rows:,} rows of {', '.join(written)} ({saved.path.name} of {run}) in {out}")

"""Arguments and options of several commands on runs and recipes, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

from minibatch.errors import require

Run = Annotated[Path, typer.Argument(help="Folder of the run.")]
Checkpoint = Annotated[
    str, typer.Option(help="Whose weights: newest, best (validation), a nominal time, or a checkpoint's path.")
]
Averaged = Annotated[
    bool | None,
    typer.Option("--averaged/--own", help="The moving average of the weights, or they (default: as it validates)."),
]
Data = Annotated[
    Path | None, typer.Option(help="A data set to read, or the folder of the run's data sets (default: RUN/data).")
]
Keep = Annotated[
    list[str] | None, typer.Option(help="A field to write beside the outputs, such as label. Again for more.")
]

Recipe = Annotated[str, typer.Argument(help="A recipe: digits, module:function, or path/to/file.py:function.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change the configuration, as in `minibatch train`."),
]
RecipeData = Annotated[Path | None, typer.Option(help="Folder of the data sets (default: made anew, then removed).")]

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def require_training(purpose: str) -> None:
    """Return if the libraries of the engine are installed; else the error that says what `purpose` needs, and how."""
    for module in ("torch", "safetensors"):
        require(module, "train", purpose)

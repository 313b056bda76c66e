"""`minibatch check-gradients RECIPE`: the gradients of a recipe's objective against numeric ones."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibatch.tools.run_options import Changes, Json, Recipe, RecipeData, require_training
from minibatch.tools.screen import print_json
from minibatch.tools.train import parsed

if TYPE_CHECKING:
    from minibatch.train.gradient_check import ParameterCheck


def check_gradients(
    recipe: Recipe,
    changes: Changes = None,
    data: RecipeData = None,
    samples: Annotated[int, typer.Option(help="Samples in the minibatch.", min=1)] = 8,
    elements: Annotated[int, typer.Option(help="Elements of each parameter.", min=1)] = 8,
    tolerance: Annotated[float, typer.Option(help="Relative error that is let pass.", min=0.0)] = 1e-5,
    nominal_time: Annotated[int, typer.Option(help="Where on the axis the minibatch and its noise are.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Compare gradients with central differences, in float64: terms, weights, masks, regularizers, noise and all.

    Exit codes: 0 all agree; 1 some do not, or it could not be done (the error says why).
    """
    require_training("checking gradients")
    from minibatch.train import recipes
    from minibatch.train.computing import computing
    from minibatch.train.gradient_check import check_config, failures

    config = recipes.configure(recipe, parsed(changes or ()))
    with tempfile.TemporaryDirectory() as folder, computing(config, lambda text: None):
        checks = check_config(
            config,
            Path(folder) / "data" if data is None else data,
            samples=samples,
            elements=elements,
            tolerance=tolerance,
            nominal_time=nominal_time,
        )
    failed = failures(checks)
    if as_json:
        print_json({"recipe": config.recipe, "passed": not failed, "parameters": [as_document(c) for c in checks]})
    else:
        print_checks(recipe, checks)
    if failed:
        typer.echo(f"the gradients of {', '.join(failed)} are not those of the objective", err=True)
        raise typer.Exit(1)


def as_document(check: "ParameterCheck") -> dict[str, Any]:
    """What was found for one parameter, for JSON."""
    return {
        "name": check.name,
        "shape": list(check.shape),
        "passed": check.passed,
        "error": check.error,
        "elements": [
            {"place": list(e.place), "gradient": e.gradient, "numeric": e.numeric, "error": e.error}
            for e in check.elements
        ],
    }


def print_checks(recipe: str, checks: Sequence["ParameterCheck"]) -> None:
    """A row for each parameter: its worst element."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe}: gradients, worst element of each parameter", title_justify="left")
    table.add_column("parameter", overflow="fold")
    for title in ("shape", "gradient", "numeric", "error", ""):
        table.add_column(title, no_wrap=True)
    for check in checks:
        worst = max(check.elements, key=lambda element: element.error, default=None)
        numbers = ("", "") if worst is None else (f"{worst.gradient:.5g}", f"{worst.numeric:.5g}")
        verdict = "[green]agrees[/green]" if check.passed else "[red]differs[/red]"
        shape = " × ".join(map(str, check.shape)) or "one number"
        table.add_row(check.name, shape, *numbers, f"{check.error:.1e}", verdict)
    Console().print(table)

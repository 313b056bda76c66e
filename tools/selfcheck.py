"""`minibatch selfcheck RECIPE`: does the recipe's model keep the run's promise? Before the run, not after it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minibatch.tools.run_options import Changes, Json, Recipe, RecipeData, require_training
from minibatch.tools.screen import print_json
from minibatch.tools.train import parsed

if TYPE_CHECKING:
    from minibatch.train.selfcheck import SelfCheck


def selfcheck(
    recipe: Recipe,
    changes: Changes = None,
    data: RecipeData = None,
    as_json: Json = False,
) -> None:
    """Compute one step again, in other orders and other microbatches, and name what differs.

    Found are modules and losses that draw from a generator of their own, count their calls, or mix samples. That
    nothing is found proves nothing. Exit codes: 0 nothing differs; 1 something does, or it could not be done.
    """
    require_training("the self-check")
    from minibatch.train import recipes
    from minibatch.train import selfcheck as compute
    from minibatch.train.computing import computing
    from minibatch.train.running import make_trainer, opened_source

    config = recipes.configure(recipe, parsed(changes or ()))
    with tempfile.TemporaryDirectory() as folder, computing(config, lambda text: None):
        prepared = config.data(Path(folder) / "data" if data is None else data)
        with opened_source(config, prepared) as source, make_trainer(config, source, None) as trainer:
            found = compute(trainer)
    if as_json:
        print_json(as_document(config.recipe, found))
    else:
        print_findings(recipe, found)
    if not found.passed:
        raise typer.Exit(1)


def as_document(recipe: str, found: "SelfCheck") -> dict[str, Any]:
    """The result for JSON."""
    return {
        "recipe": recipe,
        "promise": found.promise,
        "passed": found.passed,
        "comparisons": list(found.comparisons),
        "findings": [
            {"comparison": f.comparison, "modules": list(f.modules), "parameters": list(f.parameters)}
            for f in found.findings
        ],
    }


def print_findings(recipe: str, found: "SelfCheck") -> None:
    """A row for each comparison: what differed first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe}: promise '{found.promise}'", title_justify="left")
    for title in ("one step computed as", "", "first module that differs"):
        table.add_column(title, overflow="fold")
    findings = {finding.comparison: finding for finding in found.findings}
    for comparison in found.comparisons:
        finding = findings.get(comparison)
        if finding is None:
            table.add_row(comparison, "[green]equal[/green]", "")
        else:
            where = finding.modules[0] if finding.modules else "none: a loss"
            table.add_row(comparison, "[red]differs[/red]", where)
    Console().print(table)

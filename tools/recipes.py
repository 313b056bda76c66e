"""`minibatch recipes`: which recipes there are, what each is trained on and where that comes from; or one's whole
documentation."""

import importlib
import inspect
from typing import Annotated, Any

import typer

from minibatch.tools.run_options import require_training
from minibatch.tools.screen import print_json, screen


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print the documentation of this recipe.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the recipes with their data, or print one's documentation: its commands, what it shows, what to expect."""
    require_training("recipes")
    from minibatch.train.recipes import RECIPES, find, origins

    if name is not None:
        find(name)  # an unknown name is an error with the nearest ones
        if as_json:
            print_json(entry(name))
            return
        print(documentation(name))
        lines = origins.ways(name)
        print("\n".join(["", "The data:", *(f"    {line}" for line in lines)]) if lines else "", end="\n" * bool(lines))
        return
    entries = [entry(each) for each in sorted(RECIPES)]
    if as_json:
        print_json(entries)
        return
    from rich.table import Table
    from rich.text import Text

    listed = Table(box=None, show_header=False, pad_edge=False)
    listed.add_column(no_wrap=True)
    for each in entries:
        listed.add_row(each["recipe"], Text.assemble(each["what"], (f" [{', '.join(each['data'])}]", "dim")))
    screen().print(listed)
    print("\nThe data, what `--data fetch` does, and where they come from:")
    ways = {
        called: "downloads them" if one.downloads else "by hand only" if one.forms else "in scikit-learn"
        for called, one in sorted(origins.DATA_SETS.items())
    }
    for called, way in ways.items():
        print(f"{called:{max(map(len, ways))}}  {way:14}  {origins.DATA_SETS[called].page}")
    print()
    print("minibatch recipes NAME prints the documentation of one, minibatch train NAME --out DIR runs it")


def entry(name: str) -> dict[str, Any]:
    """What the list says of a recipe."""
    from minibatch.train.recipes import origins

    used = origins.used_by(name)
    return {
        "recipe": name,
        "what": first_sentence(documentation(name)),
        "data": list(used),
        "from": [one.page for one in used.values()],
        "fetch": [called for called, one in used.items() if one.downloads],
        "licence": [one.licence for one in used.values()],
        "cite": [one.cite for one in used.values()],
    }


def documentation(name: str) -> str:
    """The docstring of a recipe's file; of its function, where that is not the one the file is named after.

    Of a recipe of one's own that of its function, or of its file where it has none.
    """
    from minibatch.train.recipes import RECIPES, find

    if name not in RECIPES:
        recipe = find(name)
        return inspect.getdoc(recipe) or inspect.getdoc(inspect.getmodule(recipe)) or f"{name} has no documentation"
    module = importlib.import_module(f"minibatch.train.recipes.{RECIPES[name]}")
    of = module if RECIPES[name] == name else getattr(module, name)
    return inspect.cleandoc(of.__doc__ or "")


def first_sentence(text: str) -> str:
    """The first sentence of a documentation, of its first paragraph at most, without the full stop.

    >>> first_sentence("Digits: read by a\\nsmall net. Fast.\\n\\nMore.")
    'Digits: read by a small net'
    """
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".")

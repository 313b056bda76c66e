"""The sources as Python sees them: which modules a file imports, and which names it uses in full.

For tests about the whole tree (test_layers, test_one_home), which read the sources without running them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("minibatch", "models", "train", "tools")


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported name: `from numpy import random` is `numpy.random`. Deferred: not when the file is loaded."""

    name: str
    line: int
    deferred: bool


@dataclass(frozen=True, kw_only=True)
class Use:
    """A name in use, as if it had been imported in full: with `import numpy as np`, `np.int64` is `numpy.int64`."""

    name: str
    line: int


def sources(*folders: str) -> list[Path]:
    """Every Python file of the folders, each once. `rglob` does not enter the links minibatch/{models,train,tools}."""
    return sorted(file for folder in folders or FOLDERS for file in (ROOT / folder).rglob("*.py"))


def shown(file: Path) -> str:
    """The path of a source relative to the root, with forward slashes; of any other file its name."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def package_of(file: Path) -> list[str]:
    """The package a file's relative imports start from: train/recipes/digits.py is in minibatch.train.recipes."""
    parts = list(file.relative_to(ROOT).parent.parts)
    return parts if parts[0] == "minibatch" else ["minibatch", *parts]


def imports(file: Path) -> Iterator[Import]:
    """Everything that `file` imports, at any depth; names of `from a import b` in full, relative ones resolved."""
    yield from _imports(tree_of(file), file, deferred=False)


def _imports(node: ast.AST, file: Path, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name=alias.name, line=child.lineno, deferred=deferred)
        elif isinstance(child, ast.ImportFrom):
            package = package_of(file) if child.level else []
            base = package[: len(package) - child.level + 1] + (child.module.split(".") if child.module else [])
            for alias in child.names:
                yield Import(name=".".join([*base, alias.name]), line=child.lineno, deferred=deferred)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from _imports(child, file, deferred or inside or types_only)


def uses(file: Path) -> Iterator[Use]:
    """Every dotted name that `file` uses, and what it imports by `from`, each in full."""
    tree = tree_of(file)
    full = _full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node)
            if name is not None:
                yield Use(name=in_full(name, full), line=node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield Use(name=f"{node.module}.{alias.name}", line=node.lineno)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Use(name=alias.name, line=node.lineno)


def calls(node: ast.AST, file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call below `node`, with the callee's name in full; a call of something nameless is left out."""
    full = _full_names(tree_of(file))
    for child in ast.walk(node):
        if isinstance(child, ast.Call):
            name = dotted(child.func)
            if name is not None:
                yield in_full(name, full), child


def dotted(node: ast.AST) -> str | None:
    """`a.b.c` for such an expression; `.c` for `anything_else().c`; None if it is no name at all."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or ''}.{node.attr}"
    return None


def in_full(name: str, full: dict[str, str]) -> str:
    first, _, rest = name.partition(".")
    return ".".join(part for part in (full.get(first, first), rest) if part) if first else name


def _full_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: {"np": "numpy", "F": "torch.nn.functional"}."""
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return full

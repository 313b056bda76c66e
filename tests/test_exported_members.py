"""The public names of `minibatch`, frozen: one more or one less is a decision, with a line in CHANGELOG.md."""

import ast
import inspect
import types

import minibatch
from tests.syntax import ROOT, tree_of

PUBLIC = [
    "Batch",
    "Dataset",
    "DatasetWriter",
    "LengthGroups",
    "MinibatchSource",
    "Mixture",
    "NullMask",
    "Ragged",
    "SkipRows",
    "Sparse",
    "Window",
    "concatenate",
    "join",
    "split",
    "subset",
]
# Modules that users name as minibatch.errors and minibatch.rng without importing them first.
PUBLIC_MODULES = ["errors", "rng"]


def exported() -> list[str]:
    """The names that the package has and that are not modules of it, which any import of them would add."""
    return [
        name for name, value in vars(minibatch).items() if name[0] != "_" and not isinstance(value, types.ModuleType)
    ]


def test_the_public_names_are_these():
    assert sorted(exported()) == PUBLIC


def test_the_list_is_sorted():
    assert sorted(PUBLIC) == PUBLIC


def test_the_public_modules_need_no_import_of_their_own():
    for name in PUBLIC_MODULES:
        assert isinstance(getattr(minibatch, name), types.ModuleType)


def test_the_front_door_only_imports():
    """`__init__.py` is a docstring, `from .file import Name as Name` (or the absolute form), and the version."""
    for node in tree_of(ROOT / "minibatch" / "__init__.py").body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "__version__")
        assert docstring or assigned or isinstance(node, ast.ImportFrom), (
            f"line {node.lineno}: {ast.unparse(node)[:80]}"
        )
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"line {node.lineno}: write `{alias.name} as {alias.name}`"


def test_every_public_object_says_what_it_is():
    for name in PUBLIC:
        value = getattr(minibatch, name)
        assert inspect.getdoc(value), f"minibatch.{name} has no docstring"
        for member, attribute in vars(value).items():
            if member[0] != "_" and (inspect.isfunction(attribute) or isinstance(attribute, property)):
                assert inspect.getdoc(attribute), f"minibatch.{name}.{member} has no docstring"

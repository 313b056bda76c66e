"""Which folder may import which, and which file inside minibatch/ which other: the arrows of README.md, checked."""

import sys
import tomllib
from pathlib import Path

import pytest

from tests.syntax import ROOT, imports, shown, sources

MAY_IMPORT = {"minibatch": set(), "models": set(), "train": {"minibatch", "models"}, "tools": {"minibatch", "train"}}

# The libraries of each folder. `import minibatch` must stay light, and models must know no data and no loop.
LIBRARIES = {
    "minibatch": {"numpy", "numba", "llvmlite", "pyarrow", "xxhash", "simplejpeg", "cv2"},
    "models": {"torch"},
    "train": {
        "numpy",
        "xxhash",
        "rich",
        "torch",
        "safetensors",
        "torchmetrics",
        "tensorboard",
        "matplotlib",
        "sklearn",
        "pycocotools",
        "timm",
    },
    "tools": {
        *{"numpy", "numba", "pyarrow", "xxhash", "typer", "rich"},
        *{"torch", "safetensors", "matplotlib", "PIL", "sklearn", "h5py", "crc32c", "pooch"},
    },
}
# Other loaders and engines, which tools/peers/ measures where somebody has installed them.
PEERS = {
    "accelerate",
    "lightning",
    "datasets",
    "ffcv",
    "grain",
    "lance",
    "simplejpeg",
    "spdl",
    "streaming",
    "tensorflow",
}
CORE = {"numpy", "numba", "llvmlite", "pyarrow", "xxhash", "typer", "rich"}
# Where it is not the module's name.
DISTRIBUTION = {"PIL": "pillow", "sklearn": "scikit-learn", "llvmlite": "numba", "cv2": "opencv-python-headless"}

# Inside minibatch/ a file imports only files of lower levels. A new file must be placed here.
LEVEL = {
    "errors": 0,
    "arguments": 0,
    "rng": 0,
    "kernels": 0,
    "storage": 1,
    "columns": 1,
    "order": 1,
    "memory": 1,
    "limits": 1,
    "holding": 1,
    "record_batches": 1,
    "sparse": 1,
    "claim": 2,
    "buffers": 2,
    "timeline": 2,
    "ragged": 2,
    "manifest": 3,
    "arrow_input": 3,
    "mixture": 3,
    "length_groups": 3,
    "transforms": 3,
    "shards": 4,
    "incoming": 4,
    "shard_file": 4,
    "chunks": 5,
    "foreign": 5,
    "journal": 5,
    "gathering": 6,
    "ahead": 6,
    "dataset": 7,
    "views": 8,
    "fetch": 8,
    "write": 8,
    "check": 8,
    "joining": 9,
    "batch": 9,
    "readahead": 9,
    "axis": 10,
    "sequences": 11,
    "packing": 12,
    "lanes": 13,
    "laying": 14,
    "source": 15,
    "torch": 16,
    "__init__": 17,
}
# The few arrows between files of one level, from the importing to the imported one.
SAME_LEVEL = {("rng", "errors"), ("rng", "arguments"), ("rng", "kernels")}
# The package's front door shows every file but this one: `import minibatch` must not import torch.
NEVER_IN_INIT = {"torch"}


def folder_of(module: str) -> str:
    """'minibatch.train.engine' lies in 'train'; 'minibatch.order' lies in 'minibatch'."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else parts[0]


def part_of(file: Path) -> str:
    """The part of minibatch/ that a file belongs to: its name, or that of its subfolder (kernels)."""
    first = file.relative_to(ROOT / "minibatch").parts[0]
    return first.removesuffix(".py")


def existing_parts() -> set[str]:
    return {part_of(file) for file in sources("minibatch")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_lies_below_it(folder):
    for file in sources(folder):
        for found in imports(file):
            if found.name.split(".")[0] == "minibatch":
                target = folder_of(found.name)
                assert target == folder or target in MAY_IMPORT[folder], (
                    f"{shown(file)}:{found.line}: {folder}/ imports {found.name}"
                )


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_uses_only_its_own_libraries(folder):
    for file in sources(folder):
        allowed = LIBRARIES[folder] | {"minibatch"}
        if shown(file).startswith("minibatch/torch/"):
            allowed |= {"torch"}
        if file.parent.name == "peers":
            allowed |= PEERS
        for found in imports(file):
            top = found.name.split(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, (
                f"{shown(file)}:{found.line}: {folder}/ imports {found.name}; it may use {sorted(allowed)}"
            )


def test_commands_import_optional_libraries_only_inside_functions():
    for file in sources("tools"):
        for found in imports(file):
            top = found.name.split(".")[0]
            optional = top in LIBRARIES["tools"] - CORE or folder_of(found.name) in ("train", "models")
            assert found.deferred or not optional, (
                f"{shown(file)}:{found.line}: {found.name} needs an extra: import it in the function that uses it"
            )


def test_every_library_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    core = {requirement.split(">=")[0] for requirement in project["dependencies"]}
    optional = [requirement for extra in ("train", "images", "convert", "vision") for requirement in extras[extra]]
    declared = core | {requirement.split(">=")[0] for requirement in optional}
    assert {DISTRIBUTION.get(library, library) for library in CORE} == core
    for libraries in LIBRARIES.values():
        assert {DISTRIBUTION.get(library, library) for library in libraries} <= declared


def test_every_file_of_minibatch_has_a_level():
    unplaced = existing_parts() - set(LEVEL)
    assert not unplaced, f"say where {sorted(unplaced)} stand: LEVEL in {shown(Path(__file__))}"


@pytest.mark.parametrize("part", sorted(existing_parts() & set(LEVEL)))
def test_file_of_minibatch_imports_only_lower_levels(part):
    for file in sources("minibatch"):
        if part_of(file) != part:
            continue
        for found in imports(file):
            names = found.name.split(".")
            if names[0] != "minibatch":
                continue
            target = names[1] if len(names) > 1 and names[1] in LEVEL else "__init__"
            if target == part or (found.name == "minibatch.__version__" and found.deferred):
                continue  # the version is a constant, read when the package is loaded
            allowed = LEVEL[target] < LEVEL[part] or (part, target) in SAME_LEVEL
            if part == "__init__":
                allowed = target not in NEVER_IN_INIT
            where = f"{shown(file)}:{found.line}"
            assert allowed, f"{where}: {part} (level {LEVEL[part]}) imports {target} (level {LEVEL[target]})"


def test_arrows_within_a_level_make_no_circle():
    remaining = set(SAME_LEVEL)
    assert all(LEVEL[importer] == LEVEL[imported] for importer, imported in remaining)
    while remaining:
        importers = {importer for importer, _ in remaining}
        last = {arrow for arrow in remaining if arrow[1] not in importers}
        assert last, f"a circle within a level: {sorted(remaining)}"
        remaining -= last


def test_folders_are_imported_only_under_their_installed_names():
    for file in sources():
        for found in imports(file):
            assert found.name.split(".")[0] not in ("tests", "tools", "train", "models", "benchmarks"), (
                f"{shown(file)}:{found.line}: imports {found.name}; inside the package write minibatch.…"
            )

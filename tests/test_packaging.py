"""What a user installs is what the checkout shows, and what runs these tests is what constraints.txt pins."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SETUP = PYPROJECT["tool"]["setuptools"]
LINKS = {package: folder for package, folder in SETUP["package-dir"].items() if package != "minibatch"}


def folder_of(package: str) -> Path:
    """The folder that pyproject.toml maps `package` to; a subpackage lies below its parent's."""
    mapped = SETUP["package-dir"]
    if package in mapped:
        return ROOT / mapped[package]
    parent, _, name = package.rpartition(".")
    return folder_of(parent) / name


def pins() -> dict[str, str]:
    """constraints.txt: {canonical name: version}."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(line.count("==") == 1 for line in lines), "constraints.txt holds only NAME==VERSION and comments"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def required(*requirements: str) -> set[str]:
    """The canonical names of installed distributions that `requirements` ask for, and of what those ask for."""
    seen: set[str] = set()
    waiting = [Requirement(requirement) for requirement in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        waiting += [Requirement(further) for further in importlib.metadata.requires(name) or []]
    return seen


def named_requirements() -> list[str]:
    """Every requirement that pyproject.toml names, core and extras; `dev` names the other extras, all but `vision`:
    timm brings torchvision, and its tests skip where it is not there."""
    extras = {name: listed for name, listed in PROJECT["optional-dependencies"].items() if name != "vision"}
    everything = [*PROJECT["dependencies"], *(requirement for listed in extras.values() for requirement in listed)]
    return [requirement for requirement in everything if not requirement.startswith(PROJECT["name"])]


def test_every_package_folder_is_listed():
    listed = {folder_of(package).resolve() for package in SETUP["packages"]}
    found = {f.parent.resolve() for d in SETUP["package-dir"].values() for f in (ROOT / d).rglob("__init__.py")}
    assert listed == found


def test_every_source_lies_in_a_listed_package():
    listed = {folder_of(package).resolve() for package in SETUP["packages"]}
    for folder in SETUP["package-dir"].values():
        for file in (ROOT / folder).rglob("*.py"):
            assert file.parent.resolve() in listed, f"{file} would not be in the wheel: its folder has no __init__.py"


@pytest.mark.parametrize("package", LINKS)
def test_each_mapped_folder_has_its_relative_link(package):
    link = ROOT / package.replace(".", "/")
    assert link.is_symlink(), f"{link} is no link (on Windows: git config core.symlinks true, then check out again)"
    assert os.readlink(link) == f"../{LINKS[package]}"
    assert link.resolve() == ROOT / LINKS[package]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_links_are_committed_as_links():
    command = ["git", "ls-files", "--stage", "minibatch"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    if not lines:
        pytest.skip("nothing is committed yet")
    modes = {path: entry.split()[0] for entry, path in (line.split("\t") for line in lines)}
    for package, folder in LINKS.items():
        assert modes.get(package.replace(".", "/")) == "120000", f"{package} is not committed as a link to ../{folder}"


def test_the_type_information_is_shipped():
    assert (ROOT / "minibatch" / "py.typed").read_text() == ""
    assert SETUP["package-data"] == {"minibatch": ["py.typed"]}


def test_the_modules_come_from_this_checkout():
    for package in SETUP["packages"]:
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} cannot be found"
        assert Path(spec.origin).resolve() == (folder_of(package) / "__init__.py").resolve()


def test_the_version_is_that_of_the_distribution():
    minibatch = importlib.import_module("minibatch")
    assert minibatch.__version__ == PROJECT["version"]


def test_the_console_script_can_be_loaded():
    module, _, function = PROJECT["scripts"]["minibatch"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_nothing_tells_a_user_to_install_the_other_project():
    wrong = re.compile(r"""pip install (-\S+ )*["']?minibatch(?!-timeline)\b""")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    for file in [*pages, *(file for folder in SETUP["package-dir"].values() for file in (ROOT / folder).rglob("*.py"))]:
        found = wrong.search(file.read_text(encoding="utf-8"))
        assert not found, f"{file}: {found.group(0)!r} installs another project; ours is {PROJECT['name']}"


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info[:2] != (3, 11), reason="pins were made on 3.11, Linux")
def test_everything_installed_for_the_tests_is_pinned_and_nothing_else():
    pinned, needed = pins(), required(*named_requirements())
    # another platform, torch build or Python may need more (nvidia-*, triton, colorama); these can float
    unpinned = {name for name in needed if name not in pinned and not re.match(r"nvidia-|cuda-|triton|colorama", name)}
    assert not unpinned, f"add to constraints.txt: {sorted(unpinned)}"
    for requirement in map(Requirement, named_requirements()):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"constraints.txt pins {requirement.name}=={version}"
    superfluous = set(pinned) - needed
    assert not superfluous, f"needed by nothing in pyproject.toml: {sorted(superfluous)}"


def test_the_pins_are_plain():
    for name, version in pins().items():
        assert Version(version).local is None, f"{name}=={version}: an index without that build would refuse it"
        assert not re.match(r"nvidia-|cuda-|triton", name), f"{name} is needed by one build of torch only"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the environment that `make` builds")
def test_these_tests_run_with_the_pinned_versions():
    pinned = pins()
    different = {
        name: f"{importlib.metadata.version(name)}, pinned {pinned[name]}"
        for name in required(*named_requirements())
        if name in pinned and Version(importlib.metadata.version(name)).public != pinned[name]
    }
    assert not different, f"`make` would install others: {different}"

"""docs/coming-from.md: what stands on the right-hand sides of its tables runs."""

import contextlib
import os
import re
import shlex

import pytest

from minibatch.tools import cli
from tests.syntax import ROOT

TEXT = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
SYSTEMS = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
# The headings of the documents that the tables are for: none may be left out.
SECTIONS = {
    "theanets": [
        "Specifying a trainer",
        "Available trainers",
        "Providing data",
        "Decay",
        "Sparsity",
        "Noise",
        "Training as iteration",
        "Saving progress",
    ],
    "cuda-convnet2": [
        "Training",
        "Progress lines",
        "Stopping and resuming",
        "Generating features",
        "Test error",
        "CIFAR-10",
    ],
    "CNTK": [
        "next_minibatch",
        "Load and continue",
        "Adam",
        "Two models jointly",
        "Weighted loss",
        "Multilabel",
        "Autoencoder",
        "Fast R-CNN",
        "Transfer learning",
    ],
    "HALCON train_dl_model_batch": [
        "Description",
        "Algorithm",
        "Huber loss",
        "Focal loss",
        "Multinomial logistic loss",
        "Regularization",
        "Attention",
    ],
    "MindSpore": ["Hyperparameters", "Loss functions", "Optimizer functions", "Model training"],
}


def beginning():
    return re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)


def rows(system):
    """The rows of a system's table: section, left and right cell."""
    part = TEXT.split(f"## {system}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    found, section = [], ""
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        assert len(cells) == 3, f"{system}: a row needs three cells: {line}"
        section = cells[0] or section
        found.append((section, cells[1], cells[2]))
    return found


def snippets(cell):
    """The pieces of code in a cell in their order; a line that ends with a colon goes on in the next one."""
    found = []
    for code in re.findall(r"`([^`]+)`", cell):
        if found and found[-1].endswith(":"):
            found[-1] += "\n" + code
        else:
            found.append(code)
    return found


def check_command(code):
    """The command exists and takes the arguments it is written with; it is not run."""
    name, *rest = shlex.split(code)[1:]
    assert name in cli.COMMANDS, code
    cli.load(name).make_context(name, rest)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_right_hand_sides_run(system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "coming_from"}
    exec(compile(beginning(), "docs/coming-from.md", "exec"), namespace)
    ran = 0
    for section, _, cell in rows(system):
        codes = snippets(cell)
        assert codes, f"{system}, {section}: nothing to write: {cell}"
        for code in codes:
            if code.startswith("minibatch "):
                check_command(code)
                continue
            try:
                with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                    exec(compile(code, f"{system}, {section}", "exec"), namespace)
            except Exception as error:
                error.add_note(f"docs/coming-from.md, {system}, {section}: {code}")
                raise
            ran += 1
    assert ran >= 10


def test_every_section_of_the_five_documents_has_a_row():
    assert set(SYSTEMS) == set(SECTIONS)
    for system, sections in SECTIONS.items():
        missing = set(sections) - {section for section, _, _ in rows(system)}
        assert not missing, f"{system}: {missing}"

"""Random numbers come from rng.py alone, compiled loops from kernels/ alone, seeds from the user alone; and what
`import minibatch` must not load. The sources are searched as syntax, so that words in comments do not count."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.syntax import ROOT, calls, shown, sources, tree_of, uses

# Names that draw from, make, or set a generator. The rest of the package derives keys with minibatch.rng.
DRAWS = re.compile(
    r"(random|secrets)(\..*)?"
    r"|numpy\.random(\..*)?"
    r"|os\.urandom|.*\.(default_rng|manual_seed(_all)?)"
    r"|torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial|poisson)"
    r"|torch\.(seed|Generator|default_generator|random|get_rng_state|set_rng_state|fork_rng)(\..*)?"
    r"|torch\.(cuda|mps|xpu)\.(seed(_all)?|get_rng_state(_all)?|set_rng_state(_all)?)"
    r"|torch\.nn\.(functional\.)?(Alpha|alpha_|Feature|feature_alpha_)?[dD]ropout[123]?[dD]?_?"
    r"|torch\.(alpha_|feature_alpha_)?dropout_?"
    r"|torch\.nn\.init\.(normal|uniform|trunc_normal|xavier|kaiming|orthogonal|sparse)_?\w*"
    r"|.*\.(normal|uniform|log_normal|bernoulli|exponential|geometric|cauchy|random|multinomial)_"
)
MAY_DRAW = {
    "minibatch/rng.py": "derives every draw from (seed, purpose, coordinates)",
    "models/noise/foreign.py": "names the layers of torch that draw, so as to replace them by keyed ones",
}
# Files that need a few of these names for a purpose of their own, and which.
MAY_DRAW_SOME = {
    # seeds torch's generators by nominal time where a user allows layers that draw from them, and for first weights;
    # and notices others
    "train/foreign.py": re.compile(
        r".*manual_seed|torch\.default_generator(\.get_state)?|torch\.cuda\.get_rng_state|torch\.random(\.fork_rng)?"
    ),
    # first weights come from a generator made for them from a key; see the test on `generator=` below
    "models/init.py": re.compile(r"torch\.Generator|generator\.manual_seed|torch\.nn\.init\.\w+"),
    # times torch's dropout beside ours
    "tools/bench_engine_cases.py": re.compile(r"torch\.nn\.Dropout"),
    # times NumPy's generator beside our order
    "tools/bench_order.py": re.compile(r"numpy\.random(\.(default_rng|Generator|PCG64))?|.*\.default_rng"),
}

COMPILES = re.compile(r"numba\.(.*\.)?(njit|jit|generated_jit|vectorize|guvectorize|stencil|cfunc|jitclass|intrinsic)")

# What differs between two runs of the same program; none of it may reach a seed or a key.
DIFFERS = re.compile(
    r"time\.\w+|(datetime\.)*(datetime|date)\.(now|utcnow|today)|uuid\.\w+|secrets\.\w+|os\.(getpid|getppid|urandom)"
    r"|threading\.(get_ident|get_native_id)|hash|id"
)
SEEDLIKE = re.compile(r"(.*[._])?(seed|key|rng)s?(_\w+)?")
# Files whose results are functions of their arguments alone: not even a clock for other purposes.
PURE = ("rng", "kernels", "order", "timeline", "mixture", "length_groups", "manifest", "columns", "fetch", "transforms")


def draws(file: Path) -> Iterator[str]:
    allowed = MAY_DRAW_SOME.get(shown(file))
    for use in uses(file):
        if DRAWS.fullmatch(use.name) and not (allowed and allowed.fullmatch(use.name)):
            yield f"{shown(file)}:{use.line}: {use.name}"


def compilations(file: Path) -> Iterator[str]:
    for use in uses(file):
        if COMPILES.fullmatch(use.name):
            yield f"{shown(file)}:{use.line}: {use.name}"


def unrepeatable_seeds(file: Path) -> Iterator[str]:
    """Clocks, process ids and salted hashes inside an argument or an assignment that is called seed, key or rng."""
    for node in ast.walk(tree_of(file)):
        suspects: list[ast.AST] = []
        if isinstance(node, ast.keyword):
            suspects = [node.value] if SEEDLIKE.fullmatch(node.arg or "") else []
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            suspects = [node.value] if any(SEEDLIKE.fullmatch(ast.unparse(target)) for target in targets) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            suspects = list(node.args) if SEEDLIKE.fullmatch(name) else []
        for suspect in suspects:
            for name, call in calls(suspect, file):
                if DIFFERS.fullmatch(name):
                    yield f"{shown(file)}:{call.lineno}: {name} in {ast.unparse(node)[:80]}"


def unrepeatable_values(file: Path) -> Iterator[str]:
    for name, call in calls(tree_of(file), file):
        if DIFFERS.fullmatch(name) and name != "id":  # id finds an object again; it is no value
            yield f"{shown(file)}:{call.lineno}: {name}()"


def salted_hashes(file: Path) -> Iterator[str]:
    """Calls of the built-in hash outside `__hash__`: for strings it differs from process to process."""
    tree = tree_of(file)
    fine = {
        call
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for call in ast.walk(node)
    }
    for name, call in calls(tree, file):
        if name == "hash" and call not in fine:
            yield f"{shown(file)}:{call.lineno}: hash()"


def test_random_numbers_have_one_home():
    found = [line for file in sources() if shown(file) not in MAY_DRAW for line in draws(file)]
    assert not found, f"derive keys with minibatch.rng instead: {found}"


def test_first_weights_are_drawn_from_a_generator_made_for_them():
    for file in sources():
        for name, call in calls(tree_of(file), file):
            if name.startswith("torch.nn.init.") and DRAWS.fullmatch(name):
                given = {keyword.arg for keyword in call.keywords}
                assert "generator" in given, f"{shown(file)}:{call.lineno}: {name} without generator="


def test_compiled_loops_have_one_home():
    files = [file for file in sources() if not shown(file).startswith("minibatch/kernels")]
    found = [line for file in files for line in compilations(file)]
    assert not found, f"move to minibatch/kernels/, with a contract in words: {found}"


def test_kernels_are_compiled_by_the_one_decorator():
    files = [file for file in sources("minibatch") if "kernels" in shown(file) and file.name != "compile.py"]
    found = [line for file in files for line in compilations(file)]
    assert not found, f"use `kernel` of minibatch.kernels.compile: {found}"


def test_no_kernel_uses_fast_math_or_threads_of_its_own():
    for file in sources("minibatch"):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.keyword) and node.arg in ("fastmath", "parallel"):
                value = getattr(node.value, "value", None)
                assert value is False, f"{shown(file)}:{node.value.lineno}: {ast.unparse(node)} changes bits or timing"


def test_no_seed_comes_from_a_clock_a_process_or_a_salted_hash():
    found = [line for file in sources() for line in unrepeatable_seeds(file)]
    assert not found, found


def test_what_decides_the_order_reads_no_clock_and_no_process():
    files = [file for file in sources("minibatch") if file.stem in PURE or file.parent.name in PURE]
    found = [line for file in files for line in unrepeatable_values(file)]
    assert not found, found


def test_the_builtin_hash_is_not_used():
    found = [line for file in sources() for line in salted_hashes(file)]
    assert not found, f"salted anew in each process; use minibatch.rng or xxhash: {found}"


@pytest.mark.parametrize(
    ("search", "source"),
    [
        (draws, "import numpy as np\nnp.random.shuffle([1])"),
        (draws, "from numpy.random import default_rng"),
        (draws, "import random"),
        (draws, "from random import shuffle as mix\nmix([1])"),
        (draws, "import torch\ntorch.manual_seed(3)"),
        (draws, "import torch\ntorch.rand_like(x)"),
        (draws, "import torch\nx = torch.zeros(3).normal_()"),
        (draws, "import torch.nn.functional as F\nF.dropout(x)"),
        (draws, "from torch import nn\nnn.Dropout(0.5)"),
        (draws, "from torch import nn\nnn.init.kaiming_uniform_(w)"),
        (compilations, "import numba\n@numba.njit(cache=True)\ndef f(): ..."),
        (compilations, "from numba import njit as fast\n@fast\ndef f(): ..."),
        (compilations, "import numba as nb\nf = nb.vectorize(f)"),
        (unrepeatable_seeds, "import time\nsource = MinibatchSource(path, seed=time.time_ns())"),
        (unrepeatable_seeds, "import time\nseed = int(time.time())"),
        (unrepeatable_seeds, "import os\nself.seed: int = 3 + os.getpid()"),
        (unrepeatable_seeds, "from time import time\nrng.key(7, 'shuffle', int(time()))"),
        (unrepeatable_seeds, "epoch_key = rng.key(7, 'shuffle', hash('a'))"),
        (unrepeatable_values, "import time\ntime.monotonic()"),
        (unrepeatable_values, "from datetime import datetime\ndatetime.now()"),
        (salted_hashes, "order = hash('a')"),
    ],
)
def test_the_search_finds(search, source, tmp_path):
    file = tmp_path / "sample.py"
    file.write_text(source)
    assert list(search(file))


@pytest.mark.parametrize(
    ("search", "source"),
    [
        (draws, "# np.random.shuffle is not used\nfrom minibatch import rng\nrng.normal(key, indices)"),
        (draws, "from minibatch.rng import uniform\nuniform(key, indices)"),
        (draws, "import torch\ntorch.nn.init.zeros_(bias)\nx.zero_()"),
        (compilations, "from minibatch.kernels.compile import kernel\n@kernel\ndef f(): ..."),
        (compilations, "import torch\ntorch.jit.script(f)"),
        (unrepeatable_seeds, "import time\nstart = time.perf_counter()\nsorted(x, key=len)\nseed = 7"),
        (salted_hashes, "class A:\n    def __hash__(self):\n        return hash(self.name)"),
    ],
)
def test_the_search_leaves_alone(search, source, tmp_path):
    file = tmp_path / "sample.py"
    file.write_text(source)
    assert not list(search(file))


def test_every_exception_names_an_existing_file():
    homes = {*MAY_DRAW, *MAY_DRAW_SOME}
    assert {home for home in homes if (ROOT / home).exists()} == homes, "an exception outlived its file"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a new process has loaded after `statement`; warnings are errors there."""
    command = [sys.executable, "-W", "error", "-c", f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return {line.split(".")[0] for line in done.stdout.splitlines()}


# SciPy is not among them: Numba loads it by itself where it is installed.
EXTRAS = {"torch", "torchmetrics", "safetensors", "tensorboard", "matplotlib", "sklearn", "PIL"}


def test_importing_minibatch_loads_no_extra_and_no_command_line():
    loaded = loaded_by("import minibatch")
    assert "numpy" in loaded
    unwanted = loaded & (EXTRAS | {"typer", "rich", "click", "pandas"})
    assert not unwanted


def test_starting_the_command_line_loads_no_extra():
    unwanted = loaded_by("import minibatch.tools.cli") & EXTRAS
    assert not unwanted

"""The package as a user gets it: run by `.ci/run` in a fresh environment that has the wheel and no extras.

`python -I smoke.py`, in an empty folder. It is a script and not a test module, because pytest is an extra too. Prints
one line per check and, last, `smoke: N passed, N failed`; exit code 1 if one failed.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CHECKS: list[Callable[[], None]] = []
# name in the wheel -> a file that must be there; the folders lie elsewhere in the repository, so that they can be lost
SHIPPED = [
    "minibatch/py.typed",
    "minibatch/kernels/__init__.py",
    "minibatch/models/__init__.py",
    "minibatch/train/__init__.py",
    "minibatch/train/recipes/__init__.py",
    "minibatch/tools/__init__.py",
    "minibatch/tools/cli.py",
    "minibatch/tools/sources/__init__.py",
]


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS.append(function)
    return function


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@check
def the_import_is_the_installed_package() -> None:
    import minibatch

    site = Path(sysconfig.get_path("purelib")).resolve()
    assert Path(minibatch.__file__).resolve().is_relative_to(site), f"{minibatch.__file__} is not in {site}"


@check
def the_import_takes_about_a_second() -> None:
    seconds = []
    for _ in range(3):  # the first one writes bytecode; the best one counts, because the machine may be busy
        start = time.perf_counter()
        run(sys.executable, "-I", "-c", "import minibatch").check_returncode()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3, f"import minibatch took {seconds} seconds"


@check
def no_extra_is_installed() -> None:
    for module in ("torch", "sklearn", "PIL", "matplotlib", "tensorboard", "safetensors", "pytest"):
        assert importlib.util.find_spec(module) is None, f"{module} is installed: this environment proves nothing"


@check
def the_wheel_ships_every_package() -> None:
    files = {str(file) for file in importlib.metadata.files("minibatch-timeline") or []}
    missing = [name for name in SHIPPED if name not in files]
    assert not missing, f"the wheel lacks {missing}"
    foreign = {name.split("/")[0] for name in files if not re.match(r"(minibatch/|minibatch_timeline-|\.\./)", name)}
    assert not foreign, f"the wheel installs {foreign} beside minibatch/"
    links = [name for name in files if Path(sysconfig.get_path("purelib"), name).is_symlink()]
    assert not links, f"the wheel installs links: {links}"


@check
def a_data_set_is_written_and_read_back() -> None:
    import numpy as np

    from minibatch import Dataset, DatasetWriter, MinibatchSource

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "squares"
        with DatasetWriter(path, chunk_rows=4, shard_rows=12) as writer:
            writer.write({"x": np.arange(40), "square": np.arange(40.0) ** 2})
        assert len(Dataset.open(path)) == 40

        with MinibatchSource(path, seed=7) as source:
            sweep = source.next_minibatch(40)
            state = source.get_checkpoint_state()
            following = source.next_minibatch(13)
        assert sorted(sweep["x"].tolist()) == list(range(40))
        assert sweep["x"].tolist() != list(range(40)), "the default order did not shuffle"
        assert np.array_equal(sweep["square"], sweep["x"].astype(float) ** 2)

        with MinibatchSource(path, seed=7) as source:
            source.restore_from_checkpoint(state)
            assert np.array_equal(source.next_minibatch(13)["x"], following["x"])


@check
def the_command_line_starts() -> None:
    script = Path(sysconfig.get_path("scripts")) / "minibatch"
    shown = run(str(script), "--help")
    assert shown.returncode == 0, shown.stderr
    for command in ("convert", "check", "train"):
        assert command in shown.stdout, f"`minibatch --help` does not name {command}:\n{shown.stdout}"


@check
def the_command_line_checks_a_data_set() -> None:
    import numpy as np

    from minibatch import DatasetWriter

    script = Path(sysconfig.get_path("scripts")) / "minibatch"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers"
        with DatasetWriter(path) as writer:
            writer.write({"x": np.arange(100)})
        intact = run(str(script), "check", str(path))
        assert intact.returncode == 0, intact.stdout + intact.stderr
        shard = sorted(path.glob("**/*.arrow"))[0]
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        damaged = run(str(script), "check", str(path))
        assert damaged.returncode == 1, damaged.stdout + damaged.stderr
        assert shard.name in damaged.stdout + damaged.stderr, damaged.stdout + damaged.stderr


@check
def models_and_engine_without_torch_name_the_pip_command() -> None:
    for module in ("minibatch.models", "minibatch.train"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            assert 'pip install "minibatch-timeline[train]"' in str(error), f"{module}: {error}"
        else:
            raise AssertionError(f"import {module} without torch raised nothing")


@check
def training_without_torch_names_the_pip_command() -> None:
    script = Path(sysconfig.get_path("scripts")) / "minibatch"
    with tempfile.TemporaryDirectory() as folder:
        refused = run(str(script), "train", "digits", "--out", str(Path(folder) / "run"))
    shown = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode != 0, shown
    assert "Traceback" not in shown, shown
    assert 'pip install "minibatch-timeline[' in shown, shown


def main() -> int:
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"passed {name}")
    print(f"smoke: {len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

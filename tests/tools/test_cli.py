"""The frame of the command line: what it imports, how errors look, which exit codes there are."""

import subprocess
import sys
import types

import pytest
import typer

import minibatch
from minibatch.errors import DatasetError, MissingExtraError
from minibatch.tools import cli
from tests.tools.samples import ROOT, program, run


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the table of commands, as the command `trial` of a file of its own."""

    def register(function):
        module = types.ModuleType("minibatch.tools.trial")
        module.trial = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "trial", ("trial", "A command on trial."))
        monkeypatch.setattr("tests.tools.samples.app", cli.make_app())

    return register


def raising(error):
    def trial() -> None:
        raise error

    return trial


def test_help_lists_every_command_of_the_table_with_its_summary():
    result = run("--help")
    assert result.exit_code == 0
    for name, (_, summary) in cli.COMMANDS.items():
        assert f" {name} " in result.stdout
        assert summary in result.stdout


def test_the_command_line_imports_no_command_before_it_is_asked_for():
    # In a process of its own; beyond what `import minibatch` itself needs.
    code = (
        "import sys, minibatch; before = set(sys.modules); from minibatch.tools import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = done.stderr.split()
    assert "minibatch.tools.cli" in loaded
    assert [name for name in loaded if name.startswith("minibatch.tools.")] == ["minibatch.tools.cli"]
    heavy = {"torch", "numba", "pyarrow", "PIL", "sklearn", "matplotlib", "tensorboard"}
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_help_lists_a_command_whose_file_is_missing(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "later", ("not_written_yet", "To come."))
    monkeypatch.setattr("tests.tools.samples.app", cli.make_app())
    assert "To come." in run("--help").stdout
    assert run("show", "--help").exit_code == 0


@pytest.mark.parametrize("name", [*cli.COMMANDS])
def test_every_command_has_help_of_its_own_and_can_print_json(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("k must be positive,\n  got 0"), "error: k must be positive, got 0"),
        (ValueError("[red]not markup[/red]"), "error: [red]not markup[/red]"),
        (ValueError(), "error: ValueError"),
        (DatasetError("no data set"), "error: no data set"),
        (
            MissingExtraError('pip install "minibatch-timeline[train]"'),
            'error: pip install "minibatch-timeline[train]"',
        ),
        (FileNotFoundError(2, "No such file or directory", "x/y"), "error: x/y: No such file or directory"),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device"),
        (ValueError("long " * 100), "error: " + ("long " * 100).strip()),
    ],
)
def test_an_error_in_the_input_is_one_line_on_stderr_and_exit_code_1(error, line, command):
    command(raising(error))
    result = run("trial")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line + "\n")


def test_where_exit_code_1_has_a_meaning_of_its_own_an_error_is_2(command, monkeypatch):
    monkeypatch.setitem(cli.ERROR_CODES, "trial", 2)
    command(raising(ValueError("bad")))
    assert run("trial").exit_code == 2
    assert set(cli.ERROR_CODES) <= set(cli.COMMANDS)


def test_what_a_users_own_code_raised_is_its_message_and_its_place(command, monkeypatch):
    error = RuntimeError("shapes cannot be multiplied")
    error.add_note("raised at mine.py:12, in loss: `return a @ b`")
    command(raising(error))
    result = run("trial")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "error: RuntimeError: shapes cannot be multiplied",
        "  raised at mine.py:12, in loss: `return a @ b`",
        "  --debug shows the traceback",
    ]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run("trial", "--debug")


def test_debug_shows_the_traceback_of_an_error(command):
    command(raising(ValueError("bad")))
    with pytest.raises(ValueError, match="bad"):
        run("trial", "--debug")


@pytest.mark.parametrize("error", [KeyError("defect"), AssertionError("defect"), TypeError("defect")])
def test_a_defect_keeps_its_traceback(error, command):
    command(raising(error))
    with pytest.raises(type(error)):
        run("trial")


def test_an_extra_that_is_missing_when_a_commands_file_is_imported_is_one_line_too(monkeypatch):
    def fail(name):
        raise MissingExtraError('pip install "minibatch-timeline[train]"')

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    result = run("train")
    assert result.exit_code == 1
    assert result.stderr == 'error: pip install "minibatch-timeline[train]"\n'


def test_a_command_keeps_its_own_options_and_exit_codes(command):
    def trial(count: int, *, loud: bool = False) -> None:
        print(count, loud)
        raise typer.Exit(7)

    command(trial)
    result = run("trial", 3, "--loud")
    assert (result.exit_code, result.stdout) == (7, "3 True\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["show"],
        ["check", "a", "b"],
        ["at", "DIR", "-1"],
        ["at", "DIR", "x"],
        ["convert", "a"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_exit_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_a_mistyped_command_is_guessed():
    assert "convert" in run("conver").stderr


def test_the_version_is_printed():
    assert run("--version").stdout == f"minibatch {minibatch.__version__}\n"


def test_the_program_ends_with_one_line_and_exit_code_1_for_a_bad_folder(tmp_path):
    done = program("show", tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback (most recent call last)" in program("show", tmp_path / "nothing", "--debug").stderr


def test_a_reader_that_has_seen_enough_is_no_error(tiny_dataset):
    command = f"{sys.executable} -m minibatch.tools.cli at {tiny_dataset} 0 --count 300000 | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[0].split() == ["time", "sweep", "place", "row"]
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr

"""The command line: `minibatch COMMAND …`, with one row of `COMMANDS` and one file of this folder per command.

A command's file is imported when the command is asked for and not before, so that `minibatch --help` is quick and a
command works where the libraries of another are missing. What a command raises about its input ends as one line on
stderr, with the notes of the error below it, and exit code 1 (2 for a command line that makes no sense, 130 after
Ctrl-C); so does whatever a user's own code raises, which has a note that says where. Any other exception is a defect
and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from minibatch.errors import MinibatchError

# command: its file here (the function in it has the command's name), and what `minibatch --help` says
COMMANDS = {
    "convert": ("convert", "Turn arrays, tables or images into a data set."),
    "export": ("export", "Write a data set as Parquet, Arrow or .npz."),
    "check": ("check", "Read every byte of a data set and say what is damaged."),
    "show": ("show", "What a data set holds: fields, rows, shards, samples."),
    "at": ("at", "Which rows stand at a nominal time."),
    "when": ("when", "At which nominal times a row is seen."),
    "diff": ("diff", "What differs between two data sets, or two runs."),
    "recipes": ("recipes", "List the recipes and what they are trained on."),
    "train": ("train", "Run a recipe, or resume it."),
    "spread": ("spread", "Mean and spread of runs that differ in their seed."),
    "test": ("test", "Measure a run's model on held-out or other data."),
    "features": ("features", "Write what layers of a run's model put out as a data set."),
    "check-gradients": ("check_gradients", "Compare a recipe's gradients with numeric ones."),
    "selfcheck": ("selfcheck", "Does a recipe's model keep the promise of the run?"),
    "who": ("who", "Which rows a step of a run had, or the steps of a row."),
    "replay": ("replay", "Run a step again, with the loss of every sample."),
    "blame": ("blame", "Rank the samples of a step by loss and gradient norm."),
    "verify-resume": ("verify_resume", "Run the last steps again: are all bits equal?"),
    "fork": ("fork", "Branch a run with one thing changed, same data and noise."),
    "bench": ("bench", "Measure throughput against plain alternatives."),
    "demo": ("demo", "Convert, train, be killed, resume: the same bits."),
}
CONTEXT = {"help_option_names": ["-h", "--help"]}
ERROR_CODES = {"diff": 2, "verify-resume": 2, "replay": 2}  # where 1 has a meaning of its own, as with diff(1)


class LazyCommands(typer.core.TyperGroup):
    """The commands of the table: name and help from there, everything else from the file once a command is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


def load(name: str) -> Any:
    """The command `name`, its file imported."""
    with clear_errors(debug=False, code=ERROR_CODES.get(name, 1)):
        module = importlib.import_module(f"minibatch.tools.{COMMANDS[name][0]}")
    single = typer.Typer(add_completion=False, context_settings=CONTEXT)
    single.command(name)(with_debug(getattr(module, name.replace("-", "_")), ERROR_CODES.get(name, 1)))
    return typer.main.get_command(single)


def with_debug(function: Callable[..., None], code: int) -> Callable[..., None]:
    """`function` as a command that takes `--debug` beside its own options, and whose errors are clear without it and
    end with exit code `code`."""

    @functools.wraps(function)
    def command(*, debug: bool, **options: Any) -> None:
        with clear_errors(debug=debug, code=code):
            function(**options)

    flag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
    signature = inspect.signature(function, eval_str=True)
    added = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    command.__annotations__ = {**inspect.get_annotations(function, eval_str=True), "debug": flag}
    return command


@contextlib.contextmanager
def clear_errors(*, debug: bool, code: int = 1) -> Iterator[None]:
    """End the program with one red line and exit code `code` for an error in the input; with `debug`, with its
    traceback."""
    try:
        yield
    except BrokenPipeError:  # whoever reads our output has seen enough, as in `minibatch show DIR | head`
        raise
    except typer.Exit:
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", ())  # shapes, and the place in a user's recipe
        expected = isinstance(error, MinibatchError | ValueError | OSError)
        if debug or not (expected or notes):
            raise
        print_error(one_line(error) if expected else f"{type(error).__name__}: {one_line(error)}")
        for note in notes:
            print_error(" ".join(note.split()), title="  ")
        if not expected:
            print_error("--debug shows the traceback", title="  ")
        raise typer.Exit(code) from error


def one_line(error: Exception) -> str:
    """What `error` says, on one line; an option of ours is called as it is on the command line.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "data/digits"))
    'data/digits: No such file or directory'
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()).replace("overwrite=True", "--overwrite") or type(error).__name__


def print_error(text: str, *, title: str = "error: ") -> None:
    """Print `text` as one line on stderr, in red where that is a terminal."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(f"{title}{text}", style="red"), soft_wrap=True)


def print_version(wanted: bool) -> None:
    """Print the version and end, if that is `wanted`."""
    if wanted:
        from minibatch import __version__

        print(f"minibatch {__version__}")
        raise typer.Exit()


def make_app() -> typer.Typer:
    """The application; of each command it knows no more than the table says."""
    app = typer.Typer(
        cls=LazyCommands,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT,
        help="Deterministic minibatches on a nominal time axis: data sets, the axis, training.",
    )

    def placeholder() -> None:
        raise AssertionError("LazyCommands puts the command in its place")

    for name, (_, summary) in COMMANDS.items():
        app.command(name, help=summary)(placeholder)

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        pass

    return app


app = make_app()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments` (default: the program's) and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that an old encoding lacks is no reason to fail
            stream.reconfigure(errors="replace")
    app(args=sys.argv[1:] if arguments is None else list(arguments), prog_name="minibatch")


if __name__ == "__main__":
    main()

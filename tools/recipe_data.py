"""From raw data to the data sets of a recipe: what `--data` of `minibatch train` names is downloaded and converted.

What there is to do stands in the table of train/recipes/origins.py; here it is done, by `minibatch convert` itself with
the options as one would type them, so that the data sets have the same bytes. They lie in the folder of the run, in
RUN/data/train and RUN/data/valid. A conversion that was stopped is continued by the same command.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import os
import shlex
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.main

from minibatch import Dataset
from minibatch.storage import MANIFEST
from minibatch.tools import convert, download
from minibatch.tools.convert_options import OPTIONS, origin_of
from minibatch.tools.sources import Options

if TYPE_CHECKING:
    from minibatch.train.config import RunConfig
    from minibatch.train.recipes.origins import DataSet, Form

UNPACKED = "unpacked"  # in RUN/data, while an archive is converted


def made_ready(
    recipe: str, out: Path, source: str | None, options: Mapping[str, Any], *, resume: bool, quiet: bool
) -> Path | None:
    """The folder that `run_recipe` is to take data from, None for that of the run: what `source` names, made ready.

    source: what `--data` says. Data sets, and whatever a recipe without an entry in the table takes, are left to the
    recipe; raw data are converted into `out`/data; "fetch" downloads them before. Raises ValueError where the raw data
    lack what the recipe needs, and what a conversion raises.
    """
    from minibatch.train.lock import FolderLock
    from minibatch.train.recipes import origins
    from minibatch.train.running import config_for

    if source is None:
        return None
    if not source.strip():
        raise ValueError(
            f"--data {source!r} is empty: expected a path, or {origins.FETCH}; leave it out for {out}/data"
        )
    word, _, called = source.partition(":")
    fetched = word == origins.FETCH
    if not fetched and holds_data_sets(Path(source)):
        return Path(source)
    config = config_for(recipe, out, options, resume=resume)  # what cannot be begun is an error before anything is made
    used = data_of(recipe, config)
    fetched = word == origins.FETCH and (not called or called in origins.DATA_SETS)
    if not any(one.forms for one in used.values()):
        if fetched and not called:
            told = "; ".join(one.by_hand for one in used.values())
            raise ValueError(
                f"--data {source}: the recipe {recipe} knows nothing to download" + f" ({told})" * bool(told)
            )
        refuse_others(recipe, Path(source), config)
        return Path(source)
    data = out / "data"
    if data.is_symlink():
        raise ValueError(f"{data} is a link to {os.readlink(data)}, where this run has its data: leave out --data")
    if resume and all((data / part / MANIFEST).is_file() for part in origins.PARTS):
        return None  # whatever has become of the raw data since
    if fetched:
        found, used = download.fetched(recipe, used, called, quiet=quiet)
    else:
        found = Path(source)
    if not is_archive(found, used):
        form_of(recipe, found, used)  # what is refused leaves no folder
    lock = FolderLock(out)  # of two that begin at once one must not take what the other has unpacked
    try:
        convert_raw(recipe, found, data, used, quiet=quiet)
    finally:
        with contextlib.suppress(OSError):
            data.rmdir()  # an empty one would keep out/data from becoming a link to other data
        lock.release()
    return None


def refuse_others(recipe: str, folder: Path, config: RunConfig) -> None:
    """Raise ValueError where a recipe would make its digits among other things: they are no data of it."""
    from minibatch.train.recipes import digits_data, origins

    if config.data is not digits_data.prepare or not folder.exists():
        return
    others = (
        [] if not folder.is_dir() else sorted(path.name for path in folder.iterdir() if path.name not in origins.PARTS)
    )
    if others or not folder.is_dir():
        held = f"holds {', '.join(others[:3])}" if others else "is a file"
        raise ValueError(
            f"--data {folder}: the recipe {recipe} is trained on the digits of scikit-learn alone, and makes its data "
            f"sets in a folder that is new or empty; this one {held}: leave out --data, or name another folder"
        )


def holds_data_sets(folder: Path) -> bool:
    """Whether `folder` has one of the data sets of a run."""
    from minibatch.train.recipes import origins

    return any((folder / part / MANIFEST).is_file() for part in origins.PARTS)


def data_of(recipe: str, config: RunConfig) -> Mapping[str, DataSet]:
    """The data sets by name that a recipe can be trained on: those its `data=partial(converted, NAME)` names."""
    from minibatch.train.recipes import digits_data, origins
    from minibatch.train.recipes.converted import converted

    made = config.data
    if isinstance(made, functools.partial) and made.func is converted:
        return origins.used_by(made.args[0] if made.args else made.keywords["name"])
    return {"digits": origins.DIGITS} if made is digits_data.prepare else origins.used_by(recipe)


def convert_raw(recipe: str, source: Path, data: Path, used: Mapping[str, DataSet], *, quiet: bool) -> None:
    """Make the data sets `data`/train and `data`/valid of the raw data `source`, one of the forms in `used`."""
    from minibatch.train.recipes.origins import PARTS

    with opened(recipe, source, data, used) as (folder, form):
        paths = {part: inside(folder, form.part(part).path) for part in PARTS}
        for part in PARTS:
            convert_part(paths[part], data / part, form.part(part).options, quiet=quiet)


@contextlib.contextmanager
def opened(recipe: str, source: Path, data: Path, used: Mapping[str, DataSet]) -> Iterator[tuple[Path, Form]]:
    """The raw data as `minibatch convert` reads them, and their form; an archive is unpacked in `data` for as long."""
    if not is_archive(source, used):
        yield form_of(recipe, source, used)
        return
    unpacked = data / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        unpack(source, unpacked)
        yield form_of(recipe, source, used, unpacked)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def is_archive(source: Path, used: Mapping[str, DataSet]) -> bool:
    """Whether `source` is an archive that has to be unpacked."""
    patterns = [each for one in used.values() for form in one.forms for each in form.archives]
    return not source.is_dir() and fits(source, patterns)


def fits(path: Path, patterns: Sequence[str]) -> bool:
    """Whether the name of `path` fits one of `patterns`, in whatever letters it is."""
    return any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in patterns)


def form_of(recipe: str, source: Path, used: Mapping[str, DataSet], unpacked: Path | None = None) -> tuple[Path, Form]:
    """Where the raw data `source` lie (a file, or in a folder, that which it is unpacked to), and their form.

    Raises FileNotFoundError where nothing is there, ValueError where it is none of the forms in `used`.
    """
    if not source.exists():
        raise FileNotFoundError(f"--data {source}: there is no such file or folder (nor a data set in it)")
    forms = [form for one in used.values() for form in one.forms]
    folder = source if unpacked is None else unpacked
    if not folder.is_dir():
        found = next(((source, form) for form in forms if fits(source, form.files)), None)
    else:
        found = next(((root, form) for form in forms for root in roots(folder) if not lacking(root, form)), None)
    if found is None:
        raise refused(recipe, source, folder, used)
    return found


def roots(folder: Path) -> Iterator[Path]:
    """The places in `folder` in which a form may lie: itself, and its folders by name."""
    yield folder
    yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def lacking(folder: Path, form: Form) -> list[str]:
    """The patterns of what `form` holds that nothing in `folder` fits; all of a form that is no folder."""
    return [each for each in form.holds if next(folder.glob(each), None) is None] if form.holds else ["a file"]


def inside(folder: Path, pattern: str) -> Path:
    """What `pattern` names in the raw data `folder`: the first by name; the raw data themselves for none."""
    return min(folder.glob(pattern)) if pattern else folder


def refused(recipe: str, source: Path, folder: Path, used: Mapping[str, DataSet]) -> ValueError:
    """The error for what is no form of the raw data: with what is missing, if it nearly is one."""
    from minibatch.train.recipes import origins

    nearly = ""
    places = list(roots(folder)) if folder.is_dir() else []
    for form in (form for one in used.values() for form in one.forms):
        missing = min((lacking(place, form) for place in places), key=len, default=form.holds)
        if 0 < len(missing) < len(form.holds):
            nearly = f": it lacks {', '.join(missing)} of {form.called}"
            break
    titles = " or ".join(one.title for one in used.values() if one.forms)
    error = ValueError(f"--data {source}: that is no raw data of {titles} that the recipe {recipe} can use{nearly}")
    for line in origins.ways(recipe if origins.used_by(recipe) else next(iter(used))):
        error.add_note(line)
    return error


def convert_part(source: Path, out: Path, typed: str, *, quiet: bool) -> None:
    """What `minibatch convert source out typed` does; nothing where it has been done."""
    given = options_of(typed)
    if (out / MANIFEST).is_file():
        before, wanted = Dataset.open(out).manifest.source, origin_of(str(source), given, None)
        if before != wanted:
            raise ValueError(
                f"{out} is a data set made of {before}, and {wanted} was asked for: choose another --out, or remove it"
            )
        return
    arguments = [str(source), str(out), *shlex.split(typed), *(["--quiet"] if quiet else [])]
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for what the run prints
        code = command().main(arguments, prog_name="minibatch convert", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def options_of(typed: str) -> Options:
    """The options of formats among those that are `typed` for `minibatch convert`.

    >>> options_of("--subset train --decode").subset
    'train'
    """
    found = command().make_context("minibatch convert", ["SOURCE", "OUT", *shlex.split(typed)]).params
    values: dict[str, Any] = {field.name: found[field.name] for field in OPTIONS}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return Options(**values)


def command() -> Any:
    """`minibatch convert`, whose errors are raised instead of being printed."""
    single = typer.Typer(add_completion=False)
    single.command()(convert.convert)
    return typer.main.get_command(single)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip; ValueError if it is damaged."""
    folder.mkdir(parents=True)
    checked = {} if archive.suffix.lower() == ".zip" else {"filter": "data"}
    try:
        shutil.unpack_archive(archive, folder, **checked)  # type: ignore[arg-type]
    except tarfile.FilterError as error:
        raise ValueError(f"{archive} is not unpacked, as it would write elsewhere: {error}") from error
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # no permission, no space: nothing is wrong with the archive
        raise ValueError(
            f"{archive} cannot be unpacked ({error}): it is damaged, or was not downloaded to its end"
        ) from error

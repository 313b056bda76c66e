"""`minibatch train NAME --data SOURCE`: raw data become the data sets of the documented commands, or say why not."""

import shlex
import shutil
import tarfile

import numpy as np
import pytest

from minibatch import Dataset
from minibatch.storage import MANIFEST
from minibatch.tools import recipe_data
from minibatch.train.lock import FolderLock
from minibatch.train.recipes import RECIPES, origins
from tests.tools.raw_data import binary_batches, mnist_folder, packed_batches, pictures_by_class
from tests.tools.samples import DATA, contents, pack, run, write_files

SHORT = ("--max-samples", "64", "--quiet")


@pytest.fixture
def mnist(tmp_path):
    return mnist_folder(tmp_path / "mnist")


def trained(out, *arguments, rows=60):
    return run("train", "lenet", "--out", out, "--set", f"rows={rows}", *SHORT, *arguments)


def said(result):
    return " ".join(result.stderr.split())


def test_raw_data_become_the_data_sets_of_the_documented_commands(mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = trained("run", "--data", "mnist")
    assert result.exit_code == 0, result.output
    (form,) = origins.MNIST.forms
    commands = form.commands("data/mnist")
    assert commands == [
        "minibatch convert mnist data/mnist/train --subset train",
        "minibatch convert mnist data/mnist/valid --subset test",
    ]
    for command in commands:
        assert run(*shlex.split(command)[1:]).exit_code == 0
    for part in origins.PARTS:
        assert contents(tmp_path / "run" / "data" / part) == contents(tmp_path / "data" / "mnist" / part)
    assert trained("other", "--data", "data/mnist").exit_code == 0
    results = [(tmp_path / name / "ledger.jsonl").read_text().splitlines()[-1] for name in ("run", "other")]
    assert results[0] == results[1]
    assert (tmp_path / "other" / "data").is_symlink()


def test_stdout_has_the_result_alone(mnist, tmp_path):
    result = run("train", "lenet", "--out", tmp_path / "run", "--set", "rows=60", "--max-samples", 64, "--json",
                 "--progress", "none", "--data", mnist)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("{")
    assert "60 rows" in result.stderr


def test_a_conversion_that_was_stopped_goes_on_and_a_run_is_resumed(mnist, tmp_path, monkeypatch):
    out = tmp_path / "run"
    convert_part = recipe_data.convert_part
    with monkeypatch.context() as patch:

        def stopped(source, part, typed, *, quiet):
            if part.name == "valid":
                raise KeyboardInterrupt
            convert_part(source, part, typed, quiet=quiet)

        patch.setattr(recipe_data, "convert_part", stopped)
        assert trained(out, "--data", mnist).exit_code == 130
    assert (out / "data" / "train" / MANIFEST).exists()
    assert not (out / "config.json").exists()
    before = (out / "data" / "train" / MANIFEST).stat().st_mtime_ns
    assert trained(out, "--data", mnist).exit_code == 0
    assert (out / "data" / "train" / MANIFEST).stat().st_mtime_ns == before
    assert "already holds a run" in said(trained(out, "--data", mnist))
    shutil.rmtree(mnist)  # a run that is resumed has its data
    for given in (("--data", mnist), ()):
        result = run("train", "lenet", "--out", out, "--resume", "--max-samples", 96, "--quiet", *given)
        assert result.exit_code == 0, result.output


def test_other_data_in_the_folder_of_a_run_are_not_taken_for_these(mnist, tmp_path):
    out = tmp_path / "run"
    assert trained(out, "--data", mnist, "--set", "minibatch_size=0").exit_code == 1
    assert not out.exists(), "what cannot be begun makes nothing"
    assert trained(out, "--data", mnist, rows=61).exit_code == 1
    other = mnist.rename(tmp_path / "other")
    result = trained(out, "--data", other)
    assert result.exit_code == 1
    assert "is a data set made of mnist --subset train, and other --subset train was asked for" in said(result)
    trained(tmp_path / "linked", "--data", out / "data")
    assert "is a link to" in said(trained(tmp_path / "linked", "--data", other, "--resume"))


def test_what_the_raw_data_lack_is_said_with_the_ways_to_give_them(mnist, tmp_path):
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    result = trained(tmp_path / "run", "--data", mnist)
    assert result.exit_code == 1
    assert "is no raw data of MNIST or Fashion-MNIST that the recipe lenet can use: it lacks t10k-labels?idx1" in said(
        result
    )
    for way in ("--data PATH of the raw data", "--data data/mnist", "--data fetch downloads", "fetch:fashion-mnist"):
        assert way in said(result)
    assert not (tmp_path / "run").exists()
    assert "there is no such file or folder" in said(trained(tmp_path / "run", "--data", tmp_path / "nothing"))


def test_without_data_the_error_says_all_ways(tmp_path):
    result = run("train", "cifar10_fast", "--out", tmp_path / "run")
    assert result.exit_code == 1
    for way in ("cifar-10-binary.tar.gz", "minibatch convert cifar-10-batches-bin data/cifar10/train --subset train",
                "--data data/cifar10", "--data fetch downloads CIFAR-10"):  # fmt: skip
        assert way in said(result)


def raw_cifar(form, folder):
    if form == "pictures":
        return write_files(folder / "pictures", pictures_by_class())
    if form == "tar":
        return pack(folder / "pictures.tar.gz", sorted(pictures_by_class().items()))
    if form == "batches":
        return write_files(folder / "raw", binary_batches()) / "cifar-10-batches-bin"
    if form == "around the batches":
        return write_files(folder / "raw", binary_batches())
    return packed_batches(folder / "cifar-10-binary.tar.gz")


@pytest.mark.parametrize("form", ["pictures", "tar", "batches", "around the batches", "packed"])
def test_all_forms_of_cifar10_give_the_same_pictures_and_labels(form, tmp_path):
    data = tmp_path / "run" / "data"
    recipe_data.convert_raw("cifar10", raw_cifar(form, tmp_path), data, origins.used_by("cifar10"), quiet=True)
    for part, rows in (("train", 9), ("valid", 6)):
        dataset = Dataset.open(data / part)
        read = dataset.read(np.arange(rows))
        assert len(dataset) == rows
        assert read["image"].dtype == np.uint8
        assert read["image"].shape == (rows, 32, 32, 3)
        assert read["label"].dtype == np.int64
        count = rows // 3
        assert read["label"].tolist() == [label for label in range(3) for _ in range(count)]
        expected = [40 * label + number for label in range(3) for number in range(count)]
        assert read["image"][:, 31, 0, 0].tolist() == expected
        assert read["image"][:, 0, 31, 1].tolist() == [2 * value % 256 for value in expected]
    assert sorted(path.name for path in data.iterdir()) == ["train", "valid"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    packed = packed_batches(tmp_path / "cifar-10-binary.tar.gz")
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        recipe_data.convert_raw("cifar10", packed, tmp_path / "data", origins.used_by("cifar10"), quiet=True)
    assert not (tmp_path / "data" / "unpacked").exists()


def test_an_archive_that_would_write_elsewhere_is_refused_and_leaves_no_folder_of_data(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("../../evil"))
    result = run("train", "autoencoder", "--out", tmp_path / "run", "--data", tmp_path / "cifar-10-binary.tar.gz")
    assert result.exit_code == 1
    assert "is not unpacked, as it would write elsewhere" in said(result)
    assert not (tmp_path / "run" / "data").exists(), "it would keep the run from a link to other data"
    assert not (tmp_path / "evil").exists()


def test_an_archive_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr(recipe_data.shutil, "unpack_archive", refused)
    with pytest.raises(PermissionError):
        recipe_data.unpack(tmp_path / "a.tar", tmp_path / "unpacked")


def test_one_conversion_at_a_time_in_the_folder_of_a_run(mnist, tmp_path):
    lock = FolderLock(tmp_path / "run")
    try:
        result = trained(tmp_path / "run", "--data", mnist)
        assert result.exit_code == 1
        assert "is in use by" in said(result)
        assert not (tmp_path / "run" / "data").exists()
    finally:
        lock.release()


def test_an_empty_path_is_not_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for recipe in ("lenet", "demo"):
        assert "--data '' is empty: expected a path, or fetch" in said(
            run("train", recipe, "--out", "run", "--data", "", *SHORT)
        )
    assert not list(tmp_path.iterdir())


def test_a_text_is_parted_by_position_with_one_vocabulary(tmp_path):
    (tmp_path / "mine.txt").write_text("abcdefghij" * 50, encoding="utf-8")
    used = origins.used_by("charlm")
    recipe_data.convert_raw("charlm", tmp_path / "mine.txt", tmp_path / "data", used, quiet=True)
    train, valid = (Dataset.open(tmp_path / "data" / part) for part in origins.PARTS)
    assert train.fields["text"].metadata == valid.fields["text"].metadata
    assert [len(d.read(np.arange(len(d)))["text"].values) for d in (train, valid)] == [450, 50]


def test_a_recipe_of_ones_own_names_its_data_set(tmp_path, mnist):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from functools import partial\n"
        "from minibatch.train.recipes.converted import converted\n"
        "from minibatch.train.recipes.lenet import lenet\n"
        "def mine():\n"
        "    return dataclasses.replace(lenet(rows=60, max_samples=64), data=partial(converted, 'mnist'))\n"
    )
    result = run("train", f"{tmp_path}/mine.py:mine", "--out", tmp_path / "run", "--data", mnist, "--quiet")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "data" / "valid" / MANIFEST).exists()


def test_a_recipe_that_makes_its_data_may_be_given_a_folder_without_other_things(tmp_path):
    result = run("train", "demo", "--out", tmp_path / "run", "--data", tmp_path / "new", *SHORT)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "train" / MANIFEST).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train-images-idx3-ubyte").touch()
    for path, held in (("mine", "holds train-images-idx3-ubyte"), ("mine/train-images-idx3-ubyte", "is a file")):
        result = run("train", "demo", "--out", tmp_path / "other", "--data", tmp_path / path, *SHORT)
        assert f"a folder that is new or empty; this one {held}: leave out --data" in said(result)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["train-images-idx3-ubyte"]
    assert "knows nothing to download (nothing to get: they come with scikit-learn" in said(
        run("train", "demo", "--out", tmp_path / "other", "--data", "fetch", *SHORT)
    )


REAL = {"multitask": "", "charlm": "tinyshakespeare.txt", "detection": "bccd.tar"}


@pytest.mark.parametrize("recipe", REAL)
def test_the_real_data_are_known_and_convert(recipe, tmp_path):
    source = DATA / REAL[recipe]
    if not source.exists():
        pytest.skip(f"{source} is not there")
    recipe_data.convert_raw(recipe, source, tmp_path, origins.used_by(recipe), quiet=True)
    rows = {"multitask": (4978, 893), "charlm": (1004, 1), "detection": (292, 72)}
    assert tuple(len(Dataset.open(tmp_path / part)) for part in origins.PARTS) == rows[recipe]


def test_the_real_dictionary_is_known(tmp_path):
    if not (DATA / "cmudict.train").exists():
        pytest.skip(f"{DATA} is not there")
    folder, form = recipe_data.form_of("joint", DATA, origins.used_by("joint"))
    assert form is origins.CMUDICT.forms[0]
    assert recipe_data.inside(folder, form.train.path) == DATA / "cmudict.train"
    assert recipe_data.inside(folder, form.valid.path) == DATA / "cmudict.test"


def test_the_options_of_the_table_are_those_of_convert():
    assert set(origins.USED) == set(RECIPES)
    for one in origins.DATA_SETS.values():
        for form in one.forms:
            for part in origins.PARTS:
                typed = form.part(part).options
                given = recipe_data.options_of(typed)
                assert given.subset is not None or given.stream or not typed

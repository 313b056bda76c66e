"""`--data fetch`: what comes has the digest that it must have, and is kept; what has not leaves nothing."""

import dataclasses

import pytest

from minibatch.tools import download
from minibatch.train.recipes import origins
from minibatch.train.recipes.origins import Download
from tests.tools.raw_data import idx_files, packed_batches, served, sha256
from tests.tools.samples import contents, run

pytest.importorskip("pooch")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(download.CACHE, str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache"


def given_out(address, files, one=origins.MNIST):
    """The data set `one`, to be downloaded from `address`."""
    downloads = [Download(url=f"{address}{name}", digest=sha256(content), name=name) for name, content in files.items()]
    return dataclasses.replace(one, downloads=downloads)


def test_what_comes_is_kept_and_not_downloaded_again(cache):
    files = idx_files()
    with served(files) as (address, asked):
        used = {"mnist": given_out(address, files)}
        for _ in range(2):
            found, chosen = download.fetched("lenet", used, "", quiet=True)
            assert (found, list(chosen)) == (cache / "mnist", ["mnist"])
            assert contents(found) == files
    assert sorted(asked) == sorted(files)
    (cache / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with served(files) as (address, asked):
        download.fetched("lenet", {"mnist": given_out(address, files)}, "", quiet=True)
    assert asked == ["train-labels-idx1-ubyte.gz"]
    assert contents(cache / "mnist") == files


def test_another_digest_is_an_error_and_nothing_is_left(cache):
    files = idx_files()
    with served({**files, "t10k-images-idx3-ubyte.gz": b"something else"}) as (address, _):
        one = given_out(address, files)
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is not what was expected, sha256:.*by hand"):
            download.fetched("lenet", {"mnist": one}, "", quiet=True)
    assert not list(cache.rglob("t10k-images*"))
    assert all(path.name in files for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["half", "absent", "nobody"])
def test_what_does_not_come_to_its_end_is_an_error_and_nothing_is_left(kind, cache):
    files = idx_files()
    name = "train-images-idx3-ubyte.gz"
    content = {} if kind == "absent" else files
    with served(content, broken=(name,)) as (address, _):
        one = given_out(address, {name: files[name]})
        if kind != "nobody":
            with pytest.raises(OSError, match=rf"{name} could not be downloaded.*get it by hand \(the four files"):
                download.fetched("lenet", {"mnist": one}, "", quiet=True)
    if kind == "nobody":
        with pytest.raises(OSError, match="could not be downloaded"):
            download.fetched("lenet", {"mnist": one}, "", quiet=True)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_data_set_is_chosen_by_name_and_one_without_downloads_says_where_it_is(cache):
    files = idx_files()
    with served(files) as (address, _):
        used = {"mnist": origins.MNIST, "fashion-mnist": given_out(address, files), "digits": origins.DIGITS}
        found, chosen = download.fetched("lenet", used, "fashion-mnist", quiet=True)
    assert (found, list(chosen)) == (cache / "fashion-mnist", ["fashion-mnist"])
    with pytest.raises(ValueError, match="lenet can be trained on mnist, fashion-mnist"):
        download.fetched("lenet", used, "digits", quiet=True)
    with pytest.raises(ValueError, match=r"BCCD cannot be downloaded here.*git clone"):
        download.fetched("detection", {"bccd": origins.BCCD}, "", quiet=True)


def test_a_run_trains_on_what_was_fetched(tmp_path, monkeypatch):
    files = idx_files()
    with served(files) as (address, asked):
        monkeypatch.setitem(origins.USED, "lenet", {"mnist": given_out(address, files)})
        monkeypatch.chdir(tmp_path)
        for number in range(2):
            result = run("train", "lenet", "--out", f"run{number}", "--data", "fetch", "--set", "rows=60",
                         "--max-samples", "64", "--progress", "none")  # fmt: skip
            assert result.exit_code == 0, result.output
    assert sorted(asked) == sorted(files)
    assert f"downloading {address}" not in result.stderr, "the second time they are there"
    assert "60 rows" in result.stderr
    (tmp_path / "fetch").mkdir()
    result = run("train", "lenet", "--out", "run3", "--data", "./fetch")
    assert "that is no raw data of MNIST" in result.stderr


def test_an_archive_that_was_fetched_is_unpacked_for_the_conversion(tmp_path, cache, monkeypatch):
    packed = packed_batches(tmp_path / "cifar-10-binary.tar.gz")
    files = {packed.name: packed.read_bytes()}
    with served(files) as (address, _):
        monkeypatch.setitem(origins.USED, "lenet", {"cifar10": given_out(address, files, origins.CIFAR10)})
        result = run("train", "lenet", "--out", tmp_path / "run", "--data", "fetch", "--set", "rows=9")
    assert "9 rows" in result.stderr
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == ["train", "valid"]
    assert contents(cache / "cifar10") == files


def test_every_digest_of_the_table_can_be_one():
    lengths = {"md5": 32, "sha256": 64}
    for one in origins.DATA_SETS.values():
        for each in one.downloads:
            kind, _, digest = each.digest.partition(":")
            assert len(digest) == lengths[kind]
            assert set(digest) <= set("0123456789abcdef")
            assert each.url.startswith(("https://", "http://fashion-mnist.s3-website"))

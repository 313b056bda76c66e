"""Peers: the harness finds loaders that are wrong, and survives those that fail."""

import importlib.util

import numpy as np
import pytest

from minibatch.tools.bench_data import make, scaled
from minibatch.tools.bench_peers import Process, absent, bench_peers
from minibatch.tools.peers import PEERS, Peer, missing
from minibatch.tools.peers.check import check_minibatches
from minibatch.tools.peers.work import gathered, row_numbers
from tests.syntax import ROOT


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def good(data, seed=1):
    """Minibatches as a right loader gives them."""
    for rows in row_numbers(data, seed):
        yield gathered(data, rows)


def altered(batches, at, change):
    """Minibatches, of which number `at` is changed."""
    for number, batch in enumerate(batches):
        yield change(batch) if number == at else batch


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W5", "W6"])
def test_right_minibatches_pass_the_check(name, cache):
    data = make(scaled(name, 1e-4), cache)
    assert check_minibatches(good(data), data) == "no row twice in a whole sweep"


def swapped(batch):
    return {"x": np.roll(batch["x"], 1, 0), "label": batch["label"]}


@pytest.mark.parametrize(
    ("name", "said"), [("W2", "has not the values"), ("W6", "is not sequence"), ("W5", "is no 224×224 window")]
)
def test_values_of_other_rows_are_found(name, said, cache):
    data = make(scaled(name, 1e-4), cache)
    with pytest.raises(ValueError, match=said):
        check_minibatches(altered(good(data), 1, swapped), data)


def test_a_row_that_comes_twice_is_found(cache):
    data = make(scaled("W2", 1e-4), cache)
    first = next(good(data))
    with pytest.raises(ValueError, match="1024 of 4096 rows came twice"):
        check_minibatches(altered(good(data), 3, lambda _: first), data)


def test_a_loader_that_does_not_shuffle_is_found(cache):
    data = make(scaled("W3", 1e-3), cache)
    k = data.workload.k

    def in_order(starts):
        for start in starts:
            yield gathered(data, np.arange(start, start + k))

    with pytest.raises(ValueError, match="not shuffled"):
        check_minibatches(in_order(range(0, data.rows, k)), data)
    minibatches = np.random.RandomState(0).permutation(data.rows // k) * k
    with pytest.raises(ValueError, match="not shuffled"):
        check_minibatches(in_order(minibatches), data)


def test_a_short_minibatch_is_found(cache):
    data = make(scaled("W2", 1e-4), cache)
    short = altered(good(data), 2, lambda batch: {name: values[:5] for name, values in batch.items()})
    with pytest.raises(ValueError, match="minibatch 2 has labels"):
        check_minibatches(short, data)


def test_every_peer_has_a_file_with_its_loader():
    for peer in PEERS.values():
        text = (ROOT / "tools" / "peers" / f"{peer.file}.py").read_text(encoding="utf-8")
        assert "\ndef minibatches(data: Data, seed: int, folder: Path)" in text
        assert peer.needs
        assert peer.install


def test_a_peer_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    peer = Peer(name="new", file="new", needs=("no_such_module", "json"), install="new-loader", what="")
    monkeypatch.setitem(PEERS, "new", peer)
    assert missing(peer) == ["no_such_module"]
    assert absent(["new"]) == ["new is not installed (no_such_module missing): pip install new-loader"]


def test_ours_is_measured_against_torch_on_the_same_work(cache):
    pytest.importorskip("torch")
    pytest.importorskip("simplejpeg")
    data = make(scaled("W2", 1e-4), cache)
    found = bench_peers(data, ["torch"], seconds=0.01, pairs=2)
    assert [measured.peer for measured in found] == ["minibatch-1", "minibatch-2", "torch"]
    for measured in found:
        assert measured.error == ""
        assert measured.checked == "no row twice in a whole sweep"
        assert measured.row.theirs > 0
        assert measured.row.least <= measured.row.ratio <= measured.row.most
        assert measured.first_seconds > 0


def test_a_loader_that_fails_has_a_line_that_says_why(cache, monkeypatch):
    if importlib.util.find_spec("ffcv") is not None:
        pytest.skip("needs a loader that is not installed")
    monkeypatch.setattr("minibatch.tools.bench_peers.missing", lambda peer: [])
    data = make(scaled("W2", 1e-4), cache)
    failed = bench_peers(data, ["ffcv"], seconds=0.01, pairs=1)[-1]
    assert failed.row is None
    assert "No module named 'ffcv'" in failed.error


def test_a_process_that_dies_or_hangs_is_given_up(cache):
    data = make(scaled("W2", 1e-4), cache)
    slow = pytest.raises(RuntimeError, match="did not run within 0 s")
    with Process("minibatch-1", data, data.folder / "own") as process, slow:
        process.ask("run", patience=0.01, seconds=30)
    with Process("minibatch-1", data, data.folder / "own") as process:
        process._child.kill()
        process._child.wait()
        with pytest.raises(RuntimeError, match="has ended"):
            process.ask("open")

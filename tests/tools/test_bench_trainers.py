"""Other engines: those that do other work, fail or are not installed are told apart; the clock is that of the data."""

import pytest

from minibatch.tools import bench_trainers
from minibatch.tools.bench_engine_cases import write_data
from minibatch.tools.bench_trainers import absent, check_weights, time_engines, trainers_table
from minibatch.tools.peers import engine_worker, engines
from minibatch.tools.peers.engine_worker import Worker
from minibatch.tools.peers.engines import ENGINES, RAW, Engine, missing
from tests.syntax import ROOT

INSTALLED = [name for name, engine in ENGINES.items() if not missing(engine)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("engines") / "data")


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    return Worker(ENGINES[RAW], data, tmp_path_factory.mktemp("own"), print).check(10)["weights"]


@pytest.mark.parametrize("name", INSTALLED)
def test_every_engine_does_the_work_of_the_loop_by_hand(name, data, expected, tmp_path):
    check_weights(Worker(ENGINES[name], data, tmp_path, print).check(10)["weights"], expected)


def test_a_step_too_few_is_other_work(data, expected, tmp_path):
    with pytest.raises(RuntimeError, match="it does other work"):
        check_weights(Worker(ENGINES[RAW], data, tmp_path, print).check(9)["weights"], expected)
    with pytest.raises(RuntimeError, match="it has trained 2 parameters, the loop by hand 6"):
        check_weights(expected[:2], expected)


def test_the_clock_stops_when_the_next_minibatch_is_asked_for(data, tmp_path, monkeypatch):
    answers, trained = [], []
    monkeypatch.setattr(engine_worker.sys, "stdin", ['{"do": "run", "steps": 3}', '{"do": "run", "steps": 2}'])
    now = [0.0]
    monkeypatch.setattr(engine_worker.time, "perf_counter", lambda: now[0])
    worker = Worker(ENGINES[RAW], data, tmp_path, answers.append)
    for x, label in worker.metronome():
        trained.append((x.shape, label.shape))
        now[0] += 1.0
    assert len(trained) == 5
    assert answers == [{"begun": True}, {"seconds": 3.0}, {"seconds": 2.0}]


def test_engines_are_timed_in_processes_of_their_own():
    found = time_engines([RAW, "minibatch"], steps=20, repeats=2)
    assert [one.engine for one in found] == [RAW, "minibatch"]
    assert found[0].more == [0.0, 0.0]
    assert min(found[1].micro) > 0
    assert [one.error for one in found] == ["", ""]


def test_an_engine_that_fails_has_a_line_that_says_why(monkeypatch):
    # The process has no such engine: it fails as one whose library is broken does.
    monkeypatch.setitem(ENGINES, "broken", Engine(name="broken", file="by_hand", setting="", what="nothing"))
    table = trainers_table(["broken"], steps=1, repeats=1)
    assert "failed: broken has ended" in table.rows[0][3]
    assert "KeyError: 'broken'" in table.rows[0][3]


def test_an_engine_that_is_not_installed_is_named_once_with_the_command(monkeypatch):
    for name in ("new", "new, lean"):
        engine = Engine(name=name, file="new", setting="", what="", needs=("no_such_engine",), install="new-engine")
        monkeypatch.setitem(ENGINES, name, engine)
    (line,) = absent(["new", "new, lean", RAW])
    assert line.startswith("no_such_engine is not installed")
    assert "pip install new-engine" in line
    monkeypatch.setattr(bench_trainers, "time_engines", lambda names, **options: [])
    table = trainers_table(["new"], steps=1, repeats=1)
    assert table.rows == []
    assert line in table.notes


def test_every_engine_has_a_file_with_its_loop():
    for engine in engines.ENGINES.values():
        text = (ROOT / "tools" / "peers" / f"{engine.file}.py").read_text(encoding="utf-8")
        assert "\ndef train(task: Task, setting: str) -> torch.nn.Module:" in text

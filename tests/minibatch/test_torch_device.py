"""On the way to a device: in which order things happen, and on a GPU that the bits arrive."""

from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from minibatch import DatasetWriter, MinibatchSource  # noqa: E402
from minibatch.ragged import Ragged  # noqa: E402
from minibatch.torch import Loader, PinnedPool, TensorForm, Tensors  # noqa: E402
from minibatch.torch import loader as loaders  # noqa: E402
from minibatch.torch.device import Direct, SideStream, lane_to  # noqa: E402
from minibatch.torch.tensors import convert, refuse_forked  # noqa: E402

ROWS = 200_000
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "numbers"
    rows = np.arange(ROWS)
    with DatasetWriter(path) as writer:
        writer.write({"x": rows, "half": (rows % 1000).astype(np.float16), "wide": rows.astype(np.uint16)})
    return path


class Streams:
    """What `SideStream` uses of torch.cuda, noting down what happens."""

    def __init__(self):
        self.log = []
        self.active = "main"

    def Stream(self, device):  # noqa: N802
        return "side"

    @contextmanager
    def stream(self, stream):
        before, self.active = self.active, stream
        yield
        self.active = before

    def Event(self):  # noqa: N802
        return Event(self)

    def current_stream(self, device):
        return Current(self)


class Event:
    def __init__(self, streams):
        self.streams = streams

    def record(self, stream):
        self.streams.log.append(("recorded on", stream))


class Current:
    def __init__(self, streams):
        self.streams = streams

    def wait_event(self, event):
        assert isinstance(event, Event)
        self.streams.log.append(("waits on", self.streams.active))


@pytest.fixture
def streams(monkeypatch):
    """A device that is this one, of which every copy, pinning and claim is noted down."""
    streams = Streams()
    copy = torch.Tensor.to

    def to(tensor, device, non_blocking=False):
        assert non_blocking
        streams.log.append(("copy on", streams.active))
        return copy(tensor, device).clone()

    def record_stream(tensor, stream):
        assert isinstance(stream, Current)
        streams.log.append(("kept for", streams.active))

    def pin_memory(tensor):
        streams.log.append(("pinned on", streams.active))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    return streams


def test_copies_run_on_the_side_stream_and_the_user_waits_for_them_there(streams):
    lane = SideStream(torch.device("cpu"), streams)
    fields = {"x": torch.arange(3), "text": ["a"]}
    convert(Ragged(np.arange(3), np.array([0, 1, 3])), "r", TensorForm(ragged="nested"), fields)
    sent = lane.send(Tensors(fields, nominal_time=4, nominal_end=7))
    copies = ["x", "values", "offsets"]
    assert streams.log == [
        *[("pinned on", "main")] * len(copies),
        *[("copy on", "side")] * len(copies),
        ("recorded on", "side"),
    ]
    streams.log.clear()
    got = lane.receive(sent)
    assert streams.log == [("waits on", "main"), *[("kept for", "main")] * len(copies)]
    assert got["x"].tolist() == [0, 1, 2]
    assert got["text"] == ["a"]
    assert [part.tolist() for part in got["r"].unbind()] == [[0], [1, 2]]
    assert (got.nominal_time, got.nominal_end) == (4, 7)


def test_what_is_pinned_already_is_copied_from_where_it_lies(streams, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    SideStream(torch.device("cpu"), streams).send(Tensors({"x": torch.arange(3)}))
    assert streams.log == [("copy on", "side"), ("recorded on", "side")]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_so_many_minibatches_are_on_their_way_while_one_is_used(folder, streams, monkeypatch, ahead):
    monkeypatch.setattr(loaders, "lane_to", lambda device: SideStream(torch.device("cpu"), streams))
    loader = Loader(folder, 1000, seed=5, ahead=ahead, steps_per_epoch=4, fields=["x"])
    plain = MinibatchSource(folder, seed=5)
    for number, batch in enumerate(loader, 1):
        assert streams.log.count(("copy on", "side")) == number + ahead
        assert streams.log.count(("waits on", "main")) == number
        assert batch["x"].tolist() == plain.next_minibatch(1000)["x"].tolist()
        assert loader.state_dict() == plain.state_dict()


def test_rows_are_gathered_where_the_copy_to_the_gpu_begins(folder, streams, monkeypatch):
    sent = []

    class Noting(SideStream):
        def send(self, tensors):
            sent.extend(tensors.parts())
            return super().send(tensors)

    monkeypatch.setattr(loaders, "lane_to", lambda device: Noting(torch.device("cpu"), streams))
    monkeypatch.setattr(loaders, "PinnedPool", lambda: PinnedPool(pinned=False))
    loader = Loader(folder, 1000, seed=5, device="cuda", steps_per_epoch=30)
    plain = MinibatchSource(folder, seed=5)
    for batch in loader:
        expected = plain.next_minibatch(1000)
        assert all(batch[name].numpy().tobytes() == expected[name].tobytes() for name in expected.fields)
        assert loader.state_dict() == plain.state_dict()
    inside = [tensor.untyped_storage().nbytes() > tensor.nbytes for tensor in sent]
    assert sum(inside) > 0.8 * len(inside), "they share the storage of a block, but for the few across block borders"


def test_devices_without_streams_are_copied_to_directly():
    assert isinstance(lane_to(None), Direct)
    assert isinstance(lane_to(torch.device("cpu")), Direct)
    tensors = Tensors({"x": torch.arange(2)})
    assert Direct(None).send(tensors) is tensors
    assert Direct(torch.device("meta")).send(tensors)["x"].device.type == "meta"


def test_a_forked_worker_is_told_that_it_cannot_use_its_parents_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    refuse_forked("cpu")
    with pytest.raises(RuntimeError, match=r"a forked worker process cannot use cuda:0.*device='cuda:0', num_workers"):
        refuse_forked("cuda:0")


def test_a_pool_of_ordinary_memory_serves_a_source(folder):
    pool = PinnedPool(pinned=False)
    first = pool.take(1 << 20)
    first[:] = 1
    assert pool.take(0).shape == (0,)
    pool._process = -1  # as in a forked child
    assert pool.take(64).base is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_pinned_memory_without_a_gpu_is_refused():
    with pytest.raises(RuntimeError, match="pinned memory needs a GPU"):
        PinnedPool()


def test_what_does_not_fit_on_the_device_is_refused(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    monkeypatch.setattr(loaders, "lane_to", lambda device: Direct(None))
    with pytest.raises(MemoryError, match=r"take 2,400,000 bytes, cuda has 1,000 free: name fewer"):
        Loader(folder, 10, cache="device", device="cuda")


@cuda
@pytest.mark.parametrize("how", [{}, {"ahead": 0}, {"ahead": 4}, {"cache": "device"}], ids=str)
def test_the_same_bits_arrive_on_the_gpu(folder, how):
    loader = Loader(folder, 30_000, seed=5, device="cuda", **how)
    plain = MinibatchSource(folder, seed=5)
    held = []
    for _ in range(3):
        for batch in loader:
            expected = plain.next_minibatch(30_000)
            assert loader.state_dict() == plain.state_dict()
            held.append((batch, {name: expected[name].tobytes() for name in expected.fields}))
    for batch, expected in held:
        for name, tensor in batch.items():
            assert tensor.is_cuda
            assert tensor.cpu().numpy().tobytes() == expected[name], name


@cuda
def test_memory_of_a_running_copy_is_not_gathered_into(folder):
    loader = Loader(folder, 60_000, seed=5, device="cuda", ahead=2)
    plain = MinibatchSource(folder, seed=5)
    busy = torch.zeros(4096, 4096, device="cuda")
    for _ in range(30):
        batch = next(iter(loader))
        total = batch["x"].sum()
        del batch  # its memory goes back while the device is still computing
        for _ in range(5):
            busy = busy @ busy
        assert int(total) == int(plain.next_minibatch(60_000)["x"].sum())


@cuda
def test_blocks_are_gathered_into_pinned_memory(folder):
    pool = PinnedPool()
    assert torch.from_numpy(pool.take(1 << 21)).is_pinned()
    loader = Loader(folder, 1000, seed=5, device="cuda")
    next(iter(loader))
    source = MinibatchSource(folder, seed=5, pool=pool)
    assert all(torch.from_numpy(source.next_minibatch(1000)[name]).is_pinned() for name in ("x", "half"))

"""Blocks: what is gathered of a stretch of the axis, and where in the block its samples are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset
from minibatch.fetch import Block, Fetcher, join
from minibatch.memory import Pool
from minibatch.order import make_order
from minibatch.timeline import Holes, SkipRows, Stretch, holes_of
from tests.plain import order as plain
from tests.plain.source import fields_of


def fetcher_of(dataset: Dataset, shuffle: object = "full", holes: Holes | None = None, fields=None) -> Fetcher:
    order = make_order(shuffle, rows=len(dataset), chunk_rows=dataset.manifest.chunk_rows, seed=7)
    return Fetcher(dataset=dataset, names=dataset.select(fields), order=order, holes=holes or holes_of([]), pool=Pool())


stretches = st.builds(
    lambda start, length, gap, count: Stretch(start=start, length=length, stride=length + gap, count=count),
    st.integers(0, 3000) | st.just(2**61),
    st.integers(1, 40),
    st.sampled_from([0, 1, 7, 255, 256, 1000]),
    st.integers(1, 12) | st.just(90),  # 90 strides of 250: more than are computed together
)


@given(stretches, st.booleans())
def test_a_block_has_the_samples_of_its_runs_and_knows_where(folder_of, stretch, holed):
    dataset = Dataset.open(folder_of(1100, 64, 64))
    holes = holes_of([(10, 30), (2**61, 2**61 + 3), SkipRows([5, 17, 1099])]) if holed else None
    twin = plain.Full(rows=1100, seed=7)
    block = fetcher_of(dataset, holes=holes)(stretch)
    times = [t for run in stretch.runs() for t in run]
    samples = {t: twin.row(t % 1100, t // 1100) for t in times}
    if holed:
        hidden = {*range(10, 30), *range(2**61, 2**61 + 3)}
        samples = {t: row for t, row in samples.items() if t not in hidden and row not in (5, 17, 1099)}
        assert block.times is not None
        assert block.times.tolist() == list(samples)
    assert block.rows.tolist() == list(samples.values())
    assert block.columns["x"].view(0, len(samples)).tolist() == list(samples.values())
    for run in stretch.runs():
        for start, stop in ((run.start, run.stop), (run.start, run.start + 1), (run.stop - 1, run.stop)):
            lo, hi = block.bounds(start, stop - start) or (None, None)
            assert block.rows[lo:hi].tolist() == [samples[t] for t in range(start, stop) if t in samples]
        if stretch.count > 1:
            assert block.bounds(run.start, stretch.length + 1) is None
    assert block.bounds(stretch.start - 1, 1) is None
    assert block.bounds(stretch.start + stretch.count * stretch.stride, 1) is None


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_joined_pieces_are_the_samples_one_after_another(folder_of, pieces):
    fetcher = fetcher_of(Dataset.open(folder_of(40)), None, holes_of([(4, 9)]))
    blocks: list[Block] = []
    times: list[int] = []
    for start, length, more in pieces:
        whole = fetcher(Stretch(start=start, length=length + more + 1, stride=length + more + 1, count=1))
        bounds = whole.bounds(start, length)
        assert bounds is not None
        blocks.append(whole.part(*bounds))
        times += [t for t in range(start, start + length) if not 4 <= t < 9]
    total = sum(length for _, length, _ in pieces)
    joined = join(blocks, Stretch(start=0, length=total, stride=max(1, total), count=1))
    assert joined.times is not None
    assert joined.times.tolist() == times
    rows = np.array([t % 40 for t in times], np.int64)
    assert joined.rows.tolist() == rows.tolist()
    for name, expected in fields_of(rows).items():
        values = joined.columns[name].view(0, len(times))
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(values, expected)


def test_the_bytes_of_a_sample_are_those_of_its_fields_and_its_row_number(folder_of):
    dataset = Dataset.open(folder_of(40))
    assert fetcher_of(dataset, fields=["x", "image", "bit"]).sample_bytes == 8 + 8 + 6 + 3
    stored = sum(shard.bytes for shard in dataset.manifest.shards)
    assert fetcher_of(dataset, fields=["name"]).sample_bytes == 8 + -(-stored // 40), "text: at most what is stored"
    assert fetcher_of(dataset, fields=[]).sample_bytes == 8

"""`minibatch bench`: how fast order, reader, start and engine are, as ratios to plain alternatives of the same run.

`minibatch bench --peers` compares the reader with other loaders on the same work, `minibatch bench engines` the engine
with others. The data are made once and kept in a cache folder; use an idle machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Annotated

import typer

from minibatch.tools.bench_data import WORKLOADS, Data, default_cache, make, scaled
from minibatch.tools.bench_pairs import PAIRS
from minibatch.tools.bench_report import Report, as_document, as_markdown, print_report
from minibatch.tools.screen import print_json, screen

PARTS = ("order", "reader", "start", "engine")
# Take minutes each; memory also empties the page cache of its data.
ASKED_FOR = ("memory", "waits", "costs", "engines", "bits", "save", "weights")
Say = Callable[[str], None]


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help=f"Any of {', '.join(PARTS)} (all if none is named); {', '.join(ASKED_FOR)}."),
    ] = None,
    workload: Annotated[list[str] | None, typer.Option(help="W1 … W6; may be repeated (default: all).")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Compare with other loaders that are installed.")] = False,
    peer: Annotated[list[str] | None, typer.Option(help="With --peers: only this one; may be repeated.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the data are kept from run to run.")] = None,
    scale: Annotated[float, typer.Option(min=1e-6, max=1, help="A fraction of rows and steps, for a trial.")] = 1.0,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs behind each ratio.")] = PAIRS,
    seconds: Annotated[float, typer.Option(min=0.001, help="With --peers: how long a loader reads a turn.")] = 0.3,
    png: Annotated[Path | None, typer.Option(help="With weights: draw the picture into this file.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    write: Annotated[Path | None, typer.Option(help="Also write the results to this markdown file.")] = None,
) -> None:
    """Measure speed against plain alternatives, in one run; use an idle machine.

    Order: places a second. Reader: rows a second against a bare loop whose row numbers are known beforehand. Start: the
    first minibatch of a fresh process, also after a restore, and its private memory. Engine: its cost a step, feature
    by feature, beside loops by hand. Memory: data four times a memory limit, from a cold page cache.

    Waits: how often a step waits for the device. Costs: ledger, self-check, first step. Engines: Lightning and
    Accelerate, where they are installed. Bits: promise="bits" beside "math". Save: the stall of a checkpoint. Weights:
    the mean of means beside the weighted mean.
    """
    if peers and parts:
        raise typer.BadParameter("give parts or --peers, not both")
    if peer and not peers:
        raise typer.BadParameter("--peer goes with --peers")
    wanted = chosen(parts, (*PARTS, *ASKED_FOR), "part") if parts else list(PARTS)
    loads = chosen(workload, WORKLOADS, "workload")
    report = Report(pairs=pairs)
    begin, console = time.perf_counter(), screen(stderr=True)
    with console.status("measuring") as status:

        def say(what: str) -> None:
            if console.is_terminal:
                status.update(what)
            else:
                console.print(f"{time.perf_counter() - begin:5.0f} s  {what}", markup=False, soft_wrap=True)

        data = []
        if peers or {"reader", "start"} & set(wanted):
            data = [made(load, cache or default_cache(), scale, say) for load in loads]
        if peers:
            compare_peers(report, data, peer, pairs, seconds, say)
        else:
            measure_parts(report, wanted, data, pairs, say)
            measure_engine(report, wanted, scale, pairs, png, say)
            if "memory" in wanted:
                from minibatch.tools.bench_memory import beyond_memory

                report.rows += beyond_memory(cache or default_cache(), say)
    report.seconds = time.perf_counter() - begin
    if json_output:
        print_json(as_document(report))
    else:
        print_report(report, screen())
    if write is not None:
        write.write_text(as_markdown(report), encoding="utf-8")


def chosen(named: list[str] | None, known: Iterable[str], what: str) -> list[str]:
    """The names that were given, each checked; all that are known if none was."""
    names = list(known)
    for name in named or ():
        if name not in names:
            raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(names)}")
    return list(dict.fromkeys(named or names))


def made(name: str, cache: Path, scale: float, say: Say) -> Data:
    """The data of a workload, from the cache or made now."""
    workload = scaled(name, scale)
    say(f"{name}: the data, in {cache} (made once)")
    return make(workload, cache)


def measure_parts(report: Report, wanted: Container[str], data: list[Data], pairs: int, say: Say) -> None:
    """Order, reader and start, those that are wanted."""
    if "order" in wanted:
        from minibatch.tools.bench_order import bench_order

        say("order")
        report.rows += bench_order(pairs=pairs)
    if "reader" in wanted:
        from minibatch.tools.bench_reader import THREADS, bench_reader

        for each in data:
            for threads in THREADS:
                say(f"{each.workload.name}: reader, {threads} thread{'s' * (threads > 1)}")
                report.rows.append(bench_reader(each, threads, pairs))
    if "start" in wanted:
        from minibatch.tools.bench_start import bench_start

        for each in data:
            say(f"{each.workload.name}: fresh processes")
            report.rows += bench_start(each, pairs=pairs)


def measure_engine(
    report: Report, wanted: Container[str], scale: float, pairs: int, png: Path | None, say: Say
) -> None:
    """What is to be measured of the engine. scale: a fraction of the steps of each."""

    def steps(whole: int, least: int) -> int:
        return max(least, round(whole * scale))

    if "engine" in wanted:
        from minibatch.tools.bench_engine import STEPS, overhead_table

        report.tables.append(overhead_table(steps(STEPS, 10), pairs, progress=say))
    if "waits" in wanted:
        from minibatch.tools.bench_waits import waits_table

        say("waits")
        report.tables.append(waits_table())
    if "costs" in wanted:
        from minibatch.tools.bench_costs import LINES, costs_table

        report.tables.append(costs_table(repeats=pairs, lines=steps(LINES, 50), progress=say))
    if "engines" in wanted:
        from minibatch.tools import bench_trainers

        of_each = steps(bench_trainers.STEPS, 20)
        report.tables.append(bench_trainers.trainers_table(steps=of_each, repeats=pairs, progress=say))
    if "bits" in wanted:
        from minibatch.tools import bench_bits

        report.tables.append(bench_bits.bits_table(steps=steps(bench_bits.STEPS, 1), repeats=pairs, progress=say))
    if "save" in wanted:
        from minibatch.tools.bench_save import save_table

        say("save")
        report.tables.append(save_table(saves=pairs))
    if "weights" in wanted:
        from minibatch.tools import bench_weights as weights

        seeds, of_each = steps(weights.SEEDS, 1), steps(weights.STEPS, 5)
        report.tables += weights.weights_tables(seeds=seeds, steps=of_each, png=png, progress=say)


def compare_peers(
    report: Report, data: list[Data], named: list[str] | None, pairs: int, seconds: float, say: Say
) -> None:
    """The reader and the other loaders on each workload; those that are not installed are noted."""
    from minibatch.tools.bench_peers import absent, bench_peers
    from minibatch.tools.peers import PEERS

    names = chosen(named, PEERS, "loader")
    report.absent = absent(names)
    for line in report.absent:
        say(line)
    for each in data:
        report.peers += bench_peers(each, names, seconds=seconds, pairs=pairs, progress=say)

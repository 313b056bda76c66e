"""What a benchmark found: on the screen, as one JSON document, and as the markdown that goes into benchmarks/."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minibatch.tools.bench_pairs import Row, rate_text, spread_text
from minibatch.tools.bench_peers import Measured
from minibatch.tools.bench_tables import Table as Findings
from minibatch.tools.bench_tables import document, markdown, print_table
from minibatch.tools.machine import described
from minibatch.tools.screen import plain_table

PEER_TITLES = ("samples/s", "ours ÷ it (spread)", "first s", "MB")


@dataclass(kw_only=True)
class Report:
    """All figures of one run of `minibatch bench`; filled part by part."""

    pairs: int
    rows: list[Row] = field(default_factory=list)
    peers: list[Measured] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    tables: list[Findings] = field(default_factory=list)  # of the engine
    seconds: float = 0.0


def command() -> str:
    """The command line of this run."""
    return f"minibatch {' '.join(sys.argv[1:])}"


def as_document(report: Report) -> dict[str, Any]:
    """The report for JSON."""
    return {
        "machine": described(),
        "command": command(),
        "seconds": round(report.seconds, 1),
        "pairs": report.pairs,
        "rows": [asdict(row) for row in report.rows],
        "peers": [asdict(measured) for measured in report.peers],
        "not_installed": report.absent,
        "tables": [document(table) for table in report.tables],
    }


def figure_text(row: Row) -> str:
    """Our figure with its unit: a rate in thousands or millions, anything else as it is."""
    return f"{rate_text(row.ours)} {row.unit}" if row.unit.endswith("/s") else f"{row.ours:.3g} {row.unit}"


def print_report(report: Report, console: Console) -> None:
    """Tables that fit 80 columns: two lines a row, what was measured above what it was measured against."""
    if report.rows:
        table = plain_table("what, and against what", "ours", "ratio (spread)", "goal", right=("ours",))
        table.columns[0].no_wrap = False  # so that it gives way first where it is narrow
        for row in report.rows:
            against = f"\n  against {row.against}" if row.against else ""
            table.add_row(Text(row.name + against), figure_text(row), spread_text(row), row.goal)
        console.print(table)
    for name in dict.fromkeys(measured.workload for measured in report.peers):
        console.print(peers_table([measured for measured in report.peers if measured.workload == name]))
    for measured in report.peers:
        if measured.row is None:
            console.print(Text(f"{measured.workload}, {measured.peer} failed: {measured.error}"), soft_wrap=True)
    if any(measured.shuffle != "rows" for measured in report.peers):
        console.print("* changes the places of whole minibatches of neighbouring rows only")
    for line in report.absent:
        console.print(Text(line), soft_wrap=True)
    for findings in report.tables:
        print_table(findings, console)


def peers_table(peers: list[Measured]) -> Table:
    """One workload: each loader, its rate, ours over it, its first minibatch and private memory."""
    table = plain_table("loader", *PEER_TITLES, right=PEER_TITLES)
    table.title, table.title_justify, table.title_style = f"\n{peers[0].workload}: {peers[0].detail}", "left", "bold"
    for measured in peers:
        name = measured.peer + " *" * (measured.shuffle != "rows")
        if measured.row is None:
            table.add_row(name, "failed")
        else:
            row = measured.row
            figures = f"{measured.first_seconds:.2f}", f"{measured.private / 1e6:,.0f}"
            table.add_row(name, rate_text(row.theirs), spread_text(row), *figures)
    return table


def as_markdown(report: Report) -> str:
    """The report as it goes into benchmarks/."""
    lines = [f"- {name}: {value}" for name, value in described().items()]
    lines += [
        f"- command: `{command()}` ({report.seconds:.0f} s)",
        f"- {report.pairs} pairs a row, in turns; medians, and of the ratios of the pairs median (least–most)",
        "",
    ]
    if report.rows:
        lines += ["| what | ours | against | theirs | ratio (spread) | goal |", "|---|--:|---|--:|--:|--:|"]
    for row in report.rows:
        theirs = figure_text(Row(**{**asdict(row), "ours": row.theirs})) if row.against else ""
        name = f"{row.name}: {row.detail}" if row.detail else row.name
        lines.append(f"| {name} | {figure_text(row)} | {row.against} | {theirs} | {spread_text(row)} | {row.goal} |")
    if report.peers:
        lines += list(peers_markdown(report.peers))
    if report.absent:
        lines += ["", *(f"- {line}" for line in report.absent)]
    for table in report.tables:
        lines += ["", *markdown(table)]
    return "\n".join(lines) + "\n"


def peers_markdown(peers: list[Measured]) -> Iterator[str]:
    """The loaders, a table for each workload."""
    yield "Each loader in a process of its own, shuffled, page cache warm. First minibatch: from the import of the"
    yield "library on; MB: anonymous and shared memory beyond what the harness itself takes. Checked before measuring."
    for name, detail in dict.fromkeys((measured.workload, measured.detail) for measured in peers):
        yield ""
        yield f"### {name}: {detail}"
        yield ""
        yield "| loader | what | shuffles | samples/s | ours ÷ it (spread) | first minibatch | MB | checked |"
        yield "|---|---|---|--:|--:|--:|--:|---|"
        for measured in peers:
            if measured.workload != name:
                continue
            head = f"| {measured.peer} | {measured.what} | {measured.shuffle} |"
            if measured.row is None:
                yield f"{head} – | – | – | – | failed: {measured.error.replace('|', '/')} |"
                continue
            row = measured.row
            yield (
                f"{head} {rate_text(row.theirs)} | {spread_text(row)} | {measured.first_seconds:.2f} s | "
                f"{measured.private / 1e6:,.0f} | {measured.checked} |"
            )

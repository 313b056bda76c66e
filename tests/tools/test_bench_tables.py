"""Tables of findings on the screen, in markdown and as JSON; turns."""

from rich.console import Console

from minibatch.tools.bench_tables import Table, document, in_turns, markdown, print_table, spread_of

TABLE = Table(
    title="Speed",
    columns=("what is measured, in words", "µs"),
    right=("µs",),
    rows=[("one [bold] thing | another", "1,234.5 (1.0–2,000.0)"), ("two", "3")],
    notes=("A note.",),
    figures=[{"us": 1234.5}, {"us": 3.0}],
)


def test_a_narrow_screen_breaks_words_not_numbers():
    console = Console(width=40, record=True, highlight=False)
    print_table(TABLE, console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 40
    assert "1,234.5 (1.0–2,000.0)" in shown
    assert "A note." in shown
    assert "[bold]" in shown  # no markup


def test_markdown_has_as_many_cells_in_every_row():
    lines = list(markdown(TABLE))
    assert lines[0] == "## Speed"
    assert {line.count("|") for line in lines if line.startswith("|")} == {3}
    assert lines[-1] == "A note."


def test_json_has_the_numbers_or_else_the_texts():
    assert document(TABLE)["rows"] == [{"us": 1234.5}, {"us": 3.0}]
    texts = Table(title="T", columns=("a", "b"), rows=[("1", "2")])
    assert document(texts)["rows"] == [{"a": "1", "b": "2"}]


def test_turns_go_round_and_a_stall_does_not_count():
    calls, now = [], [0.0]

    def loop(name, costs):
        def run(steps):
            calls.append((name, steps))
            now[0] += costs.pop(0) * steps

        return run

    found = in_turns([loop("a", [1, 1, 100]), loop("b", [2, 2, 2])], 5, 2, lambda: now[0])
    assert calls == [("a", 2), ("b", 2), ("a", 2), ("b", 2), ("a", 1), ("b", 1)]
    assert found == [1.0, 2.0]


def test_a_spread_is_median_least_and_most():
    spread = spread_of([5.0, 1.0, 2.0])
    assert (spread.median, spread.least, spread.most) == (2.0, 1.0, 5.0)
    assert spread.text(0) == "2 (1–5)"

"""`minibatch show`: everything a person wants to know of a data set, in 80 columns; all of it as JSON."""

import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from minibatch import Dataset, DatasetWriter, MinibatchSource
from minibatch.limits import Memory
from minibatch.sparse import Sparse
from minibatch.tools import show, show_images
from tests.tools.samples import picture, run


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A data set with fields of every kind and 13 shards."""
    path = tmp_path_factory.mktemp("show") / "vielfältig"
    classes = {"classes": json.dumps(["Katze", "Hund"])}
    with DatasetWriter(path, chunk_rows=1, shard_rows=1, metadata={"label": classes}, source="a test") as writer:
        writer.write(
            {
                "image": np.arange(13 * 12, dtype=np.float32).reshape(13, 3, 4),
                "label": np.array([1, 0, 7, *[0] * 10]),
                "pair": np.arange(26, dtype=np.int8).reshape(13, 2),
                "yes": np.arange(13) % 2 == 0,
                "text": ["short", "two\nlines", "long " * 100, *["x"] * 10],
                "mask": np.arange(13 * 9).reshape(13, 9) % 3 == 0,
                "odd": np.array([np.nan, -np.inf, 1 / 3, *[0] * 10]),
                "large": np.full((13, 2), 2**62 + 1),
                "raw": [bytes(range(20)), b"", b"abc", *[b"x"] * 10],
                "day": np.array(["2020-01-01"] * 13, "datetime64[s]"),
            }
        )
    return path


def test_the_screen_has_size_fields_first_rows_notes_and_shards_in_80_columns(varied):
    result = run("show", varied)
    assert result.exit_code == 0
    dataset = Dataset.open(varied)
    shown = result.stdout
    for part in (
        "vielfältig",
        f"13 rows, {sum(shard.bytes for shard in dataset.manifest.shards) / 1e3:.1f} kB in 13 shards, chunks of 1 row",
        f"fingerprint {dataset.fingerprint}",
        "from a test",
        "label classes: 2: 0 Katze, 1 Hund",
        "shard-00009.arrow",
        "… 3 more",
    ):
        assert part in shown
    assert "shard-00010" not in shown
    fields = re.search(r"^field .*?(?=^label classes)", shown, re.DOTALL | re.MULTILINE)
    lines = [line.rstrip() for line in fields[0].splitlines()[1:]]
    assert [re.split(r"  +", line, maxsplit=2) for line in lines[::3]] == [
        ["image", "float32 (3, 4)", "0 to 11, mean 5.5"],
        ["label", "int64", "1 (Hund)"],
        ["pair", "int8 (2,)", "0 1"],
        ["yes", "bool", "True"],
        ["text", "text", "short"],
        ["mask", "bool (9,)", "False to True, mean 0.333333"],
        ["odd", "float64", "nan"],
        ["large", "int64 (2,)", "4611686018427387905 4611686018427387905"],
        ["raw", "bytes", "20 bytes (00 01 02 03 04 05 06 07 …)"],
        ["day", "timestamp[s]", "1577836800"],
    ]
    assert lines[4].split() == ["0", "(Katze)"]
    assert lines[5].split() == ["7"]
    assert lines[13].strip() == r"'two\nlines'"
    assert lines[14].strip().endswith("…")
    assert max(len(line) for line in shown.splitlines()[1:]) <= 80


def test_json_has_the_whole_of_it(varied):
    document = json.loads(run("show", varied, "--json", "--samples", 1).stdout)
    dataset = Dataset.open(varied)
    assert document["rows"] == 13
    assert document["fingerprint"] == dataset.fingerprint
    assert document["source"] == "a test"
    assert len(document["shards"]) == 13
    assert document["bytes"] == sum(shard["bytes"] for shard in document["shards"])
    assert document["fields"][0] == {
        "name": "image",
        "type": "float32 (3, 4)",
        "shape": [3, 4],
        "classes": None,
        "lengths": None,
        "metadata": {},
    }
    assert document["fields"][1]["classes"] == ["Katze", "Hund"]
    assert document["samples"] == {
        "image": [{"shape": [3, 4], "min": 0, "max": 11}],
        "label": [1],
        "pair": [[0, 1]],
        "yes": [True],
        "text": ["short"],
        "mask": [{"shape": [9], "min": False, "max": True}],
        "odd": ["nan"],
        "large": [[2**62 + 1, 2**62 + 1]],
        "raw": [{"bytes": 20}],
        "day": [1577836800],
    }


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_as_many_first_rows_are_shown_as_asked_for_and_there(samples, varied):
    assert run("show", varied, "--samples", samples).exit_code == 0
    document = json.loads(run("show", varied, "--json", "--samples", samples).stdout)
    assert {len(values) for values in document["samples"].values()} == {min(samples, 13)}


def test_an_empty_data_set_is_shown(tmp_path):
    with DatasetWriter(tmp_path / "empty") as writer:
        writer.write({"x": np.zeros((0, 2))})
    result = run("show", tmp_path / "empty")
    assert result.exit_code == 0
    assert "0 rows" in result.stdout


@pytest.mark.parametrize("classes", ["no json", "5", '{"a": 1}', "[]"])
def test_a_note_on_classes_of_another_meaning_does_no_harm(classes, tmp_path):
    with DatasetWriter(tmp_path / "out", metadata={"label": {"classes": classes}}) as writer:
        writer.write({"label": np.arange(3)})
    assert run("show", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("making", ["nothing", "file", "empty folder"])
def test_what_is_no_data_set_is_an_error_that_names_it(making, tmp_path):
    path = tmp_path / "it"
    if making == "file":
        path.touch()
    if making == "empty folder":
        path.mkdir()
    result = run("show", path)
    assert result.exit_code == 1
    assert str(path) in result.stderr


def test_a_folder_that_holds_neither_data_nor_a_run_is_an_error_and_a_run_is_shown(tmp_path):
    assert run("show", tmp_path).exit_code == 1
    (tmp_path / "ledger.jsonl").write_text("")
    assert "no steps yet" in run("show", tmp_path).stdout


LENGTHS = [5, 0, 9, 2, 7, 7, 1]


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """A data set of sequences: numbers, texts, lists of lists, sparse vectors."""
    path = tmp_path_factory.mktemp("show") / "lists"
    with DatasetWriter(path, chunk_rows=2) as writer:
        writer.write(
            {
                "tokens": [np.arange(length, dtype=np.int32) for length in LENGTHS],
                "words": [["kurz", "zwei wörter"][: length % 3] for length in LENGTHS],
                "points": [np.ones((length + 1, 2), np.float32) for length in LENGTHS],
                "nested": [[[1] * length, []] for length in LENGTHS],
                "bag": Sparse(np.arange(7), np.full(7, 0.5), np.array([0, 7, 7, 7, 7, 7, 7, 7]), 943),
            }
        )
    return path


def test_lists_are_shown_with_their_lengths_and_first_elements(lists):
    shown = run("show", lists, "--samples", 3).stdout
    fields = re.search(r"^field .*?(?=^length)", shown, re.DOTALL | re.MULTILINE)
    lines = [line.rstrip() for line in fields[0].splitlines()[1:] if line.strip()]
    assert [re.split(r"  +", line.strip(), maxsplit=2) for line in lines] == [
        ["tokens", "list<int32>", "5 long: 0 1 2 3 4"],
        ["0 long"],
        ["9 long: 0 1 2 3 4 5 …"],
        ["words", "list<text>", "2 long: 'kurz' 'zwei wörter'"],
        ["0 long"],
        ["0 long"],
        ["points", "list<float32> (2,)", "6 × (2,): 1 to 1, mean 1"],
        ["1 × (2,): 1 to 1, mean 1"],
        ["10 × (2,): 1 to 1, mean 1"],
        ["nested", "list<list<int64>>", "2 lists of lengths 5 0"],
        ["2 lists of lengths 0 0"],
        ["2 lists of lengths 9 0"],
        ["bag", "sparse<float64> of 943", "7 of 943: 0:0.5 1:0.5 2:0.5 3:0.5 4:0.5 5:0.5 …"],
        ["0 of 943"],
        ["0 of 943"],
    ]
    assert max(map(len, shown.splitlines()[1:])) <= 80
    assert re.search(r"^tokens +0 +4.4 +5 +8.4 +9 +31$", shown, re.MULTILINE)


def test_the_lengths_of_list_fields_are_those_of_all_rows(lists):
    document = json.loads(run("show", lists, "--json").stdout)
    found = {field["name"]: field["lengths"] for field in document["fields"]}
    assert found["bag"] is None
    assert found["tokens"] == {
        "rows": 7,
        "least": 0,
        "mean": sum(LENGTHS) / 7,
        "median": 5,
        "percentile_95": pytest.approx(8.4),
        "most": 9,
        "total": 31,
    }
    assert found["nested"]["mean"] == 2
    assert document["samples"]["tokens"][2] == {"length": 9, "first": [0, 1, 2, 3, 4, 5]}
    assert document["samples"]["words"][0] == {"length": 2, "first": ["kurz", "zwei wörter"]}
    assert document["samples"]["nested"][0] == {"length": 2, "lengths": [5, 0]}
    assert document["samples"]["bag"][0]["stored"] == 7
    assert document["samples"]["bag"][0]["first"][1] == [1, 0.5]


def test_of_more_rows_than_are_looked_at_the_lengths_are_of_a_spread_sample(lists, monkeypatch):
    monkeypatch.setattr(show, "LENGTHS_READ", 3)
    shown = run("show", lists).stdout
    assert "of 3 rows, evenly spread" in shown
    found = show.length_statistics(Dataset.open(lists))["tokens"]
    assert (found["rows"], found["total"]) == (3, sum(LENGTHS[row] for row in (0, 2, 4)))


@pytest.mark.parametrize(("span", "rows"), [("3:6", [3, 4, 5]), ("11:", [11, 12]), (":2", [0, 1]), ("7", [7])])
def test_a_span_of_rows_can_be_asked_for(span, rows, varied):
    document = json.loads(run("show", varied, "--rows", span, "--json").stdout)
    assert document["sample_rows"] == rows
    assert document["samples"]["pair"] == [[2 * row, 2 * row + 1] for row in rows]


@pytest.mark.parametrize("span", ["3:3", "5:2", "0:14", "-1:2", "a:b", "1:2:3"])
def test_a_span_that_is_none_is_refused(span, varied):
    result = run("show", varied, "--rows", span)
    assert result.exit_code == 2
    assert "expected" in result.stderr


def test_with_a_seed_the_rows_are_those_that_a_source_gives_first(varied):
    document = json.loads(run("show", varied, "--seed", 7, "--samples", 5, "--json").stdout)
    assert document["sample_rows"] == MinibatchSource(varied, seed=7).next_minibatch(5).rows.tolist()
    assert run("show", varied, "--seed", 7, "--rows", "1:2").exit_code == 2


def test_a_window_is_advised_exactly_when_the_data_exceed_memory(varied):
    dataset = Dataset.open(varied)
    fits = Memory(available=dataset.stored_bytes, bound="all")
    assert show.advice(dataset, fits) is None
    assert show.advice(dataset, None) is None
    less = Memory(available=dataset.stored_bytes - 1, bound="the control group's limit")
    assert show.advice(dataset, less) == 3  # of 13 rows in chunks of one: a quarter of the memory
    assert show.advice(dataset, Memory(available=1, bound="all")) == 1


def test_the_advice_names_size_memory_and_window(varied, monkeypatch):
    monkeypatch.setattr(show, "available_memory", lambda: Memory(available=20_000, bound="the limit of a test"))
    result = run("show", varied)
    shown = " ".join(result.stdout.split())
    assert "exceed the memory that is available (20.0 kB: the limit of a test)" in shown
    assert "shuffle=Window(rows=1)" in shown
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80
    assert json.loads(run("show", varied, "--json").stdout)["window_advised"] == 1


def test_an_arrow_file_that_others_wrote_is_shown_where_it_lies(tmp_path):
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink:
        table = pa.table({"x": [1, 2, 3]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write(table)
    shown = run("show", tmp_path / "a.arrow").stdout
    assert "3 rows" in shown
    assert "no fingerprint" in shown
    assert json.loads(run("show", tmp_path / "a.arrow", "--json").stdout)["fingerprint"] is None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Encoded images of one colour each, and small grey arrays, with classes."""
    path = tmp_path_factory.mktemp("show") / "pictures"
    classes = {"label": {"classes": json.dumps(["dark", "light"])}}
    with DatasetWriter(path, metadata=classes) as writer:
        writer.write(
            {
                "label": np.array([0, 1, 1]),
                "photo": [picture(shade, (20, 30)) for shade in (10, 100, 250)],
                "grey": np.array([0, 128, 255], np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8),
                "chw": np.linspace(0, 1, 3, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 6), np.float32),
            }
        )
    return path


def test_the_contact_sheet_has_every_image_in_a_grid(pictures, tmp_path):
    result = run("show", pictures, "--images", tmp_path / "out.png", "--json")
    assert result.exit_code == 0
    assert "3 images" in result.stderr
    json.loads(result.stdout)
    with Image.open(tmp_path / "out.png") as sheet:
        colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {(10, 20, 7), (100, 200, 7), (250, 500 % 256, 7)} <= colours
    assert (0, 0, 0) in colours  # the captions


@pytest.mark.parametrize(("field", "shades"), [("grey", {0, 128, 255}), ("chw", {0, 128, 255})])
def test_arrays_are_drawn_as_images_too(field, shades, pictures, tmp_path):
    assert run("show", pictures, "--images", tmp_path / "out.png", "--field", field).exit_code == 0
    with Image.open(tmp_path / "out.png") as sheet:
        colours = {colour for count, colour in sheet.getcolors(100_000) if count >= 48 * 36}
    assert {(shade,) * 3 for shade in shades} <= colours


def test_a_sheet_of_what_has_no_images_says_what_there_is(lists, tmp_path):
    result = run("show", lists, "--images", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "there is no image in" in result.stderr
    assert "bag sparse<float64> of 943" in result.stderr


def test_an_image_that_is_damaged_is_named_with_its_row(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"photo": [picture(1), picture(2)[:40]]})
    result = run("show", tmp_path / "data", "--images", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "field 'photo', row 1" in result.stderr


def drawn(path, **options):
    """What a terminal with true colours is sent."""
    dataset = Dataset.open(path)
    numbers = np.arange(3)
    file = io.StringIO()
    settings = {"force_terminal": True, "color_system": "truecolor", "width": 80, "highlight": False, **options}
    console = Console(file=file, legacy_windows=False, **settings)
    view = show.View(dataset=dataset, numbers=numbers, columns=dataset.read(numbers), lengths={})
    show.print_summary(view, console, None)
    return file.getvalue()


def test_a_terminal_with_colours_is_sent_images_as_half_blocks(pictures, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    sent = drawn(pictures)
    assert "38;2;100;200;7;48;2;100;200;7m▀" in sent
    plain = re.sub(r"\x1b\[[0-9;]*m", "", sent)
    assert re.search(r"^0 dark +1 light +2 light$", plain, re.MULTILINE)
    assert max(map(len, plain.splitlines()[1:])) <= 80
    assert sum("▀" in line for line in plain.splitlines()) == 8 + 4 + 4  # of 24×16, 8×8 and 6×8 pixels


@pytest.mark.parametrize("options", [{"force_terminal": False}, {"color_system": "standard"}])
def test_where_colours_are_missing_no_image_is_sent(options, pictures):
    assert "▀" not in drawn(pictures, **options)


def test_images_made_smaller_are_means_and_made_larger_repeat():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, :2] = 100
    pixels[0, 0] = 200
    assert show_images.resized(pixels, 2, 2)[:, :, 0].tolist() == [[125, 0], [0, 0]]
    assert show_images.resized(pixels[:2, :2], 4, 4)[:, :, 0].tolist()[0] == [200, 200, 100, 100]
    assert show_images.resized(np.full((37, 53, 3), 77, np.uint8), 10, 13).ravel().tolist() == [77] * 390
    assert show_images.fitted(np.zeros((1000, 500, 3), np.uint8), 48, 160).shape == (160, 80, 3)
    assert show_images.fitted(np.zeros((8, 8, 3), np.uint8), 48, 160).shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("values", "shades"),
    [
        (np.array([0, 7, 255], np.uint8), [0, 7, 255]),
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([-2.0, 0.0, 2.0]), [0, 128, 255]),
        (np.array([0, 100, 255], np.int64), [0, 100, 255]),
        (np.array([0, 500, 1000], np.int64), [0, 128, 255]),
        (np.array([False, True]), [0, 255]),
        (np.array([np.nan, 0.0, 1.0]), [0, 0, 255]),
        (np.array([3.0, 3.0]), [0, 0]),
    ],
)
def test_numbers_become_shades(values, shades):
    assert show_images.shades(values).tolist() == shades

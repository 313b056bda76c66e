"""`minibatch check`: intact data sets pass, damaged ones name the shard, in words and as JSON."""

import json
import shutil

import pytest

from tests.tools.samples import run


@pytest.fixture
def copy(tiny_dataset, tmp_path):
    """A copy of the tiny data set (shards of 12, 12, 12 and 4 rows), to be damaged."""
    return shutil.copytree(tiny_dataset, tmp_path / "ü copy")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


def swap(path):
    path.write_bytes(path.with_name("shard-00000.arrow").read_bytes())


def test_an_intact_data_set_has_a_tick_for_every_shard_and_exit_code_0(copy):
    result = run("check", copy)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("✓") == 4
    assert "✗" not in result.stdout
    assert "is intact: 40 rows, fingerprint " in result.stdout


@pytest.mark.parametrize("damage", [flip, truncate, remove, swap])
def test_the_damaged_shard_is_named_and_the_exit_code_is_1(damage, copy):
    damage(copy / "shard-00002.arrow")
    result = run("check", copy)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines if "✗" in line] == [["✗", "shard-00002.arrow"]]
    assert result.stdout.count("✓") == 3
    assert any(line.startswith("shard-00002.arrow: ") for line in lines)
    assert "is damaged: " in lines[-1]

    document = json.loads(run("check", copy, "--json").stdout)
    assert document["intact"] is False
    assert {problem["shard"] for problem in document["problems"]} == {"shard-00002.arrow"}


def test_json_of_an_intact_data_set_lists_its_shards(copy):
    result = run("check", copy, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["intact"] is True
    assert document["problems"] == []
    assert [shard["rows"] for shard in document["shards"]] == [12, 12, 12, 4]
    assert len(document["fingerprint"]) == 32


@pytest.mark.parametrize("content", [b"", b"{}", b"no json"])
def test_a_damaged_manifest_is_named(content, copy):
    (copy / "manifest.json").write_bytes(content)
    result = run("check", copy)
    assert result.exit_code == 1
    assert result.stdout.startswith("manifest.json: ")
    document = json.loads(run("check", copy, "--json").stdout)
    assert document["problems"][0]["shard"] == "manifest.json"
    assert document["fingerprint"] is None


def test_an_unfinished_folder_is_not_intact(copy):
    (copy / "manifest.json").unlink()
    result = run("check", copy)
    assert result.exit_code == 1
    assert "not finished" in result.stdout


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    result = run("check", tmp_path / "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: no such folder: {tmp_path / 'nothing'}\n"


def test_files_of_others_are_checked_as_far_as_they_can_be(copy):
    """Shards alone: without their manifest they are Arrow files like any."""
    files = [
        path.rename(path.with_name(f"part {number}.arrow")) for number, path in enumerate(sorted(copy.glob("*.arrow")))
    ]
    (copy / "manifest.json").unlink()
    for place, rows in ((copy, 40), (files[0], 12)):
        result = run("check", place)
        assert result.exit_code == 0
        assert f"can be read: {rows} rows. There are no digests to compare: `minibatch convert`" in result.stdout
        document = json.loads(run("check", place, "--json").stdout)
        assert (document["intact"], document["fingerprint"]) == (True, None)
    truncate(files[1])
    result = run("check", copy)
    assert result.exit_code == 1
    assert "part 1.arrow in" in result.stdout
    assert "is damaged: 1 problem" in result.stdout

"""Folders of save_to_disk: files in the order of state.json, features, subsets, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import FEATURES, PICTURES, arrow_file, arrow_stream, huggingface, save_to_disk
from tests.tools.samples import picture, rows_of


def test_features_become_fields(tmp_path):
    source = open_source(huggingface(tmp_path))
    rows = rows_of(huggingface_again(source))
    assert rows["image"] == [picture(number) for number in range(4)]
    assert rows["label"] == [0, 1, 1, 0]
    assert np.stack(rows["grid"])[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert np.stack(rows["grid"]).shape == (4, 3, 2)
    assert source.metadata == {"label": {"classes": '["cat", "dög"]'}}


def huggingface_again(source):
    return source.path


def test_files_come_in_the_order_of_the_state(tmp_path):
    tables = [pa.table({"x": [number]}) for number in range(12)]
    folder = save_to_disk(tmp_path / "saved", tables, {})
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    assert rows_of(folder)["x"] == list(range(11, -1, -1))


def test_one_of_several_data_sets_is_chosen(tmp_path):
    for name, numbers in {"train": [1, 2], "test": [3]}.items():
        save_to_disk(tmp_path / "both" / name, [pa.table({"x": numbers})], {})
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert rows_of(tmp_path / "both", subset="test")["x"] == [3]
    with pytest.raises(ValueError, match="holds the subsets train, test: choose one, such as --subset train"):
        open_source(str(tmp_path / "both"))
    with pytest.raises(ValueError, match="no subset 'valid'; there are train, test"):
        open_source(str(tmp_path / "both"), Options(subset="valid"))
    with pytest.raises(ValueError, match="holds a single data set"):
        open_source(str(tmp_path / "both" / "train"), Options(subset="train"))


def test_names_of_classes_are_noted_wherever_they_stand(tmp_path):
    classes = {"names": ["a", "b"], "_type": "ClassLabel"}
    features = {
        "tags": {"feature": classes, "_type": "Sequence"},
        "old": [classes],
        "inside": {"kind": classes, "size": {"dtype": "int64", "_type": "Value"}},
        "sound": {"sampling_rate": 16000, "_type": "Audio"},
    }
    table = pa.table(
        {
            "tags": [[0, 1], []],
            "old": [[1], [0]],
            "inside": [{"kind": 1, "size": 7}, {"kind": 0, "size": 8}],
            "sound": [{"bytes": b"RIFF", "path": "a.wav"}, {"bytes": b"fLaC", "path": None}],
        }
    )
    source = open_source(str(save_to_disk(tmp_path / "saved", [table], features)))
    noted = {"classes": '["a", "b"]'}
    assert source.metadata == {"tags": noted, "old": noted, "inside.kind": noted, "sound": {"sample_rate": "16000"}}
    assert rows_of(source.path)["sound"] == [b"RIFF", b"fLaC"]


def test_arrays_whose_first_axis_varies_become_list_fields(tmp_path):
    features = {"a": {"shape": [None, 2], "dtype": "int32", "_type": "Array2D"}}
    table = pa.table({"a": [[[1, 2]], [[3, 4], [5, 6]]]})
    rows = rows_of(save_to_disk(tmp_path / "saved", [table], features))
    assert [row.tolist() for row in rows["a"]] == [[[1, 2]], [[3, 4], [5, 6]]]


def test_features_noted_in_a_plain_stream_count_too(tmp_path):
    noted = PICTURES.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    path = arrow_stream(tmp_path / "cache.arrow", noted)
    assert rows_of(path)["image"][3] == picture(3)
    assert open_source(str(path)).metadata["label"] == {"classes": '["cat", "dög"]'}
    strange = PICTURES.select(["label"]).replace_schema_metadata({"huggingface": "no JSON"})
    assert rows_of(arrow_file(tmp_path / "strange.arrow", strange))["label"] == [0, 1, 1, 0]


def test_an_image_that_is_not_in_the_folder_is_a_bad_record(tmp_path):
    table = pa.table({"image": [{"bytes": b"x", "path": None}, {"bytes": None, "path": "/a.png"}]})
    folder = save_to_disk(tmp_path / "saved", [table], {"image": {"_type": "Image"}})
    with pytest.raises(ValueError, match=r"arrow', row 1 .*column 'image' has no value"):
        rows_of(folder)
    assert rows_of(folder, bad=BadRecords(1))["image"] == [b"x"]


def test_an_array_of_another_shape_is_refused(tmp_path):
    features = {"a": {"shape": [2, 2], "dtype": "int32", "_type": "Array2D"}}
    table = pa.table({"a": [[[1, 2], [3, 4]], [[1, 2], [3, 4, 5]]]})
    with pytest.raises(ValueError, match=r"arrow': a row has 3 elements along axis 1, expected \(2, 2\)"):
        rows_of(save_to_disk(tmp_path / "saved", [table], features))


def test_a_missing_array_is_a_missing_value(tmp_path):
    features = {"a": {"shape": [1, 2], "dtype": "int32", "_type": "Array2D"}}
    folder = save_to_disk(tmp_path / "saved", [pa.table({"a": [[[1, 2]], None, [[5, 6]]]})], features)
    bad = BadRecords(1)
    assert np.stack(rows_of(folder, bad=bad)["a"]).tolist() == [[[1, 2]], [[5, 6]]]
    assert [record.where for record in bad.found] == ["row 1 (counted from 0)"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds list, expected an object"),
        ("{}", "names no files under _data_files"),
        ('{"_data_files": []}', "holds no rows"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"lacks the file 'gone\.arrow'"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', "flatten_indices"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(state, message, tmp_path):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path))

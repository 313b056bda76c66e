"""scikit-learn's own data sets, compared with what scikit-learn gives."""

import json

import numpy as np
import pytest
from sklearn import datasets

from minibatch.tools.sources import bundled, open_source
from tests.tools.samples import converted


def test_digits_are_pictures_from_0_to_1_with_their_classes(tmp_path):
    dataset = converted("sklearn:digits", tmp_path / "out")
    expected = datasets.load_digits()
    read = dataset.read(np.arange(len(dataset)))
    assert read["image"].shape == (1797, 8, 8)
    assert (read["image"].dtype, read["label"].dtype) == (np.float32, np.int64)
    assert np.array_equal(read["image"] * 16, expected.images)
    assert np.array_equal(read["label"], expected.target)
    assert json.loads(dataset.fields["label"].metadata["classes"]) == [str(digit) for digit in range(10)]
    assert "divided by 16" in dataset.fields["image"].metadata["scale"]


@pytest.mark.parametrize("name", [name for name in bundled.NAMES if name != "digits"])
def test_the_others_are_features_with_names_and_a_target(name, tmp_path):
    dataset = converted(f"sklearn:{name}", tmp_path / "out")
    expected = getattr(datasets, f"load_{name}")()
    read = dataset.read(np.arange(len(dataset)))
    assert np.array_equal(read["x"], expected.data)
    assert np.array_equal(read["y"], expected.target)
    assert json.loads(dataset.fields["x"].metadata["features"]) == list(expected.feature_names)
    if name == "diabetes":
        assert (read["y"].dtype, dataset.fields["y"].metadata) == (np.float64, {})
    else:
        assert read["y"].dtype == np.int64
        assert json.loads(dataset.fields["y"].metadata["classes"]) == list(expected.target_names)


@pytest.mark.parametrize("name", ["", "mnist", "__class__"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="digits, iris, wine, breast_cancer, diabetes"):
        open_source(f"sklearn:{name}")

"""Features of layers as a data set: the right numbers in the right rows, bit for bit however they are read."""

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import Dataset, DatasetWriter, MinibatchSource
from minibatch.models import MLP
from minibatch.train.features import write_features

ROWS = 203


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "data"
    draw = np.random.default_rng(3)
    with DatasetWriter(folder, chunk_rows=10, shard_rows=60) as writer:
        writer.write(
            {
                "x": draw.normal(size=(ROWS, 6)).astype(np.float32),
                "label": np.arange(ROWS) % 7,
                "name": [f"sample {number}" for number in range(ROWS)],
            }
        )
    return folder


def model():
    return MLP(sizes=(6, 33, 4), dropout=0.5, seed=1)


def columns(folder):
    dataset = Dataset.open(folder)
    return {name: dataset.read(np.arange(len(dataset)))[name] for name in dataset.fields}


def test_every_row_has_what_its_layers_put_out_in_eval_mode(data, tmp_path):
    network = model()
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    assert write_features(network, data, names, tmp_path / "out", inputs="x", fields=["label", "name"]) == ROWS
    found = columns(tmp_path / "out")
    assert list(found) == ["row", "label", "name", *names]
    given = columns(data)
    np.testing.assert_array_equal(found["row"], np.arange(ROWS))
    np.testing.assert_array_equal(found["label"], given["label"])
    assert list(found["name"]) == list(given["name"])
    first = given["x"] @ network.get_submodule(names[0]).weight.detach().numpy().T
    first = first + network.get_submodule(names[0]).bias.detach().numpy()
    np.testing.assert_allclose(found[names[0]], first, atol=1e-6)
    with torch.no_grad():
        last = network.eval()(torch.from_numpy(given["x"]))
    np.testing.assert_allclose(found[names[1]], last, atol=1e-6)
    assert found[names[1]].dtype == np.float32


def test_no_bit_depends_on_how_the_data_are_read(data, tmp_path):
    kept = []
    for number, size in enumerate((1, 64, 100, 1000)):
        write_features(model(), data, "layers.0", tmp_path / str(number), inputs="x", minibatch_size=size, leaf_size=16)
        kept.append(columns(tmp_path / str(number))["layers.0"].tobytes())
    assert len(set(kept)) == 1


def test_a_source_is_read_in_its_nominal_order_and_left_where_it_stood(data, tmp_path):
    def doubled(fields, draws):
        return {**fields, "twice": 2 * fields["x"]}

    with MinibatchSource(data, seed=5, transforms=(doubled,)) as source:
        source.seek(17)
        write_features(model(), source, "layers.0", tmp_path / "out", inputs="x", fields=["twice", "label"])
        assert source.nominal_time == 17
        source.seek(0)
        rows = source.next_minibatch(ROWS).rows
    found = columns(tmp_path / "out")
    np.testing.assert_array_equal(found["row"], rows)
    assert not np.array_equal(rows, np.arange(ROWS))
    np.testing.assert_array_equal(found["twice"], 2 * columns(data)["x"][rows])
    np.testing.assert_array_equal(found["label"], rows % 7)


class Several(nn.Module):
    """Calls one layer twice, has a layer of two outputs, one that works in place, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)
        self.recurrent = nn.GRU(6, 2, batch_first=True)
        self.idle = nn.Linear(6, 1)
        self.total = nn.Flatten(0)

    def forward(self, x):
        hidden = self.shared(self.relu(self.shared(x)))
        self.total(hidden)
        output, _ = self.recurrent(hidden[:, None])
        return {"output": output[:, 0].bfloat16(), "hidden": (hidden, hidden.sum(1))}


def test_several_outputs_have_a_field_each_and_layers_in_place_do_not_harm_them(data, tmp_path):
    network = Several()
    write_features(network, data, ["shared"], tmp_path / "out", inputs="x", outputs=True)
    found = columns(tmp_path / "out")
    assert list(found) == ["row", "shared.0", "shared.1", "output.output", "output.hidden.0", "output.hidden.1"]
    assert (found["shared.0"] < 0).any(), "taken before the layer behind it worked in place"
    np.testing.assert_array_equal(found["shared.1"], found["output.hidden.0"])
    assert found["output.output"].dtype == np.float32, "NumPy has no bfloat16"
    assert found["output.hidden.1"].shape == (ROWS,)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["share"], {}, "the model has no layer 'share'; did you mean shared"),
        (["idle"], {}, "layer 'idle' put out no tensor: it did not run"),
        (["total"], {"leaf_size": 64}, r"'total' put out shape \(384,\) for 64 samples"),
        ([], {}, r"layers=\[\]: expected the name of at least one layer"),
        (["shared"], {"fields": ["labels"]}, "no field 'labels'; did you mean label"),
        (["shared"], {"fields": ["row"]}, "'row' is written in any case"),
        (["recurrent"], {}, r"'recurrent.1' put out shape \(1, 64, 2\) for 64 samples"),
        (["shared"], {"minibatch_size": 0}, "minibatch_size must be at least 1"),
    ],
)
def test_what_cannot_be_written_is_refused_and_the_model_is_as_before(data, tmp_path, layers, options, message):
    network = Several()
    network.relu.eval()
    with pytest.raises(ValueError, match=message):
        write_features(network, data, layers, tmp_path / "out", inputs="x", **options)
    assert network.training
    assert not network.relu.training
    assert not any(module._forward_hooks for module in network.modules())
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_complete_data_set_is_replaced_only_on_request(data, tmp_path):
    write_features(model(), data, "layers.0", tmp_path / "out", inputs="x")
    with pytest.raises(ValueError, match="overwrite"):
        write_features(model(), data, "layers.0", tmp_path / "out", inputs="x")
    write_features(model(), data, "layers.0", tmp_path / "out", inputs="x", overwrite=True)

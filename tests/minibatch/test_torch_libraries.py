"""Loops that others wrote: a run stopped in the middle of an epoch and resumed sees what an unbroken one sees.

Each library is used as its users do; where it is not installed its tests are skipped.
"""

import logging
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from minibatch import DatasetWriter, MinibatchSource  # noqa: E402
from minibatch.torch import Loader, TimelineDataset, one_minibatch  # noqa: E402

ROWS, SIZE, STEPS = 23, 5, 5  # an epoch is 25 samples
# Others' deprecations are none of ours.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("error::RuntimeWarning:minibatch")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("libraries") / "numbers"
    rows = np.arange(ROWS)
    with DatasetWriter(path, chunk_rows=4) as writer:
        writer.write({"row": rows, "x": (rows[:, None] / ROWS).astype(np.float32), "labels": rows.astype(np.float32)})
    return path


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


def axis(folder, start, stop):
    return MinibatchSource(folder, seed=3).at(start, stop - start).tolist()


def seen(batches):
    return [row for batch in batches for row in batch["row"].tolist()]


class Model(torch.nn.Module):
    """A linear model that notes down which rows it has seen in training."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self.rows = []

    def forward(self, x, labels, row):
        if self.training:
            self.rows.extend(row.tolist())
        loss = torch.nn.functional.mse_loss(self.linear(x).squeeze(1), labels)
        return {"loss": loss}


# --- torchdata --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7])
def test_stateful_dataloader_resumes_anywhere(folder, workers, stop):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    options = {"batch_size": None, "num_workers": workers}
    loader = stateful(TimelineDataset(folder, SIZE, seed=3), **options)
    before, batches = [], iter(loader)
    for _ in range(stop):
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        before.append(batch)
    state = loader.state_dict()
    again = stateful(TimelineDataset(folder, SIZE, seed=3), **options)
    again.load_state_dict(state)
    after = [batch for _ in range(3) for batch in again]
    assert seen(before + after) == axis(folder, 0, len(before + after) * SIZE)
    assert len(after) >= 2 * STEPS


# --- Lightning --------------------------------------------------------------------------------------


def lightning_module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, batch, index):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_lightning_resumes_in_the_middle_of_an_epoch(folder, tmp_path, stop, ahead):
    lightning = pytest.importorskip("lightning.pytorch")

    def trainer(steps):
        return lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    whole = lightning_module(lightning)
    trainer(12).fit(whole, Loader(folder, SIZE, seed=3, ahead=ahead))
    assert whole.model.rows == axis(folder, 0, 12 * SIZE)

    first = lightning_module(lightning)
    run = trainer(stop)
    run.fit(first, Loader(folder, SIZE, seed=3, ahead=ahead))
    run.save_checkpoint(tmp_path / "middle.ckpt")
    second = lightning_module(lightning)
    trainer(12).fit(second, Loader(folder, SIZE, seed=3, ahead=ahead), ckpt_path=tmp_path / "middle.ckpt")
    assert first.model.rows + second.model.rows == whole.model.rows
    assert torch.equal(second.model.linear.weight, whole.model.linear.weight)


# --- Accelerate -------------------------------------------------------------------------------------


def test_accelerate_saves_the_loader_among_its_checkpoints(folder, tmp_path):
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    try:
        loader = accelerator.prepare(Loader(folder, SIZE, seed=3, device=accelerator.device, ahead=2))
        accelerator.register_for_checkpointing(loader)
        batches = iter(loader)
        before = [next(batches) for _ in range(3)]
        accelerator.save_state(tmp_path)
        rest = [*batches, *loader]
        assert seen(before + rest) == axis(folder, 0, 50)
        accelerator.load_state(tmp_path)
        assert seen([*loader, *loader]) == seen(rest)
    finally:
        accelerator.free_memory()


def test_accelerate_wraps_a_dataloader_and_looks_ahead_which_after_makes_good(folder):
    accelerate = pytest.importorskip("accelerate")
    config = accelerate.DataLoaderConfiguration(dispatch_batches=False)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    try:
        dataset = TimelineDataset(folder, SIZE, seed=3)
        loader = accelerator.prepare(torch.utils.data.DataLoader(dataset, batch_size=None))
        assert len(loader) == STEPS
        batches = iter(loader)
        before = [next(batches) for _ in range(2)]
        assert dataset.state_dict()["nominal_time"] == 15, "it has read one minibatch more than it gave"
        state = dataset.state_dict(after=before[-1])
        assert state["nominal_time"] == 10
        again = TimelineDataset(folder, SIZE, seed=3)
        again.load_state_dict(state)
        wrapped = accelerator.prepare(torch.utils.data.DataLoader(again, batch_size=None))
        assert seen([*before, *wrapped, *wrapped]) == axis(folder, 0, 50)
    finally:
        accelerator.free_memory()


def test_accelerate_with_a_stateful_dataloader_allows_for_its_own_look_ahead(folder):
    pytest.importorskip("torchdata")
    accelerate = pytest.importorskip("accelerate")
    config = accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    try:
        loaders = [
            accelerator.prepare(torch.utils.data.DataLoader(TimelineDataset(folder, SIZE, seed=3), batch_size=None))
            for _ in range(2)
        ]
        batches = iter(loaders[0])
        before = [next(batches) for _ in range(2)]
        loaders[1].load_state_dict(loaders[0].state_dict())
        assert seen([*before, *loaders[1]]) == axis(folder, 0, 25)
    finally:
        accelerator.free_memory()


# --- Hugging Face -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [3, 5, 8])
def test_hugging_face_trainer_resumes_in_the_middle_of_any_epoch(folder, tmp_path, stop, workers):
    transformers = pytest.importorskip("transformers")

    def trainer(model, steps):
        arguments = transformers.TrainingArguments(
            output_dir=tmp_path,
            per_device_train_batch_size=1,
            max_steps=steps,
            save_steps=stop,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            dataloader_num_workers=workers,
            dataloader_pin_memory=False,
            logging_strategy="no",
        )
        return transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=TimelineDataset(folder, SIZE, seed=3),
            data_collator=one_minibatch,
        )

    whole = Model()
    trainer(whole, 12).train()
    assert whole.rows == axis(folder, 0, 12 * SIZE)
    second = Model()
    trainer(second, 12).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert second.rows == whole.rows[stop * SIZE :]
    assert torch.equal(second.linear.weight, whole.linear.weight)


def test_hugging_face_trainer_counts_epochs_of_a_sweep_worth_of_minibatches(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = Model()
    arguments = transformers.TrainingArguments(
        output_dir=tmp_path,
        per_device_train_batch_size=1,
        num_train_epochs=2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    dataset = TimelineDataset(folder, SIZE, seed=3)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=one_minibatch)
    trainer.train()
    assert trainer.state.global_step == 2 * STEPS
    assert model.rows == axis(folder, 0, 50)

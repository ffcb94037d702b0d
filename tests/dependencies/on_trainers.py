"""What is relied on in transformers' Trainer and in Lightning."""

from __future__ import annotations

import inspect
import tempfile

import torch
import transformers

from dependencies.table import has, relies_on, takes, takes_over


@relies_on(
    "transformers",
    "stateful_callbacks",
    "what is put into this dictionary comes back with a checkpoint",
)
def _():
    state = transformers.TrainerState()
    state.stateful_callbacks["loradrop_plan"] = {"kept": [1]}
    with tempfile.TemporaryDirectory() as folder:
        state.save_to_json(f"{folder}/state.json")
        read = transformers.TrainerState.load_from_json(f"{folder}/state.json")
    assert read.stateful_callbacks["loradrop_plan"] == {"kept": [1]}


@relies_on(
    "transformers",
    "PREFIX_CHECKPOINT_DIR",
    "the Trainer's folders are <output_dir>/checkpoint-<step>",
)
def _():
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    assert PREFIX_CHECKPOINT_DIR == "checkpoint"


@relies_on(
    "transformers",
    "state.best_model_checkpoint",
    "the Trainer's state has these fields, its callbacks these hooks",
)
def _():
    from loradrop.callbacks.trainer import LoRADropTrainerCallback

    has(
        transformers.TrainerState(),
        "global_step",
        "epoch",
        "max_steps",
        "num_train_epochs",
        "is_world_process_zero",
    )
    has(transformers.TrainerState(), "best_metric", "best_global_step", "best_model_checkpoint")
    has(
        transformers.TrainingArguments,
        "world_size",
        "bf16",
        "fp16",
        "max_steps",
        "num_train_epochs",
    )
    takes_over(LoRADropTrainerCallback, transformers.TrainerCallback)


@relies_on(
    "pytorch-lightning",
    "set_epoch",
    "samplers hear of each epoch; inside optimizer_step the step is not counted",
)
def _():
    import pytorch_lightning as pl

    epochs, steps = [], []

    class Sampler(torch.utils.data.Sampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

        def __iter__(self):
            return iter([[0], [1]])

        def __len__(self):
            return 2

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.strict_loading = False

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(2, 1), sampler=Sampler(), batch_size=None)

        def training_step(self, batch):
            return (self.weight * batch).sum()

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            steps.append(self.global_step)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, log_every_n_steps=1, **options)
    trainer.fit(Module())
    assert sorted(set(epochs)) == [0, 1], f"set_epoch was called with {epochs}"
    assert steps == [0, 1, 2, 3], f"global_step was {steps}"
    has(
        trainer,
        "is_last_batch",
        "estimated_stepping_batches",
        "fast_dev_run",
        "world_size",
        "optimizers",
        "precision",
    )


@relies_on("pytorch-lightning", "on_train_batch_start", "our hooks are ones that Lightning calls")
def _():
    import pytorch_lightning as pl

    from loradrop.callbacks.lightning import LoRADropLightningCallback
    from loradrop.training.module import RunModule

    takes_over(LoRADropLightningCallback, pl.Callback)
    takes_over(RunModule, pl.LightningModule)


@relies_on(
    "pytorch-lightning",
    "_get_train_description",
    "the progress bar's text comes from here, given the current epoch",
)
def _():
    from pytorch_lightning.callbacks import RichProgressBar

    takes(RichProgressBar._get_train_description, "current_epoch")
    assert "_get_train_description" in inspect.getsource(RichProgressBar.on_train_epoch_start)


@relies_on(
    "pytorch-lightning", "enable_version_counter", "one checkpoint file, rewritten every so often"
)
def _():
    from pytorch_lightning.callbacks import ModelCheckpoint

    takes(ModelCheckpoint, "dirpath", "filename", "train_time_interval", "enable_version_counter")
    has(ModelCheckpoint, "on_train_batch_end")


@relies_on(
    "torch",
    "_set_params_and_buffers_to_ignore_for_model",
    "DistributedDataParallel leaves parameters with these names alone",
)
def _():
    from torch.nn.parallel import DistributedDataParallel

    module = torch.nn.Linear(2, 2)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ["weight"])
    assert module._ddp_params_and_buffers_to_ignore == ["weight"]
    assert "_ddp_params_and_buffers_to_ignore" in inspect.getsource(
        DistributedDataParallel.__init__
    )


@relies_on(
    "pytorch-lightning",
    "strategy.configure_ddp()",
    "it wraps the strategy's model anew, whose wrapper was taken off before",
)
def _():
    from pytorch_lightning.strategies import DDPStrategy

    source = inspect.getsource(DDPStrategy.configure_ddp)
    assert "self.model = self._setup_model(self.model)" in source

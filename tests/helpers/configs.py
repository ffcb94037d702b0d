"""Configs of short runs."""

from __future__ import annotations

from hydra import compose, initialize_config_dir

from experiments.config.schema import CONF

SMALL = ["task.train_size=96", "task.validation_size=48", "recipe.batch_size=16", "recipe.epochs=3"]
QUICK = [
    "trainer.num_threads=1",
    "trainer.progress_bar=false",
    "paths.models=null",
    "paths.data=null",
]


def composed(outputs, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", [*SMALL, *QUICK, f"paths.outputs={outputs}", *overrides])

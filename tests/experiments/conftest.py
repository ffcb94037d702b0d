"""What several tests of the reproduction need."""

from __future__ import annotations

from collections.abc import Callable

import hydra
import pytest
from omegaconf import DictConfig

from experiments.config.schema import CONF

HERE = ("paths.models=null", "paths.data=null")  # whatever the environment says


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """A function of overrides: the config of a run."""

    def composed(*overrides: str) -> DictConfig:
        with hydra.initialize_config_dir(CONF, version_base="1.3"):
            return hydra.compose("run", [*overrides, *HERE])

    return composed

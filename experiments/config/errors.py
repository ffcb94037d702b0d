"""Describe errors of Hydra and OmegaConf in one line that names the key and the remedy."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)

from experiments.config.schema import UserError
from experiments.config.targets import did_you_mean

FULL_ERROR = "HYDRA_FULL_ERROR"
TRACEBACKS = os.environ.get(FULL_ERROR, "0") == "1"  # read before run.py sets it
PARSERS = re.compile(r"[/\\](hydra|omegaconf|yaml|antlr4)[/\\]")  # folders of their code
LAUNCHER = "hydra/launcher"
PLUGINS = ("joblib", "submitit_local", "submitit_slurm")  # Hydra's, on which our launchers build
OVERRIDE = re.compile(r"Could not override '(.+?)'")


def is_mistake(error: Exception) -> bool:
    """Whether an error is about what the user wrote, and not one of this program.

    Hydra and OmegaConf answer some overrides with a ValueError, an AttributeError and so on.
    """
    if isinstance(error, HydraException | OmegaConfBaseException | UserError | OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PARSERS.search(frames[-1].filename) is not None


def describe(error: Exception) -> str:
    """Describe in one line what is wrong with a config.

    Args:
        error: An error of Hydra, OmegaConf or this project.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == LAUNCHER and name in PLUGINS:
            return f"{group}: {name} comes with the extra `cluster`: pip install -e '.[cluster]'"
        hint = did_you_mean(name, error.options or ())
        return f"{group}={name}: there is no conf/{group}/{name}.yaml.{hint}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_key(str(error), cause)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_first_line(str(cause))}"
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _unknown_key(text: str, error: ConfigKeyError | ConfigAttributeError) -> str:
    found = OVERRIDE.search(text)
    key = str(error.full_key or (found and found[1]) or error.key)
    siblings = error.parent_node
    known = list(map(str, siblings)) if isinstance(siblings, Mapping) else []
    hint = did_you_mean(key.rpartition(".")[2], known) if known else ""
    return f"{key}: there is no such key.{hint}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]

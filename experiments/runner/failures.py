"""Report and record a run that failed."""

from __future__ import annotations

import os
import platform
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch

from experiments.config.schema import CONF

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")  # in the name of an environment variable
# in torch's RuntimeErrors: of the driver, and of the CPU
NO_MEMORY = ("CUDA error: out of memory", "can't allocate memory")
# file and function on the stack, the step that it carries out, and the setting that needs less
STEPS = (
    ("generation.py", "validation_step", "generating texts", "decoding.batch_size"),
    ("module.py", "validation_step", "evaluation", "recipe.batch_size"),
    ("probe.py", "fit", "stage 1", "method.sample_batch_size"),
    ("measurement.py", "measure", "measuring", "recipe.batch_size"),
    ("training.py", "_fit", "training", "recipe.batch_size"),
)


def reason(error: Exception) -> str:
    """Why a run failed, in one line; where memory ran out, the step and the settings to lower."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    kinds = torch.OutOfMemoryError | MemoryError
    if not (isinstance(error, kinds) or any(sign in text for sign in NO_MEMORY)):
        return text
    stack = {(Path(f.filename).name, f.name) for f in traceback.extract_tb(error.__traceback__)}
    where = (each[2:] for each in STEPS if each[:2] in stack)
    step, setting = next(where, ("the preparation", "recipe.batch_size"))
    return (
        f"out of memory in {step}: lower {setting} or recipe.max_length, or set "
        f"trainer.precision=bf16-mixed ({text})"
    )


def anonymous(text: str, paths: Mapping[str, str | None]) -> str:
    """A text without this machine's folders, its name, and keys of the environment.

    Args:
        text: A traceback, say.
        paths: The folders of the run: the keys of `paths` in a config.
    """
    places = {str(Path(path).absolute()): f"<paths.{k}>" for k, path in paths.items() if path}
    places |= {str(Path(CONF).parent): ".", sys.prefix: "<python>", str(Path.home()): "~"}
    places |= {platform.node(): "<host>"}
    places |= {value: f"<{key}>" for key, value in os.environ.items() if SECRET.search(key)}
    for place in sorted(filter(None, places), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(place)}(?!\w)", places[place], text)
    return text

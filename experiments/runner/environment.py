"""The environment that a result records: versions, hardware, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement

from experiments.config.precision import cpu_units
from experiments.config.schema import CONF

CONSTRAINTS = Path(CONF).parent / "constraints.txt"
PACKAGES = (
    *("loradrop", "torch", "pytorch-lightning", "transformers", "datasets", "tokenizers", "peft"),
    *("scipy", "scikit-learn", "sacrebleu", "rouge-score", "nltk", "bitsandbytes"),
)


def record(config: DictConfig, id: str) -> dict[str, Any]:
    """The fields that results of finished and failed runs have in common.

    Args:
        config: The config of the run.
        id: The id of the run.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    del plain["paths"]  # they describe a machine, not the run
    return {"id": id, "started": started, "config": plain, **environment()}


def environment() -> dict[str, Any]:
    """Versions, hardware and git commit of this process."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    installed, commit = _loaded_code()
    return {
        **installed,
        "hardware": {
            "machine": _processor(),
            "bf16_units": cpu_units(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
        "git_commit": commit,
    }


@cache
def _loaded_code() -> tuple[dict[str, Any], str | None]:
    """Versions and commit. Found once: what is changed later is not what the process has loaded."""
    versions = {"python": platform.python_version(), **_versions()}
    return {"versions": versions, "constraints": constraints()}, _git_commit()


def _versions() -> dict[str, str]:
    """Versions of the installed packages that can change a number."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def constraints() -> dict[str, Any] | None:
    """Compare the environment with constraints.txt.

    Local versions do not count (torch 2.13.0+cpu equals 2.13.0), nor do packages that are not
    installed, such as extras and tools.

    Returns:
        `equal`, and as `different` the installed version of each package that differs. None if
        the file is missing.
    """
    try:
        lines = [
            line.partition("#")[0].strip()
            for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        ]
    except OSError:
        return None
    different = {}
    for pin in (Requirement(line) for line in lines if line):
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        with suppress(PackageNotFoundError):
            installed = version(pin.name)
            if not pin.specifier.contains(installed, prereleases=True):
                different[pin.name] = installed
    return {"equal": not different, "different": different}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _git_commit() -> str | None:
    """The commit of this tree, with "+" if tracked files were changed; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = (
            subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode != 0
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")

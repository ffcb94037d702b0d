"""Expanded sweeps, remembered in outputs/cache/sweeps until a file that they were made from changes.

A sweep is made from the YAML files that Hydra looked for while it composed (also those that were not there: an optional
recipe may be added), from the groups that it listed (`method=glob(*)`), and from the code of this package. Any other file
of conf/ may change without a sweep being expanded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository

from experiments.common.files import atomic_write
from experiments.config.schema import CONF
from loradrop.training import recipe

SWEEPS = Path(CONF).parent / "outputs" / "cache" / "sweeps"  # of this tree: whatever folder results are in
LISTING = "/*"  # ends the name of a group whose options were listed


def load_sweep(overrides: list[str]) -> list[dict[str, Any]] | None:
    """The remembered configs of a sweep; None if there are none, or a file that they were made from has changed."""
    try:
        content = json.loads(_path(overrides).read_text(encoding="utf-8"))
        current = all(_fingerprint(source) == digest for source, digest in content["sources"].items())
        return content["configs"] if current else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged
        return None


def save_sweep(overrides: list[str], sources: dict[str, str | None], configs: list[dict[str, Any]]) -> None:
    """Remember the configs of a sweep, and the `sources` that they were made from (see `recorded_sources`)."""
    path = _path(overrides)
    with suppress(OSError), atomic_write(path) as file:  # a convenience: the folder may be read-only
        file.write_text(json.dumps({"sources": sources, "configs": configs}), encoding="utf-8")


@contextmanager
def recorded_sources(loader: Any) -> Iterator[dict[str, str | None]]:
    """Collect what Hydra's config loader looks for: the names of configs and listed groups, with their fingerprints."""
    before = loader.repository
    recorder = loader.repository = _Recorder(before, {})
    try:
        yield recorder.sources
    finally:
        loader.repository = before


class _Recorder(CachingConfigRepository):
    """A repository of configs that records what is asked of it. Hydra copies it for each composition."""

    def __init__(self, delegate: Any, sources: dict[str, str | None]) -> None:
        super().__init__(delegate)
        self.sources = sources

    def __deepcopy__(self, memo: dict[int, Any]) -> _Recorder:
        return _Recorder(self.delegate, self.sources)

    def load_config(self, config_path: str) -> Any:
        self._record(config_path)
        return self.delegate.load_config(config_path)

    def get_group_options(self, group_name: str, *arguments: Any, **options: Any) -> list[str]:
        self._record(group_name + LISTING)
        return self.delegate.get_group_options(group_name, *arguments, **options)

    def _record(self, source: str) -> None:
        if source not in self.sources:  # before it is read: a later edit must not pass for what was read
            self.sources[source] = _fingerprint(source)


def _path(overrides: list[str]) -> Path:
    """Of the file that remembers a sweep; `paths.*` changes no config."""
    counted = [override for override in overrides if not override.startswith("paths.")]
    key = json.dumps({"overrides": counted, "code": _code()})
    return SWEEPS / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


@cache
def _code() -> str:
    """Stands for the code that makes configs and their ids."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(recipe.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _fingerprint(source: str) -> str | None:
    """Of a file of conf/, or of the names in a group; None where there is no such file."""
    if source.endswith(LISTING):
        found = sorted(path.name for path in Path(CONF, source.removesuffix(LISTING)).glob("*.yaml"))
        content = "\n".join(found).encode()
    else:
        try:
            content = Path(CONF, source.removesuffix(".yaml") + ".yaml").read_bytes()
        except OSError:
            return None
    return hashlib.sha256(content).hexdigest()[:16]

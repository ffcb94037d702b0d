"""Cache expanded sweeps in outputs/cache/sweeps until one of their sources changes.

The sources of a sweep are the YAML files that Hydra looked for (including missing ones: an optional
recipe may be added later), the groups that it listed (`method=glob(*)`), and the code of this
package. Changes to other files in conf/ do not expand the sweep again.
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

from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.schema import CONF
from loradrop.checksums import read_json, write_json
from loradrop.training import recipe

SWEEPS = Path(CONF).parent / "outputs" / "cache" / "sweeps"  # the same for all folders of results
LISTING = "/*"  # suffix of a group whose options were listed


def load_sweep(overrides: list[str]) -> list[dict[str, Any]] | None:
    """Load the cached configs of a sweep.

    Returns:
        The configs; None if there are none, or a source has changed.
    """
    try:
        content = read_json(_path(overrides))
        current = all(
            _fingerprint(source) == digest for source, digest in content["sources"].items()
        )
        return content["configs"] if current else None
    except OSError:  # none yet
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        console.info(f"the sweep is planned again: {error}")
        return None


def save_sweep(
    overrides: list[str], sources: dict[str, str | None], configs: list[dict[str, Any]]
) -> None:
    """Cache the configs of a sweep.

    Args:
        overrides: The overrides that make the sweep.
        sources: From `recorded_sources`.
        configs: The resolved configs.
    """
    path = _path(overrides)
    with suppress(OSError), atomic_write(path) as file:  # only a cache: the folder may be read-only
        write_json(file, {"sources": sources, "configs": configs})


@contextmanager
def recorded_sources(loader: Any) -> Iterator[dict[str, str | None]]:
    """Collect the configs and groups that Hydra's loader looks for, with their fingerprints."""
    before = loader.repository
    recorder = loader.repository = _Recorder(before, {})
    try:
        yield recorder.sources
    finally:
        loader.repository = before


class _Recorder(CachingConfigRepository):
    """A config repository that records requests. Hydra copies it for each composition."""

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
        if source not in self.sources:  # before reading, so that a later edit is noticed
            self.sources[source] = _fingerprint(source)


def _path(overrides: list[str]) -> Path:
    """The cache file of a sweep; `paths.*` does not change its configs."""
    counted = [override for override in overrides if not override.startswith("paths.")]
    key = json.dumps({"overrides": counted, "code": _code()})
    return SWEEPS / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


@cache
def _code() -> str:
    """A hash of the code that makes configs and their ids."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(recipe.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _fingerprint(source: str) -> str | None:
    """A hash of a file in conf/, or of the names in a group; None if there is no such file."""
    if source.endswith(LISTING):
        found = sorted(
            path.name for path in Path(CONF, source.removesuffix(LISTING)).glob("*.yaml")
        )
        content = "\n".join(found).encode()
    else:
        try:
            content = Path(CONF, source.removesuffix(".yaml") + ".yaml").read_bytes()
        except OSError:
            return None
    return hashlib.sha256(content).hexdigest()[:16]

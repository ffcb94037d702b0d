"""Expand an experiment into the configs of its runs, with Hydra. Does not import torch."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from omegaconf import DictConfig, OmegaConf

from experiments.config import schema
from experiments.config.identity import run_id
from experiments.config.optional_files import check_files, group_options
from experiments.config.precision import AUTO, resolve_precision
from experiments.config.schema import CONF, UserError
from experiments.config.sweep_cache import load_sweep, recorded_sources, save_sweep

ELSEWHERE = re.compile(r"\$\{[^}]*(oc\.env|now:|hydra:|paths\.)")  # depends on more than conf/
OPTIONAL = ("recipe", "decoding")  # groups in which Hydra ignores unknown names


def paths_of(overrides: Iterable[str]) -> dict[str, str | None]:
    """The folders that overrides or the files they choose name: the keys of `paths` in a config.

    Raises:
        UserError: As `check_names`.
    """
    overrides = list(overrides)
    check_names(overrides)
    with config_loader() as loader:
        paths: Any = compose("run", single(overrides, loader)).paths
        return cast(dict[str, str | None], OmegaConf.to_container(paths, resolve=True))


def check_names(overrides: Iterable[str]) -> None:
    """Check overrides for mistakes that Hydra ignores or answers with a traceback.

    Raises:
        UserError: If an optional file does not exist or is misspelt, a group is null, a name
            leads out of its group, or a folder has several values.
    """
    check_files()
    given = [override for override in overrides if not override.startswith("-")]  # not an option
    for override in OverridesParser.create().parse_overrides(given):
        group, value = override.key_or_group, override.value()
        if not group:
            raise UserError(f"{override.input_line}: there is no key before '='")
        if group.partition(".")[0] == "paths" and override.is_sweep_override():
            raise UserError(f"{group}: all runs of a sweep share their folders; give it one value")
        options = group_options(Path(CONF, group)) if re.fullmatch(r"\w+", group) else set()
        if not options or override.is_delete() or isinstance(value, Glob):
            continue
        for name in _values(override):
            if name == "null":
                raise UserError(
                    f"{group}=null: a group cannot be null; leave it out, "
                    f"or write ~{group} if it has a default"
                )
            # other names are left to Hydra, which may look for them in further folders
            is_name = isinstance(value, str | Sweep) and re.fullmatch(r"[\w-]+", name)
            if name not in options and (group in OPTIONAL or not is_name):
                close = difflib.get_close_matches(name, options, 1)
                hint = f". Did you mean {close[0]}?" if close else ""
                raise UserError(
                    f"{group}={name:.80}: there is no conf/{group}/{name:.80}.yaml{hint}"
                )


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def run_configs(overrides: Iterable[str]) -> list[dict[str, Any]]:
    """The resolved configs of `expand_sweep`, cached until a source changes.

    Args:
        overrides: The overrides of `experiments.run`.

    Returns:
        Plain configs, each with its `id` and without `paths`. A run that the sweep names several
        times is one run.

    Raises:
        UserError: If a name does not exist.
    """
    overrides = list(overrides)
    remembered = load_sweep(overrides)
    if remembered is not None:
        return remembered
    check_names(overrides)
    configs: dict[str, dict[str, Any]] = {}
    is_portable = True
    with config_loader() as loader, recorded_sources(loader) as sources:
        for config in _expand(overrides, loader):
            is_portable = is_portable and _is_portable(config)
            resolve_precision(config)
            plain: Any = OmegaConf.to_container(config, resolve=True)
            del plain["paths"]
            id = run_id(config)
            configs.setdefault(id, {"id": id, **plain})
    if is_portable:
        save_sweep(overrides, sources, list(configs.values()))
    return list(configs.values())


def _is_portable(config: DictConfig) -> bool:
    """Whether a config means the same on another machine, with other folders and at other times."""
    raw: Any = OmegaConf.to_container(config)
    del raw["paths"]
    return config.trainer.precision != AUTO and ELSEWHERE.search(str(raw)) is None


def as_config(plain: Mapping[str, Any], **paths: str | None) -> DictConfig:
    """Turn a plain config into one that can be run.

    Args:
        plain: From `run_configs` or a result file.
        paths: The folders on this machine.
    """
    fields = {key: value for key, value in plain.items() if key != "id"}
    merged = OmegaConf.merge(OmegaConf.structured(schema.Run), fields, {"paths": paths})
    return cast(DictConfig, merged)


def expand_sweep(overrides: Iterable[str]) -> list[DictConfig]:
    """The configs of all runs that `python -m experiments.run [-m] <overrides>` makes, in order.

    Sweeps come from the command line (`seed=0,1`) and from an experiment's hydra.sweeper.params.
    Runs that use the same YAML files are composed only once, to save time.

    Args:
        overrides: The overrides of `experiments.run`.

    Raises:
        UserError: If a name does not exist.
    """
    overrides = list(overrides)
    check_names(overrides)
    with config_loader() as loader:
        configs = list(_expand(overrides, loader))
    for config in configs:
        resolve_precision(config)
    return configs


def compose_jobs(jobs: Iterable[Sequence[str]]) -> Iterator[DictConfig]:
    """The configs of a sweep's jobs, in the order in which they are given.

    Args:
        jobs: The overrides of each job, which set the same keys.
    """
    with config_loader() as loader:
        parser = OverridesParser.create(config_loader=loader)
        yield from _compose((parser.parse_overrides(list(job)) for job in jobs), loader)


@contextmanager
def config_loader() -> Iterator[Any]:
    """Hydra's config loader for conf/; inside a Hydra job, the one in use."""
    inside = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside else initialize_config_dir(CONF, version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _expand(overrides: list[str], loader: Any) -> Iterator[DictConfig]:
    yield from _compose(jobs(overrides, loader), loader)


def jobs(overrides: list[str], loader: Any) -> Iterator[Sequence[Override]]:
    """The overrides of every run of a sweep.

    Args:
        overrides: The overrides of `experiments.run`.
        loader: From `config_loader`.

    Returns:
        For each run, the experiment's own sweep first, then the command line.
    """
    parser = OverridesParser.create(config_loader=loader)  # needed for glob(*)
    chosen = compose("run", single(overrides, loader), return_hydra_config=True)
    params = chosen.hydra.sweeper.params or {}
    given = parser.parse_overrides(overrides)
    again = keys(overrides, loader)
    swept = parser.parse_overrides(
        [f"{key}={value}" for key, value in params.items() if key not in again]
    )
    choices = [parser.parse_overrides(_choices(override)) for override in [*swept, *given]]
    return itertools.product(*choices)


def _compose(jobs: Iterable[Sequence[Override]], loader: Any) -> Iterator[DictConfig]:
    composed: dict[tuple[str, ...], DictConfig] = {}  # chosen files -> config of the first job
    groups: dict[str, bool] = {}
    for job in jobs:
        for override in job:
            key = override.key_or_group
            if key not in groups:
                groups[key] = "." not in key and loader.repository.group_exists(key)
        values = [o for o in job if not groups[o.key_or_group] and _sets(o)]
        files = tuple(text(o) for o in job if o not in values)
        if files not in composed:
            composed[files] = compose("run", [text(o) for o in job])
            yield composed[files]
            continue
        config = copy.deepcopy(composed[files])
        for override in values:  # all jobs of a sweep set the same keys
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        yield config


def single(overrides: Iterable[str], loader: Any) -> list[str]:
    """The overrides that have one value."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return [text(override) for override in parsed if not override.is_sweep_override()]


def keys(overrides: Iterable[str], loader: Any = None) -> set[str]:
    """The keys and groups that overrides name."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return {override.key_or_group for override in parsed}


def text(override: Override) -> str:
    """An override as written."""
    return str(override.input_line)


def _sets(override: Override) -> bool:
    """Whether it is a plain key=value and not one of Hydra's own keys.

    A mapping is not plain: merged into the config of another job, it would leave that one's keys.
    """
    other = override.is_add() or override.is_force_add() or override.is_delete()
    is_plain = not (other or isinstance(override.value(), dict))
    return is_plain and not override.key_or_group.startswith("hydra")


def _choices(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [
            f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()
        ]
    return [text(override)]

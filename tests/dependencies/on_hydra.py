"""What is relied on in Hydra and OmegaConf."""

from __future__ import annotations

import pytest
from conftest import ROOT

from dependencies.table import has, relies_on, takes


@relies_on(
    "hydra-core",
    "OverridesParser.create",
    "overrides can be parsed and their choices told apart as Hydra does",
)
def _():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = ["seed=0,1", "+a=1", "++b=1", "~c", "d.e=2"]
    swept, added, forced, deleted, single = OverridesParser.create().parse_overrides(given)
    assert swept.is_sweep_override() and list(swept.sweep_string_iterator()) == ["0", "1"]
    assert (
        swept.get_key_element() == "seed" and single.input_line == "d.e=2" and single.value() == 2
    )
    assert (
        added.is_add()
        and forced.is_force_add()
        and deleted.is_delete()
        and single.key_or_group == "d.e"
    )
    assert not (
        single.is_sweep_override() or single.is_add() or single.is_force_add() or single.is_delete()
    )


@relies_on(
    "hydra-core",
    "GlobalHydra.instance()",
    "it says whether Hydra is initialised, and what options a group has",
)
def _():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert GlobalHydra.instance().is_initialized()
        loader = GlobalHydra.instance().config_loader()
        assert "lora_drop" in loader.get_group_options("method") and not loader.get_group_options(
            "seed"
        )


@relies_on(
    "hydra-core",
    "compute_defaults_list",
    "it lists the files of a config, each with its place and its content",
)
def _():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    import experiments.config.schema  # noqa: F401 (run.yaml names it)

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = ["backbone=roberta_base", "task=rte", "method=vera", "seed=1"]
        found = loader.compute_defaults_list("run", given, RunMode.RUN)
        assert [override.key_or_group for override in found.config_overrides] == ["seed"]
        places = {file.config_path: file.package for file in found.defaults}
        # a group with a dot is the group, and has a choice of its own
        assert (places["recipe/roberta_base/rte"], places["recipe/./roberta_base/rte-vera"]) == (
            "recipe",
            "",
        )
        content = loader.repository.load_config("recipe/./roberta_base/rte-vera").config
        assert content.recipe.epochs == 160


@relies_on(
    "hydra-core",
    "hydra._internal.config_repository",
    "a loader's repository can be replaced by one that records",
)
def _():
    from hydra import initialize_config_dir
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        has(GlobalHydra.instance().config_loader(), "repository")
    takes(CachingConfigRepository.__init__, "delegate")
    has(
        CachingConfigRepository, "load_config", "get_group_options", "config_exists", "group_exists"
    )


@relies_on(
    "hydra-core", "hydra.experimental.callback", "a sweep's start and end are told to a callback"
)
def _():
    from hydra.experimental.callback import Callback

    has(Callback, "on_multirun_start", "on_multirun_end")


@relies_on(
    "hydra-core", "error.__cause__", "instantiate keeps the constructor's own error as the cause"
)
def _():
    from hydra.errors import CompactHydraException, HydraException, InstantiationException
    from hydra.utils import instantiate

    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "datetime.date", "year": 0, "month": 1, "day": 1})
    assert isinstance(caught.value.__cause__, ValueError)
    assert issubclass(CompactHydraException, HydraException)


@relies_on(
    "omegaconf", "OmegaConf.get_type(", "the class of the schema that a node, or a node's key, has"
)
def _():
    from omegaconf import OmegaConf

    from experiments.config.schema import Run, Trainer

    node = OmegaConf.structured(Run)
    assert OmegaConf.get_type(node) is Run and OmegaConf.get_type(node, "trainer") is Trainer


@relies_on(
    "hydra-core",
    "_return_value",
    "a job that raised keeps its error here, and `return_value` raises it",
)
def _():
    from hydra.core.utils import JobReturn, JobStatus

    error = ValueError("what happened")
    job = JobReturn(overrides=["seed=0"], status=JobStatus.FAILED)
    job.return_value = error
    assert job._return_value is error
    with pytest.raises(ValueError, match="what happened"):
        _ = job.return_value


@relies_on(
    "hydra-submitit-launcher",
    "BaseQueueConf.__dataclass_fields__",
    "these keys are every executor's, others get its name in front; a job calls the launcher",
)
def _():
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    assert {"submitit_folder", "timeout_min", "tasks_per_node"} <= set(
        BaseQueueConf.__dataclass_fields__
    )
    has(BaseSubmititLauncher(), "params", "setup", "checkpoint", "__call__")
    takes(
        BaseSubmititLauncher.__call__,
        *("sweep_overrides", "job_dir_key", "job_num", "job_id", "singleton_state"),
    )

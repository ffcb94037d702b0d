"""What runs share: the stage 1 of one data set, one model, and one version of the libraries."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir

from experiments.config.schema import CONF
from experiments.runner import probe
from loradrop.importance.importance import Importance
from loradrop.methods.base import Stage1


def test_stage_1_is_done_again_for_other_versions_of_the_libraries(tmp_path, monkeypatch):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("run", ["method=lora_drop"])
    data = SimpleNamespace(fingerprint="rows")
    components = SimpleNamespace(config=config, data=data, weights="w", seeds=None, steps=1)
    calls = []

    def compute():
        calls.append(1)
        found = Importance({"query": {0: 1.0}}, {"query": {0: 8}}, 4)
        return Stage1(found, {"a": torch.ones(1)})

    def again():
        access = probe.RunProbe(components, tmp_path)
        access.stage1({}, compute)
        return access.cached

    assert [again(), again()] == [False, True]
    monkeypatch.setattr(probe, "LIBRARIES", ("another",))
    assert [again(), again()] == [False, True] and len(calls) == 2

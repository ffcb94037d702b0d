"""The official files of E2E and DART, where a folder with them is named by LORADROP_DATA."""

from __future__ import annotations

import pytest
from conftest import ROOT
from hydra.utils import instantiate
from isolation import DATA
from omegaconf import OmegaConf

from loradrop.tasks import dart, e2e

CONF = ROOT / "conf/task"


def make(name, **changes):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes))


@pytest.mark.real_data
def test_official_e2e():
    if not (DATA / "E2E").is_dir():
        pytest.skip("E2E is not in LORADROP_DATA")
    splits = make("e2e", evaluation=["dev", "test"]).load(DATA)
    assert len(splits.train) == 42061 and splits.notes == []
    sizes = {
        name: (len(rows), sum(map(len, rows["references"])))
        for name, rows in splits.evaluation.items()
    }
    assert sizes == {"dev": (547, 4672), "test": (630, 4693)}
    assert all(source.startswith("name : ") for source in splits.train["source"])
    assert e2e.linearise("name[X], eatType[pub]") == "name : X | Type : pub"


@pytest.mark.real_data
def test_official_dart():
    if not (DATA / "DART").is_dir():
        pytest.skip("DART is not in LORADROP_DATA")
    task = make("dart")
    entries = {
        split: task.read(DATA / "DART" / task.files[split].name, training=False)
        for split in ("dev", "test")
    }
    sizes = {
        split: (len(some), sum(len(texts) for _, texts in some)) for split, some in entries.items()
    }
    assert sizes == {"dev": (2768, 6980), "test": (5097, 12552)}
    assert sum(not text.strip() for _, texts in entries["test"] for text in texts) == 1
    assert dart.linearise([["x", "IS_A", "y"]]) == "x : is_a : y"

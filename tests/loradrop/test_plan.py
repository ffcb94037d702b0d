"""A plan as a text and as a file."""

from __future__ import annotations

import pytest

from loradrop.importance.importance import Importance
from loradrop.plan import SharingPlan


def test_a_plan_reads_as_a_text():
    plan = SharingPlan(
        {"query": (0, 2), "value": (1,)},
        {"query": (1,), "value": ()},
        True,
        400,
        300,
        {"query": (3, 4)},
    )
    assert str(plan).splitlines() == [
        "query: own LoRA in layers 0, 2; one shared LoRA in layer 1; never adapted: layers 3, 4",
        "value: own LoRA in layer 1; one shared LoRA in no layer",
        "300 of LoRA's 400 parameters (75.0 %)",
        "query: layer 1 alone is left to share, which costs what it replaces",
    ]
    assert "no LoRA in layer 1;" in str(
        SharingPlan(plan.kept, plan.others, False, 400, 300, {"query": (3,)})
    )


def test_a_plan_is_saved_with_what_was_never_adapted(tmp_path):
    for never in ({}, {"query": (3, 4)}):
        plan = SharingPlan({"query": (0, 2)}, {"query": (1,)}, True, 300, 300, never)
        assert plan.to_dict()["kept"] == {"query": [0, 2]}
        assert ("never_adapted" in plan.to_dict()) == bool(never)
        plan.save(tmp_path / "plan.json")
        again = SharingPlan.load(tmp_path / "plan.json")
        assert (again, again.never_adapted) == (plan, never)


def test_a_file_of_something_else_is_named(tmp_path):
    plan = SharingPlan({"query": (0,)}, {"query": (1,)}, True, 2, 2)
    importance = Importance({"query": {0: 1.0}}, {"query": {0: 8}})
    plan.save(tmp_path / "plan.json")
    importance.save(tmp_path / "importance.json")
    with pytest.raises(ValueError, match=r"importance\.json holds no plan"):
        SharingPlan.load(tmp_path / "importance.json")
    with pytest.raises(ValueError, match=r"plan\.json holds no importances"):
        Importance.load(tmp_path / "plan.json")

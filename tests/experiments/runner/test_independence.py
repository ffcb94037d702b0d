"""Runs of one process do not depend on each other: each is the same, whatever ran before it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import composed

from experiments.results import run_folder
from experiments.results.result import to_plain
from experiments.runner.execution import run

# they train parts of the model, all of it, and tensors before it; lora_drop edits it in a run
METHODS = ("lora", "lora_drop", "full", "prefix_tuning", "bitfit")
# what tells about the machine, not the run
MEASURED = ("started", "seconds", "tokens_per_second", "peak_memory_bytes")


def carried_out(outputs, methods) -> dict[str, tuple[dict[str, Any], bytes, bytes]]:
    """Result, adapter and predictions of each method's run, carried out in this order."""
    found = {}
    for method in methods:
        outcome = run(composed(outputs, f"method={method}", "recipe.epochs=2"))
        result = {key: v for key, v in to_plain(outcome.result).items() if key not in MEASURED}
        folder = run_folder(outputs, outcome.id)
        files = (folder / name for name in ("adapter.safetensors", "predictions.jsonl"))
        found[method] = (result, *(file.read_bytes() for file in files))
    return found


@pytest.mark.slow
def test_a_run_is_the_same_whatever_ran_before_it_in_the_process(tmp_path):
    forwards = carried_out(tmp_path / "forwards", METHODS)
    backwards = carried_out(tmp_path / "backwards", METHODS[::-1])
    for method in METHODS:
        assert forwards[method] == backwards[method], method
    assert len({adapter for _, adapter, _ in forwards.values()}) == len(METHODS)

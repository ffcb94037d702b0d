"""What tables average over: runs that differ in the seed alone. What else differs is named."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers import result_files

from experiments import results
from experiments.config.sweep import run_configs
from experiments.results import printing

DROP = ["method=lora_drop", "seed=0,1"]


def loaded(outputs, *sweeps):
    for sweep in sweeps:
        result_files.write(outputs, *sweep)
    return pd.concat([results.load(sweep, outputs) for sweep in sweeps], ignore_index=True)


@pytest.mark.parametrize(
    ("own", "named"),
    [
        (["method.num_layers=5", "method.threshold=null"], "method.num_layers=5"),
        (["recipe.max_grad_norm=null"], "recipe.max_grad_norm=null"),
        (["method.target_modules=[query]"], "method.target_modules=['query']"),
    ],
)
def test_a_null_is_a_setting_like_any_other(tmp_path, own, named):
    """A mean over both settings would be that of neither."""
    table = results.over_seeds(loaded(tmp_path, DROP, [*DROP, *own]))
    assert list(table.seeds) == [2, 2]
    assert named in table.setting[1] and named not in table.setting[0]


def test_an_absent_key_is_a_null(tmp_path):
    frame = loaded(tmp_path, DROP)
    for number, result in enumerate(frame.result):
        result.config["recipe"]["later_key"] = None
        if number:
            del result.config["recipe"]["later_key"]
    assert list(results.over_seeds(frame).seeds) == [2]


def test_results_of_other_rows_or_weights_in_one_mean_are_named(tmp_path):
    frame = loaded(tmp_path, DROP, ["method=lora", "task.train_size=50"])
    assert printing.mixes(frame) == ""
    prints = ["0" * 16, "1" * 16, "2" * 16]  # the last one's task has another size
    weights = ["a" * 16, "a" * 40, "a" * 16]
    frame["result"] = [
        one.model_copy(update={"data_fingerprint": rows, "weights_fingerprint": found})
        for one, rows, found in zip(frame.result, prints, weights, strict=True)
    ]
    line = printing.mixes(frame)
    assert line.startswith(
        "Made with different data or weights (results): rows of mini_sentiment "
        f"{prints[0]} (1), {prints[1]} (1); run them again"
    )
    assert "weights of" not in line and prints[2] not in line  # a revision cannot be compared


def test_a_run_that_a_sweep_names_twice_counts_once(tmp_path):
    overrides = ["method=lora", "seed=0,0,1", "recipe.learning_rate=0.001,1e-3"]
    assert [config["seed"] for config in run_configs(overrides)] == [0, 1]


def test_runs_without_a_result_are_named_in_a_line_for_each_reason(capsys):
    rows = [(f"run{i}", results.MISSING, None) for i in range(12)]
    rows += [("a", results.FAILED, "ValueError: b"), ("c", results.FAILED, "ValueError: b")]
    printing.unfinished(pd.DataFrame(rows, columns=["id", "status", "error"]))
    assert capsys.readouterr().out.splitlines() == [
        "missing: run0, run1, run2, run3, run4 and 7 others: see above",
        "failed: a, c: ValueError: b",
    ]

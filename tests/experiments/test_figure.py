"""The numbers behind each figure, against a calculation of their own; every experiment's figure can
be drawn.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers import result_files
from scipy.stats import spearmanr

from experiments import figure, results
from experiments.config.catalog import Figure, catalog
from experiments.config.schema import UserError
from experiments.reporting import figure_data, plots
from experiments.reporting.figures import FIGURES, figure_kind
from experiments.runner import post_hoc

MEASURED = ("distribution", "removal")  # of trained models: tests/test_run.py
DRAWN = [
    entry.name for entry in catalog().values() if entry.figure and entry.figure.kind not in MEASURED
]


def load(outputs, *overrides):
    return results.load([*overrides, f"paths.outputs={outputs}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_can_be_drawn(name, tmp_path):
    result_files.write(tmp_path, f"experiment={name}")
    assert figure.main([name, f"paths.outputs={tmp_path}"]) == 0
    assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "figures" / f"{name}.csv").read_text().splitlines()) > 3


def test_every_kind_is_drawn_of_some_experiment_and_another_one_is_an_error():
    assert {entry.figure.kind for entry in catalog().values() if entry.figure} == set(FIGURES)
    with pytest.raises(UserError, match=r"no figure of kind curve\. Did you mean curves\?"):
        figure_kind(Figure("curve", {}))


def test_the_largest_layer_has_magnitude_one(tmp_path):
    result_files.write(tmp_path, "experiment=figure9")
    data = figure_data.magnitudes(load(tmp_path, "experiment=figure9"), str(tmp_path), "task")
    for (_, kind, task), part in data.groupby(["backbone", "module_type", "task"]):
        (run,) = (r for r in load(tmp_path, "experiment=figure9").result if r.task == task)
        values = run.importance.values[kind]
        expected = [values[layer] / max(values.values()) for layer in part.layer]
        assert part.magnitude.tolist() == pytest.approx(expected) and part.magnitude.max() == 1


def test_agreement_is_spearmans_correlation_over_pairs_of_seeds(tmp_path):
    narrowed = ("experiment=cross_task_stability", "task=rte,cola", "seed=0,1")
    done = result_files.write(tmp_path, *narrowed)
    y = {(r.task, r.config["seed"]): list(r.importance.values["value"].values()) for r in done}
    data = figure_data.agreement(load(tmp_path, *narrowed), str(tmp_path))
    data = data[data.module_type == "value"].set_index(["task", "other"])
    between = [spearmanr(y["rte", a], y["cola", b]).statistic for a in (0, 1) for b in (0, 1)]
    assert data.loc[("rte", "cola"), "correlation"] == pytest.approx(np.mean(between))
    assert data.loc[("rte", "rte"), "correlation"] == pytest.approx(
        spearmanr(y["rte", 0], y["rte", 1]).statistic
    )
    assert data.loc[("rte", "rte"), "pairs"] == 1 and data.loc[("rte", "cola"), "pairs"] == 4


def test_convergence_is_towards_the_whole_training_set(tmp_path):
    narrowed = ("experiment=sampling_stability", "task=rte", "seed=0")
    done = result_files.write(tmp_path, *narrowed)
    y = {
        r.config["method"]["sample_ratio"]: list(r.importance.values["query"].values())
        for r in done
    }
    data = figure_data.convergence(load(tmp_path, *narrowed), str(tmp_path), "method.sample_ratio")
    data = data[data.module_type == "query"].set_index("method.sample_ratio").correlation
    assert data[1.0] == pytest.approx(1) and data[0.1] == pytest.approx(
        spearmanr(y[0.1], y[1.0]).statistic
    )


def test_without_the_largest_sample_there_is_nothing_to_converge_to(tmp_path):
    narrowed = ("experiment=sampling_stability", "task=rte", "seed=0,1")
    result_files.write(
        tmp_path, *narrowed, leave=lambda c: (c["method"]["sample_ratio"], c["seed"]) == (1.0, 1)
    )
    data = figure_data.convergence(load(tmp_path, *narrowed), str(tmp_path), "method.sample_ratio")
    assert set(data.seed) == {0} and set(data["method.sample_ratio"]) == {0.05, 0.1, 0.2, 0.5, 1.0}


def test_layers_that_are_kept_are_counted_for_each_setting(tmp_path):
    narrowed = ("experiment=mpnet_stage1", "seed=0,1", "method.sample_steps=9,27")
    done = result_files.write(tmp_path, *narrowed)
    frame = load(tmp_path, *narrowed)
    keys = {"key": "method.sample_steps", "lines": "recipe.learning_rate"}
    data = figure_data.kept(frame, str(tmp_path), **keys)
    assert len(data) == 2 * 2 * 3 and set(data.seeds) == {2}  # module types, steps, rates
    kind, rate, steps = data.iloc[0][["module_type", "recipe.learning_rate", "method.sample_steps"]]
    own = [
        len(r.plan.kept[kind])
        for r in done
        if (r.config["recipe"]["learning_rate"], r.config["method"]["sample_steps"])
        == (rate, steps)
    ]
    assert data.iloc[0].kept == np.mean(own)
    # a figure of one line would mix up the rates
    with pytest.raises(UserError, match="has runs in several settings"):
        figure_data.convergence(frame, str(tmp_path), "method.sample_steps")


def test_outlines_of_several_runs_are_not_mixed(tmp_path, monkeypatch):
    narrowed = ("experiment=figure7", "seed=0,1")
    result_files.write(tmp_path, *narrowed)
    with pytest.raises(UserError, match="one run of each method"):
        figure_data.distribution(load(tmp_path, *narrowed), str(tmp_path), 0)
    found = {
        "log10_edges": [0, 1, 2],
        "counts": {"query": {"0": [1, 3]}},
        "mean": {"query": {"0": 5.0}},
    }
    monkeypatch.setattr(post_hoc, "distribution", lambda *_: found)
    three = ("experiment=figure7", "method=lora,lora_drop,lora_drop_random")
    result_files.write(tmp_path, *three)
    drawn = plots.distribution(
        figure_data.distribution(load(tmp_path, *three), str(tmp_path), 0), 0
    )
    assert len(drawn.axes[0].patches) == 3


@pytest.mark.parametrize(("layers", "ticks"), [(1, 1), (12, 12), (24, 12), (32, 16)])
def test_the_numbers_of_many_layers_do_not_run_into_each_other(layers, ticks):
    columns = {
        "backbone": "b",
        "task": "t",
        "seed": 0,
        "module_type": "query",
        "layer": range(layers),
    }
    data = pd.DataFrame(columns | {"importance": 1 / layers, "kept": 1.0})
    assert len(plots.importances(data).axes[0].get_xticks()) == ticks


def test_curves_are_means_over_seeds(tmp_path):
    narrowed = ("experiment=rank_study", "task=rte")
    done = result_files.write(
        tmp_path, *narrowed, metrics=lambda c: [0.5 + c["method"]["rank"] / 1000 + c["seed"] / 100]
    )
    data = figure_data.curves(load(tmp_path, *narrowed), str(tmp_path), "method.rank")
    assert len(data) == 12 and len(done) == 36
    row = data[(data.method == "lora") & (data["method.rank"] == 16)].iloc[0]
    assert (row.score, row["std"], row.seeds) == (pytest.approx(52.6), pytest.approx(1.0), 3)


def test_curves_have_the_papers_scores_where_it_has_any(tmp_path):
    narrowed = ("experiment=threshold_sensitivity", "task=rte", "seed=0")
    result_files.write(tmp_path, *narrowed)
    data = figure_data.curves(load(tmp_path, *narrowed), str(tmp_path), "method.threshold")
    paper = data.set_index("method.threshold").paper
    assert (paper[0.9], paper[0.95], paper[1.0]) == (81.9, 83.0, 82.3) and paper[:0.6].isna().all()
    drawn = plots.curves(data, "method.threshold").axes[0].lines
    assert [line.get_markerfacecolor() == "none" for line in drawn] == [False, True]


def test_what_was_analysed_once_is_read_again(tmp_path):
    folder = results.run_folder(tmp_path, "run")
    folder.mkdir(parents=True)
    (folder / "removal.json").write_text(json.dumps({"version": post_hoc.VERSION, "layers": [1]}))
    assert post_hoc.removal("run", tmp_path)["layers"] == [1]
    (folder / "removal.json").write_text(json.dumps({"version": -1}))
    with pytest.raises(FileNotFoundError, match="no finished run"):
        post_hoc.removal("run", tmp_path)


def test_experiments_without_an_entry_show_importances(tmp_path):
    result_files.write(tmp_path, "experiment=demo")
    assert figure.main(["demo", f"paths.outputs={tmp_path}", "--format", "svg"]) == 0
    assert "<svg" in (tmp_path / "figures" / "demo.svg").read_text()[:2000]
    assert figure.main(["figure9", f"paths.outputs={tmp_path}"]) == 1


@pytest.mark.parametrize(
    ("kind", "arguments", "sweep"),
    [
        ("magnitudes", {"lines": "task"}, ["method.sample_ratio=0.1,0.2"]),
        ("agreement", {}, ["method.sample_ratio=0.1,0.2"]),
        ("curves", {"key": "method.threshold"}, ["recipe.learning_rate=0.1,0.2"]),
        ("removal", {}, ["recipe.learning_rate=0.1,0.2"]),
    ],
)
def test_a_mean_over_seeds_mixes_no_settings(tmp_path, kind, arguments, sweep):
    result_files.write(tmp_path, "method=lora_drop", "seed=0,1", *sweep)
    frame = load(tmp_path, "method=lora_drop", "seed=0,1", *sweep)
    with pytest.raises(UserError, match="has runs in several settings"):
        getattr(figure_data, kind)(frame, str(tmp_path), **arguments)


def test_runs_without_the_key_of_a_figure_are_named(tmp_path):
    result_files.write(tmp_path, "method=lora", "seed=0")
    with pytest.raises(UserError, match=r"lora-s0-\w+ has no method\.threshold"):
        figure_data.curves(load(tmp_path, "method=lora", "seed=0"), "", key="method.threshold")

"""Whole runs on the built-in model and tasks, as a user starts them."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment, run_module
from safetensors.torch import load_file

import experiments.results
from experiments import score
from experiments.common.files import run_lock
from experiments.config.schema import UserError
from experiments.config.sweep import run_configs

SMALL = (
    "trainer.num_threads=1",
    "trainer.progress_bar=false",
    "task=mini_sentiment",
    "task.train_size=320",
    "task.validation_size=64",
    "recipe.epochs=2",
    "recipe.learning_rate=1e-3",
)


BIN = ("log10_from", "log10_to")

pytestmark = pytest.mark.slow

# experiments.run that is killed after seven steps of fine-tuning with seed 1
KILLED = """
import os, signal
from experiments.run import main
from loradrop.training.module import RunModule

step = RunModule.training_step

def killing_step(self, *args):
    if self.data.seeds.run == 1 and self.method is not None and self.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

RunModule.training_step = killing_step
main()
"""


def run(outputs: Path, *overrides: str) -> subprocess.CompletedProcess:
    flags = [override for override in overrides if override.startswith("-")]
    return run_module(
        "experiments.run",
        *flags,
        *SMALL,
        *(o for o in overrides if o not in flags),
        outputs=outputs,
    )


def every_result(outputs: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(outputs.glob("runs/*/result.json"))]


def results(outputs: Path) -> dict[str, dict]:
    """Result files by method and seed."""
    return {
        f"{r['config']['method']['name']}-s{r['config']['seed']}": r for r in every_result(outputs)
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """One multirun: LoRA and LoRA-drop, two seeds each."""
    outputs = tmp_path_factory.mktemp("sweep")
    done = run(outputs, "-m", "method=lora,lora_drop", "seed=0,1")
    assert done.returncode == 0, done.stderr + done.stdout
    return outputs, done.stdout


def test_a_sweep_ends_with_a_table_over_seeds(sweep):
    outputs, printed = sweep
    assert set(results(outputs)) == {"lora-s0", "lora-s1", "lora_drop-s0", "lora_drop-s1"}
    assert "mean ± standard deviation over seeds" in printed and " ± " in printed
    lora = [results(outputs)[f"lora-s{seed}"]["metrics"]["best"]["accuracy"] for seed in (0, 1)]
    assert f"{100 * sum(lora) / 2:.1f} ± {100 * abs(lora[0] - lora[1]) / 2**0.5:.1f}" in printed


def test_a_result_says_what_was_trained(sweep):
    result = results(sweep[0])["lora_drop-s0"]
    assert result["parameters"]["lora_parameters"] == 24 * 8 * 2 * 128
    plan = result["plan"]
    instances = sum(len(layers) for layers in plan["kept"].values()) + sum(
        bool(layers) for layers in plan["others"].values()
    )
    assert result["parameters"]["adapter"] == plan["parameters"] == instances * 2 * 128 * 8
    assert result["parameters"]["head"] == 128 * 128 + 128 + 128 * 2 + 2
    for layers in result["importance"]["normalized"].values():
        assert len(layers) == 12 and sum(layers.values()) == pytest.approx(1)
    metrics = result["metrics"]
    assert [scores["epoch"] for scores in metrics["epochs"]] == [1, 2] and metrics[
        "last"
    ] == metrics["epochs"][-1]
    assert metrics["best"]["accuracy"] == max(scores["accuracy"] for scores in metrics["epochs"])
    assert result["evaluated_on"] == {"validation": 64} and result["train_rows"] == 320
    assert set(result["seconds"]) == {"load", "prepare", "fit"}


def test_the_saved_weights_are_each_shared_lora_once_and_the_head(sweep):
    folder = next(sweep[0].glob("runs/*-lora_drop-s0-*"))
    result = json.loads((folder / "result.json").read_text())
    weights = load_file(folder / "adapter.safetensors")
    trained = result["parameters"]["adapter"] + result["parameters"]["head"]
    assert sum(tensor.numel() for tensor in weights.values()) == trained
    assert not list(folder.glob("*.ckpt")) and [p.name for p in folder.glob(".*")] == [".lock"]


def scores_again(outputs: Path) -> None:
    """The stored predictions of each run give its recorded scores, bit for bit."""
    for folder in outputs.glob("runs/*"):
        again, recorded = score.scores(folder.name, str(outputs))
        assert again and again.items() <= recorded.items()


def test_predicted_labels_are_stored_and_score_the_same(sweep, tmp_path):
    scores_again(sweep[0])
    folder = next(sweep[0].glob("runs/*-lora_drop-s0-*"))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [(row["split"], row["row"]) for row in rows] == [("validation", i) for i in range(64)]
    assert all(row["prediction"] == int(row["logits"][1] > row["logits"][0]) for row in rows)
    with pytest.raises(UserError, match="only generated texts are exported"):
        score.export(score.predictions(folder.name, str(sweep[0]))[1], tmp_path)


def test_a_finished_run_is_skipped_and_stage_one_is_shared(sweep):
    outputs, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in outputs.glob("runs/*/*")}
    again = run(outputs, "method=lora_drop", "seed=0")
    assert again.returncode == 0 and "finished already" in again.stdout
    (folder,) = outputs.glob("runs/*-lora_drop-s0-*")
    # in one piece, however long
    assert again.stdout.endswith(f"\nresult: {folder / 'result.json'}\n")
    assert {path: path.stat().st_mtime_ns for path in outputs.glob("runs/*/*")} == before
    other = run(outputs, "method=lora_drop_no_share", "seed=0", "method.threshold=0.7")
    assert other.returncode == 0, other.stderr
    assert "stage 1 was cached" in other.stdout
    cached = results(outputs)["lora_drop_no_share-s0"]
    assert (
        cached["stage1_cached"]
        and cached["importance"] == results(outputs)["lora_drop-s0"]["importance"]
    )
    kept = sum(len(layers) for layers in cached["plan"]["kept"].values())
    assert cached["parameters"]["adapter"] == kept * 2 * 128 * 8


def test_the_same_run_twice_gives_the_same_numbers_and_threshold_one_is_plain_lora(sweep, tmp_path):
    first = results(sweep[0])
    done = run(tmp_path, "method=lora_drop", "seed=0,1", "-m")
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        for key in ("metrics", "importance", "plan"):
            assert results(tmp_path)[f"lora_drop-s{seed}"][key] == first[f"lora_drop-s{seed}"][key]
    assert run(tmp_path, "method=lora_drop", "seed=0", "method.threshold=1").returncode == 0
    whole = next(r for r in every_result(tmp_path) if r["config"]["method"]["threshold"] == 1)
    assert (
        whole["metrics"] == first["lora-s0"]["metrics"]
        and whole["parameters"] == first["lora-s0"]["parameters"]
    )


def test_a_killed_sweep_goes_on_to_the_same_numbers(sweep, tmp_path):
    """kill -9 inside a run: finished runs stay, the interrupted one goes on from its checkpoint,
    bit for bit.
    """
    command = [sys.executable, "-c", KILLED, "-m", *SMALL, "method=lora_drop", "seed=0,1"]
    command += ["trainer.checkpoint_minutes=0", f"paths.outputs={tmp_path}"]
    killed = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(tmp_path.glob("runs/*-s1-*/checkpoint.ckpt"))) == 1
    assert set(results(tmp_path)) == {"lora_drop-s0"}
    again = run(tmp_path, "-m", "method=lora_drop", "seed=0,1")
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stdout
    for seed in (0, 1):
        result = results(tmp_path)[f"lora_drop-s{seed}"]
        assert result["metrics"] == results(sweep[0])[f"lora_drop-s{seed}"]["metrics"]
        assert any("after an interruption" in note for note in result["notes"]) == (seed == 1)


def test_a_failed_run_is_recorded_does_not_stop_the_others_and_is_run_again(tmp_path):
    diverging = run(tmp_path, "-m", "method=lora", "recipe.learning_rate=1e30,1e-3")
    assert diverging.returncode == 1 and "1 of 2 runs did not finish" in diverging.stdout
    failed, finished = sorted(
        every_result(tmp_path), key=lambda result: result["status"], reverse=False
    )
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert (
        "Traceback" in failed["error"]
        and "training diverged in epoch 1; try a lower" in diverging.stdout
    )
    again = run(tmp_path, "method=lora", "recipe.learning_rate=1e30")
    assert again.returncode == 1 and "finished already" not in again.stdout


def test_a_damaged_checkpoint_costs_its_training_alone(sweep, tmp_path):
    assert run(tmp_path, "method=lora").returncode == 0
    folder = next(tmp_path.glob("runs/*"))
    (folder / "result.json").unlink()
    (folder / "checkpoint.ckpt").write_text("broken")
    done = run(tmp_path, "method=lora")
    assert done.returncode == 0 and "is damaged" in done.stdout, done.stderr
    assert results(tmp_path)["lora-s0"]["metrics"] == results(sweep[0])["lora-s0"]["metrics"]


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(sweep):
    frame = experiments.results.frames.load(
        [*SMALL, "method=lora,lora_drop", "seed=0,1"], sweep[0], finished=True
    )
    assert list(experiments.results.frames.over_seeds(frame).seeds) == [2, 2]
    changed = frame.result.iloc[1].model_copy(deep=True)
    frame.at[frame.index[1], "result"] = changed
    changed.config.update(wait=False, save_weights=False)  # which change no number
    assert list(experiments.results.frames.over_seeds(frame).seeds) == [2, 2]
    changed.config["method"]["rank"] = 4
    table = experiments.results.frames.over_seeds(frame)
    kept = [result.plan.kept for result in frame.result[2:]]
    means = {kind: sum(len(layers[kind]) for layers in kept) / 2 for kind in ("query", "value")}
    assert list(table.kept) == ["-", "-", f"query {means['query']:.1f}, value {means['value']:.1f}"]
    assert list(table.setting) == ["method.rank=8", "method.rank=4", ""] and list(table.seeds) == [
        1,
        1,
        2,
    ]


def test_full_fine_tuning_and_csv_curves(tmp_path):
    done = run(tmp_path, "method=full", "logger=csv", "recipe.learning_rate=1e-4")
    assert done.returncode == 0, done.stderr
    result = results(tmp_path)["full-s0"]
    assert (
        result["parameters"]["adapter"] + result["parameters"]["head"]
        == result["parameters"]["total"]
    )
    rows = list(
        csv.DictReader(
            next(tmp_path.glob("runs/*/csv/version_0/metrics.csv")).read_text().splitlines()
        )
    )
    curve = [float(row["validation/accuracy"]) for row in rows if row["validation/accuracy"]]
    assert curve == pytest.approx([scores["accuracy"] for scores in result["metrics"]["epochs"]])


def test_bfloat16_and_a_regression_task(tmp_path):
    done = run(tmp_path, "task=mini_similarity", "trainer.precision=bf16-mixed", "method=lora_drop")
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path)["lora_drop-s0"]["metrics"]["best"]) >= {"spearman", "pearson"}
    scores_again(tmp_path)


def test_mnli_over_both_of_its_sets(tmp_path):
    """Official files; overall accuracy, and that of each set alone."""
    folder = tmp_path / "data" / "MNLI"
    folder.mkdir(parents=True)
    labels = ("entailment", "neutral", "contradiction")
    for name, rows in (("train", 60), ("dev_matched", 12), ("dev_mismatched", 9)):
        lines = [f"{i}\tthe cat sees {i} dogs\tit sees a dog\t{labels[i % 3]}" for i in range(rows)]
        (folder / f"{name}.tsv").write_text(
            "\n".join(["index\tsentence1\tsentence2\tgold_label", *lines, ""])
        )
    small = [
        "trainer.progress_bar=false",
        "recipe.epochs=1",
        "method=lora",
        f"paths.data={tmp_path / 'data'}",
    ]
    done = run_module("experiments.run", "task=mnli", *small, outputs=tmp_path)
    assert done.returncode == 0, done.stderr
    result = results(tmp_path)["lora-s0"]
    best = result["metrics"]["best"]
    assert result["evaluated_on"] == {"matched": 12, "mismatched": 9} and not result["notes"]
    whole = (12 * best["accuracy_matched"] + 9 * best["accuracy_mismatched"]) / 21
    assert best["accuracy"] == pytest.approx(whole)
    scores_again(tmp_path)


def test_table_and_figure_of_an_experiment(sweep):
    outputs, _ = sweep
    narrowed = ["demo", *SMALL, "method=lora,lora_drop", "seed=0,1"]
    table = run_module("experiments.table", *narrowed, outputs=outputs)
    assert table.returncode == 0, table.stderr
    text = (outputs / "tables" / "demo.md").read_text()
    lora = [results(outputs)[f"lora-s{seed}"]["metrics"]["last"]["accuracy"] for seed in (0, 1)]
    assert (
        f"{50 * sum(lora):.1f}" in text
        and "from 4 results in" in text
        and "64 rows of validation" in text
    )
    figure = run_module("experiments.figure", *narrowed, outputs=outputs)
    assert figure.returncode == 0, figure.stderr
    assert (outputs / "figures" / "demo.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((outputs / "figures" / "demo.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 12
    assert (
        float(rows[0]["importance"])
        == results(outputs)["lora_drop-s0"]["importance"]["normalized"]["query"]["0"]
    )


def test_a_trained_model_is_measured_once_for_its_figures(sweep):
    outputs, _ = sweep
    # a run that the sweep has made
    overrides = ["backbone=tiny_roberta", "trainer=cpu", *SMALL, "seed=0"]
    for name in ("figure2", "layer_removal"):
        drawn = run_module("experiments.figure", name, *overrides, outputs=outputs)
        assert drawn.returncode == 0, drawn.stderr
        assert (outputs / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    run = results(outputs)["lora-s0"]
    folder = outputs / "runs" / run["id"]
    found = json.loads((folder / "distribution.json").read_text())
    assert found["rows"] == 320
    assert {sum(counts) for layers in found["counts"].values() for counts in layers.values()} == {
        found["tokens"]
    }
    bins = list(csv.DictReader((outputs / "figures" / "figure2.csv").read_text().splitlines()))
    low, high = (
        sum(float(b["tokens"]) * 10 ** float(b[edge]) for b in bins if b["layer"] == "3")
        for edge in BIN
    )
    assert low <= found["tokens"] * found["mean"]["query"]["3"] <= high
    removal = json.loads((folder / "removal.json").read_text())
    assert removal["whole"]["score"] == run["metrics"]["best"]["accuracy"]
    least, most = (removal["orders"][f"{word} important first"][0] for word in ("least", "most"))
    assert least[0] == most[0] == removal["whole"] and least[-1] == most[-1] and len(least) == 13
    assert (
        least[1] == removal["alone"][str(removal["layers"][0])]
        and most[1] == removal["alone"][str(removal["layers"][-1])]
    )
    before = (folder / "removal.json").stat().st_mtime_ns
    assert (
        run_module("experiments.figure", "layer_removal", *overrides, outputs=outputs).returncode
        == 0
    )
    assert (folder / "removal.json").stat().st_mtime_ns == before


def test_a_run_without_epochs_only_measures(tmp_path):
    done = run(tmp_path, "method=lora_drop", "recipe.epochs=0", "method.sample_steps=3")
    assert done.returncode == 0, done.stderr
    (measured,) = every_result(tmp_path)
    assert measured["metrics"] is None and measured["plan"] and "only measured" in done.stdout
    trained = run(tmp_path, "method=lora_drop", "recipe.epochs=1", "method.sample_steps=3")
    assert trained.returncode == 0, trained.stderr
    fine_tuned = max(every_result(tmp_path), key=lambda result: result["metrics"] is not None)
    assert fine_tuned["stage1_cached"] and fine_tuned["importance"] == measured["importance"]
    nothing = run(tmp_path, "method=lora", "recipe.epochs=0")
    assert nothing.returncode == 1 and "method lora measures nothing" in nothing.stderr


def started(outputs: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.run", *overrides, f"paths.outputs={outputs}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), **pipes)


def test_two_processes_do_not_make_the_same_run_twice(tmp_path):
    both = [started(tmp_path, *SMALL, "method=lora") for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    seconds = [
        next(line for line in text.splitlines() if line.startswith("seconds ")) for text in printed
    ]
    assert seconds[0] == seconds[1]  # to the millisecond: of one run


def test_processes_share_the_runs_of_a_sweep_out(tmp_path):
    sweep = ("-m", *SMALL, "method=lora", "seed=0,1")
    first, second = (config["id"] for config in run_configs(sweep[1:]))
    with run_lock(tmp_path / "runs" / first):  # as another process would
        done = run_module("experiments.run", *sweep, "wait=false", outputs=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{first} is left to" in done.stdout and f"{second}: accuracy" in done.stdout
        assert "1 of 2 runs are being carried out by other processes" in done.stdout
        waiting = started(tmp_path, *sweep)
        printed = next(line for line in waiting.stdout if "waiting for it" in line)
        assert printed.startswith(first)
    text, errors = waiting.communicate()  # the other process gave it back unfinished
    assert waiting.returncode == 0, errors
    assert f"{first} ──" in text and set(results(tmp_path)) == {"lora-s0", "lora-s1"}


def test_a_table_without_runs_says_how_to_make_them(tmp_path):
    done = run_module("experiments.table", "demo", "seed=0", outputs=tmp_path)
    assert (
        done.returncode == 1 and "python -m experiments.run experiment=demo seed=0" in done.stdout
    )
    unknown = run_module("experiments.table", "table9")
    assert unknown.returncode == 2 and "Did you mean table7?" in unknown.stderr


def test_torch_is_not_imported_to_show_results():
    code = (
        "import sys, experiments.table, experiments.figure; assert not {'torch',"
        " 'pytorch_lightning'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

"""Tables show what result files and the paper say; nothing is averaged silently."""

from __future__ import annotations

import csv
import io
import itertools
import re
import statistics

import pandas as pd
import pytest
from conftest import run_module
from helpers import result_files
from rich.console import Console

from experiments import results
from experiments import table as command
from experiments.config.schema import UserError
from experiments.reporting import tables
from experiments.reporting.comparison import compare
from experiments.reporting.published import published
from experiments.reporting.statistics import AVERAGE, paired_test, ranks_of
from experiments.table import main

TASKS = ("rte", "mrpc", "stsb", "cola", "sst2", "qnli", "mnli", "qqp")
TABLE1 = "experiment=table1"


@pytest.fixture(scope="module")
def table1(tmp_path_factory):
    """All of Table 1 but VeRA on RTE and the third seed of LoRA on CoLA."""
    outputs = tmp_path_factory.mktemp("table1")

    def leave(config):
        where = tuple(config[group]["name"] for group in ("method", "task"))
        return where == ("vera", "rte") or (*where, config["seed"]) == ("lora", "cola", 2)

    done = result_files.write(outputs, TABLE1, leave=leave)
    return outputs, {(one.method, one.task, one.config["seed"]): one for one in done}


def frame(outputs, *overrides):
    return results.load([*(overrides or [TABLE1]), f"paths.outputs={outputs}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epoch", "aggregate"), list(itertools.product(results.AGGREGATES, ("mean", "median")))
)
def test_cells_are_what_result_files_and_paper_say(table1, epoch, aggregate):
    outputs, done = table1
    table = compare("table1", frame(outputs), epoch, aggregate)
    for method, task in itertools.product(("full", "lora", "vera", "lora_drop"), TASKS):
        found = [done[method, task, seed] for seed in range(3) if (method, task, seed) in done]
        runs = [one.metrics.primary_at(epoch) for one in found]
        cell, paper = (
            table.cell(method, task),
            published()["table1"]["models"]["roberta_base"][method]["tasks"][task],
        )
        assert (cell.n, cell.planned) == (len(runs), 3) and cell.paper == paper["mean"]
        if runs:
            assert cell.ours == pytest.approx(100 * getattr(statistics, aggregate)(runs))
            assert cell.std == pytest.approx(100 * statistics.stdev(runs))
            assert cell.difference == pytest.approx(cell.ours - cell.paper)
    assert table.parameters["lora"] == ("1,000", "0.29M")


def test_averages_say_what_is_missing_and_compare_like_with_like(table1):
    table = compare("table1", frame(table1[0]))
    vera, lora = table.cell("vera", AVERAGE), table.cell("lora", AVERAGE)
    assert (vera.n, vera.planned) == (7, 8) and (lora.n, lora.planned) == (8, 8)
    others = [task for task in TASKS if task != "rte"]
    assert vera.ours == pytest.approx(
        statistics.mean(table.cell("vera", task).ours for task in others)
    )
    assert vera.paper == pytest.approx(
        statistics.mean(table.cell("vera", task).paper for task in others)
    )
    assert lora.paper == 86.1  # as published; the mean is 86.075
    assert str(vera.rank) == "<NA>"  # an average over other columns is not compared
    assert table.cell("vera", "rte").n == 0


def test_the_best_and_second_best_are_marked_as_rounded(table1):
    table = compare("table1", frame(table1[0]))
    for column in (*TASKS, AVERAGE):
        for values, ranks in (("ours", "rank"), ("paper", "paper_rank")):
            cells = table.cells[(table.cells.column == column) & table.cells[values].notna()]
            if values == "ours" and column == AVERAGE:
                cells = cells[cells.n == cells.planned]
            ranked = sorted({round(value, 1) for value in cells[values]}, reverse=True)[:2]
            for cell in cells.itertuples():
                value, rank = round(getattr(cell, values), 1), getattr(cell, ranks)
                assert rank == ranked.index(value) + 1 if value in ranked else str(rank) == "<NA>"


@pytest.mark.slow
def test_markdown_latex_and_text_show_the_same(table1):
    table = compare("table1", frame(table1[0]))
    cell = table.cell("lora", "cola")
    ours, paper = f"{cell.ours:.1f}", "62.4"
    for format in ("markdown", "latex", "text"):
        text = tables.comparison(table, format)
        assert (
            ours in text
            and paper in text
            and f"{cell.difference:+.1f}" in text
            and "2 of 3" in text
        )
        assert tables.MISSING in text and "7 of 8" in text and "91.9 from the same source" in text
    assert "lora\\_drop" in tables.comparison(table, "latex")
    markup = tables.comparison(table, "html")
    assert f"{ours} ± " in markup and f"<br>{paper} ± " in markup and "style" not in markup
    assert markup.count("<tr>") == 1 + len(table.rows) and "<sup>1</sup>" in markup
    rows = list(csv.DictReader(tables.comparison(table, "csv").splitlines()))
    (named,) = (
        row["runs"].split() for row in rows if (row["row"], row["column"]) == ("lora", "cola")
    )
    assert sorted(named) == sorted(table1[1]["lora", "cola", seed].id for seed in (0, 1))
    assert len(rows) == 6 * 9 and {row["row"] for row in rows} == set(table.rows)


@pytest.mark.slow
def test_the_command_prints_and_saves_the_table(table1):
    outputs, done = table1
    for format, suffix in tables.SUFFIXES.items():
        shown = run_module(
            "experiments.table", "table1", "--format", format, "--epoch", "last", outputs=outputs
        )
        assert shown.returncode == 0, shown.stderr
        assert "4 of 144 runs are missing" in shown.stdout and "last epoch" in shown.stdout
        text = (outputs / "tables" / f"table1.{suffix}").read_text()
        assert f"{len(done)} results" in text or format == "csv"
    assert "Wilcoxon" in shown.stdout


@pytest.mark.slow
def test_a_table_without_a_paper_has_the_epoch_and_the_aggregate_that_are_asked_for(tmp_path):
    done = result_files.write(tmp_path, "experiment=demo", "method=lora")
    scores = sorted(100 * one.metrics.primary_at("last") for one in done)
    arguments = ("demo", "method=lora", "--epoch", "last", "--aggregate", "median")
    shown = run_module("experiments.table", *arguments, outputs=tmp_path, COLUMNS="80").stdout
    assert shown.startswith("median ± standard deviation over seeds, in percent, at the last epoch")
    assert f" {scores[1]:.1f} ± " in shown and scores[1] != pytest.approx(sum(scores) / 3, abs=0.1)
    assert "Median ± std" in (tmp_path / "tables" / "demo.md").read_text()


def test_the_paired_test_is_that_of_its_pairs(table1):
    outputs, done = table1
    rows = frame(outputs)
    text = paired_test(rows[rows.status == results.FINISHED], "best")
    pairs = [
        (task, seed)
        for task, seed in itertools.product(TASKS, range(3))
        if ("lora", task, seed) in done
    ]
    gaps = [
        done["lora_drop", task, seed].metrics.primary_at("best")
        - done["lora", task, seed].metrics.primary_at("best")
        for task, seed in pairs
    ]
    wins = sum(gap > 0 for gap in gaps)
    assert (
        f"{100 * statistics.mean(gaps):+.2f} points on average over 23 pairs" in text
        and f"{wins} won" in text
    )
    # by definition: how many of the 2^23 ways to give the ranks signs are as extreme
    order = sorted(range(len(gaps)), key=lambda i: abs(gaps[i]))
    plus = sum(rank for rank, i in enumerate(order, 1) if gaps[i] > 0)
    ways = [1] + [0] * (23 * 24 // 2)
    for rank in range(1, 24):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    smaller = min(plus, 23 * 24 // 2 - plus)
    p = min(1.0, 2 * sum(ways[: smaller + 1]) / 2**23)
    assert f"p = {p:.3f}" in text
    few = rows[(rows.status == results.FINISHED) & (rows.task == "rte")]
    assert "too few" in paired_test(few, "best")


def test_the_test_of_pairs_is_exact_with_ties():
    gaps = [1.0, -1.0, 2.0, 2.0, -3.0, 0.5]
    ranks = [2.5, 2.5, 4.5, 4.5, 6.0, 1.0]  # of the gaps without their signs, ties in the middle
    least = min(
        sum(r for r, gap in zip(ranks, gaps, strict=True) if gap * sign > 0) for sign in (1, -1)
    )
    signs = list(itertools.product((0, 1), repeat=6))
    as_small = sum(sum(itertools.compress(ranks, chosen)) <= least for chosen in signs)
    cells = [("lora", 0.5)] * 6 + [("lora_drop", 0.5 + gap / 100) for gap in gaps]
    rows = pd.DataFrame(cells, columns=["method", "best"])
    rows = rows.assign(backbone="b", task="t", seed=[*range(6), *range(6)])
    assert f"p = {2 * as_small / len(signs):.3f}." in paired_test(rows, "best")


def test_a_study_compares_the_values_of_a_key_in_pairs(tmp_path, capsys):
    """The stored configs of the output's runs lack the key, as those of older results do."""
    gain = {"output": 0.5, "weight_norm": 0.4, "random": 0.5}

    def metrics(config):
        criterion = config["method"].pop("criterion")
        if criterion != "output":
            config["method"]["criterion"] = criterion
        return [gain[criterion] + config["seed"] / 100]

    sweep = ["task=rte,cola", "method.criterion=output,weight_norm,random", "seed=0,1,2"]
    result_files.write(tmp_path, "experiment=criteria", *sweep, metrics=metrics)
    main(["criteria", *sweep, f"paths.outputs={tmp_path}"])
    shown = (tmp_path / "tables" / "criteria.md").read_text()
    settings = re.findall(r"method\.criterion=(\w+)", shown)
    assert {"output", "weight_norm", "random"} <= set(settings)
    assert (
        "weight_norm - output, paired by task and seed: -10.00 points on average "
        "over 6 pairs: 0 won, 0 tied, 6 lost; Wilcoxon signed-rank p = 0.031." in shown
    )
    assert "random - output, paired by task and seed: +0.00 points on average over 6 pairs" in shown
    assert "weight_norm - output" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_of_one_method_are_told_apart_by_what_differs(tmp_path):
    result_files.write(
        tmp_path, "experiment=table6", metrics=lambda config: [config["method"]["threshold"] / 2]
    )
    table = compare("table6", frame(tmp_path, "experiment=table6"))
    assert {row: table.cell(row, "rte").ours for row in table.rows} == {
        f"T={t}": pytest.approx(50 * float(t)) for t in ("1", "0.95", "0.9", "0.8", "0.7")
    }
    average = table.cell("T=1", AVERAGE)
    assert "81.9" in average.note and average.paper == 82.0
    # the made-up plans keep six of twelve layers
    assert table.layers["T=0.9"] == ("query 6.0, value 6.0", "query 5, value 7")
    assert "| query 6.0, value 6.0<br>query 5, value 7 |" in tables.comparison(table, "markdown")


@pytest.mark.slow
def test_another_backbone_has_no_numbers_of_the_paper(tmp_path):
    mini = ["experiment=table1", "backbone=tiny_roberta", "task=mini_sentiment", "seed=0"]
    result_files.write(tmp_path, *mini)
    table = compare("table1", frame(tmp_path, *mini))
    assert table.columns == ("mini_sentiment", AVERAGE) and table.cells.paper.isna().all()
    shown = tables.comparison(table, "markdown")
    assert "Best **bold**" in shown and "paper" not in shown
    assert "here on tiny_roberta" in table.caption and table.parameters["lora"] == ("1,000", "")


def test_generated_texts_are_compared_by_every_reading_of_a_metric(tmp_path):
    others = {"rouge_l": 0.4, "char_bleu4": 0.6, "e2e_nist": 8.5, "dart_ter": 0.46}
    result_files.write(tmp_path, "experiment=table5", primary="bleu", others=others)
    table = compare("table5", frame(tmp_path, "experiment=table5"))
    cell = table.cell("lora", "e2e char_bleu4 (as bleu)")
    assert (cell.ours, cell.paper) == (pytest.approx(60), 53.7) and table.cell(
        "lora", "dart rouge_l"
    ).paper == 42.92
    assert AVERAGE not in table.columns and "characters" in table.cell("lora", "e2e bleu").note
    # two digits, as printed: with one, 35.94 and 35.92 would share a rank
    assert [table.cell(row, "e2e rouge_l").paper_rank for row in ("full", "lora")] == [1, 2]
    assert str(table.cell("lora_drop", "e2e rouge_l").paper_rank) == "<NA>"
    shown = tables.comparison(table, "markdown")
    assert all(text in shown for text in ("35.94", "35.92", "53.70"))
    # the official scores have no number of the paper's, and NIST is no fraction
    nist = table.cell("lora", "e2e e2e_nist")
    assert nist.ours == 8.5 and pd.isna(nist.paper)
    assert "bleu with bleu and char_bleu4, rouge_l with rouge_l and llama_factory_rouge_l" in shown
    assert "For comparison with other work: e2e_bleu, e2e_nist," in shown
    old = table.cell("lora", "e2e llama_factory_rouge_l (as rouge_l)")
    assert (old.n, old.planned) == (0, 1)  # results may be older than a score


def test_the_lowest_error_rate_is_the_best():
    cells = pd.DataFrame({"column": "dart dart_ter", "ours": [46.0, 44.0, 45.0]})
    cells[["n", "planned"]] = 1
    assert list(ranks_of(cells, "ours", 1).fillna(0)) == [0, 1, 2]


@pytest.mark.slow
def test_columns_of_several_metrics(tmp_path):
    narrowed = ["experiment=prilora", "task=stsb", "seed=0"]
    result_files.write(
        tmp_path, *narrowed, primary="spearman", metrics=lambda _: [0.8], others={"pearson": 0.9}
    )
    table = compare("prilora", frame(tmp_path, *narrowed))
    assert (
        table.cell("lora", "stsb").ours == pytest.approx(85)
        and table.cell("lora", "stsb").paper == 91.6
    )
    assert table.cell("adalora_1.27M", "stsb").n == 1 and table.cell("lora_rank_2", "stsb").n == 0


@pytest.mark.slow
def test_several_columns_of_a_task_count_as_one(tmp_path):
    narrowed = ["experiment=prilora", "task=mnli,rte", "seed=0"]
    others = {"accuracy_matched": 0.8, "accuracy_mismatched": 0.9}
    result_files.write(tmp_path, *narrowed, metrics=lambda _: [0.6], others=others)
    table = compare("prilora", frame(tmp_path, *narrowed))
    average = table.cell("lora", AVERAGE)
    assert average.ours == pytest.approx((85 + 60) / 2) and (average.n, average.planned) == (2, 8)
    assert average.paper == pytest.approx(((90.65 + 90.69) / 2 + 85.2) / 2)
    nothing = table.cell(
        "pfeiffer_1.18M", AVERAGE
    )  # a row that is not run: the paper's own average, and no run is missing
    assert (nothing.n, nothing.planned, nothing.paper) == (0, 0, 88.24)
    assert table.cell("houlsby_1.22M", "rte").n == 1 and table.left_out == ()


def test_a_run_belongs_to_the_row_that_says_most_of_it(tmp_path):
    narrowed = ["experiment=prilora", "method=lora", "task=rte", "seed=0", "method.rank=2,8"]
    result_files.write(tmp_path, *narrowed)
    table = compare("prilora", frame(tmp_path, *narrowed))
    named = [table.cell(row, "rte").runs for row in ("lora", "lora_rank_2")]
    assert all(len(ids.split()) == 1 for ids in named) and named[0] != named[1]


def test_settings_are_not_averaged_over(tmp_path):
    narrowed = ["experiment=table1", "task=rte", "method=lora", "method.rank=4,8"]
    with pytest.raises(
        UserError, match=r"the row lora has runs of rte that differ in more than the seed"
    ):
        compare("table1", frame(tmp_path, *narrowed))
    other = ["experiment=table6", "task=rte", "seed=0", "method.threshold=0.85"]
    result_files.write(tmp_path, *other)
    table = compare("table6", frame(tmp_path, *other))
    assert table.left_out == ("lora_drop",) and "belong to no row" in tables.comparison(
        table, "text"
    )


def test_what_a_format_reads_as_its_own_is_escaped():
    table = pd.DataFrame({"a|b": ["[bold]x[/]", "50 % of $_{i}"], "n": ["1", "2"]})
    assert "a\\|b" in tables.frame(table, "markdown") and "[bold]x[/]" in tables.frame(
        table, "text"
    )
    latex = tables.frame(table, "latex")
    assert "50 \\% of \\$\\_\\{i\\}" in latex and "a\\textbar{}b" in latex


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_in_a_terminal(table1, width):
    console = Console(file=io.StringIO(), width=width)
    for part in tables.for_terminal(compare("table1", frame(table1[0])), width):
        console.print(part, soft_wrap=isinstance(part, str))
    shown = console.file.getvalue()
    assert "…" not in shown and all(task in shown for task in (*TASKS, AVERAGE, "sparse_adapter"))


@pytest.mark.parametrize("name", sorted(published()))
def test_footnotes_are_of_cells_that_are_there(name):
    ((_, rows),) = published()[name]["models"].items()
    columns = {AVERAGE, *(task for row in rows.values() for task in row["tasks"] or ())}
    columns |= {
        metric
        for row in rows.values()
        for value in (row["tasks"] or {}).values()
        for metric in value
    }
    for note in published()[name].get("footnotes", ()):
        assert note["row"] is None or note["row"] in rows
        assert note["column"] is None or note["column"] in columns


def test_the_papers_averages_are_as_published_but_where_a_footnote_says_so():
    for name, table in published().items():
        if name == "prilora":  # counts two metrics of a task as one
            continue
        ((_, rows),) = table["models"].items()
        noted = {note["row"] for note in table.get("footnotes", ()) if note["column"] == AVERAGE}
        for key, row in rows.items():
            if "avg_stated" in row:
                mean = statistics.mean(value["mean"] for value in row["tasks"].values())
                assert abs(mean - row["avg_stated"]) <= 0.0501 or key in noted, (name, key, mean)


def test_results_of_several_library_versions_are_named(tmp_path, capsys):
    demo = ("demo", "method=lora", f"paths.outputs={tmp_path}")
    done = result_files.write(tmp_path, "experiment=demo", *demo[1:])
    for one, version in zip(done, ("2.12.0", "2.13.0", "2.13.0"), strict=True):
        results.write(tmp_path, one.model_copy(update={"versions": {"torch": version, "a": "1"}}))
    assert command.main(list(demo)) == 0
    line = "Made with different versions (results): torch 2.12.0 (1), 2.13.0 (2)."
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in (tmp_path / "tables" / "demo.md").read_text()

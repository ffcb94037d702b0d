"""The benchmarks' arithmetic, and that contestants do the same work. No test asserts a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import loradrop
from experiments.benchmark import __main__ as command
from experiments.benchmark import (
    aims,
    equal_steps,
    growth,
    limit,
    measuring,
    page,
    stand_ins,
    training,
)
from experiments.benchmark.training_turn import Case
from experiments.benchmark.turns import Worker, median_ratio, take_turns
from loradrop.lora.peft import adapted_sites


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    shape = replace(stand_ins.SHAPES["minilm"], layers=2, hidden=24, intermediate=48)
    monkeypatch.setitem(stand_ins.SHAPES, "small", shape)
    return "small"


def test_every_second_round_runs_in_the_opposite_order() -> None:
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    assert take_turns(contestants, 2) == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert order == list("abccba")


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert median_ratio([2, 30, 4], [1, 10, 4]) == 2


def _echo(value: float) -> Callable[[], Mapping[str, float]]:
    return lambda: {"value": value}


def _die() -> Callable[[], Mapping[str, float]]:
    os._exit(3)


@pytest.mark.slow
def test_a_worker_answers_or_its_end_is_said() -> None:
    with Worker(_echo, (4.0,)) as worker:
        assert worker.turn() == {"value": 4.0}
        assert worker.peak_bytes() > 0
    with Worker(_die) as worker, pytest.raises(RuntimeError, match="ended with status 3"):
        worker.turn()


@pytest.mark.parametrize("task", stand_ins.LENGTHS)
def test_rows_have_the_lengths_of_the_task(task: str) -> None:
    lengths = stand_ins.row_lengths(task, 4000)
    quartiles = np.percentile(lengths, (25, 50, 75))
    assert quartiles == pytest.approx(np.array(stand_ins.LENGTHS[task])[[5, 10, 15]], abs=1)
    assert max(lengths) <= stand_ins.MAX_LENGTH


def test_texts_have_the_tokens_that_were_asked_for(tmp_path: Path, small: str) -> None:
    from transformers import AutoTokenizer

    stand_ins.write_data(tmp_path / "data", "cola", 50)
    tokenizer = AutoTokenizer.from_pretrained(stand_ins.write_model(tmp_path, small))
    lines = (tmp_path / "data/SST-2/train.tsv").read_text().splitlines()[1:]
    ids = tokenizer([line.split("\t")[0] for line in lines])["input_ids"]
    assert [len(row) for row in ids] == [max(3, n) for n in stand_ins.row_lengths("cola", 50)]


def test_both_ways_to_measure_agree(tmp_path: Path, small: str) -> None:
    model = measuring.adapted(stand_ins.write_model(tmp_path, small), small)
    batches = measuring.batches_of("cola", 2)
    importance, plain = loradrop.measure(model, batches), measuring.hooked_pass(model, batches)
    for site in adapted_sites(model):
        expected = pytest.approx(plain[site.name], rel=1e-4)
        assert importance.values[site.module_type][site.layer] == expected


def test_operations_of_a_step_are_those_of_its_products(tmp_path: Path, small: str) -> None:
    """Against torch's own counter, which leaves out the optimiser."""
    from torch.utils.flop_counter import FlopCounterMode

    step = limit.Step(stand_ins.write_model(tmp_path, small), small, 16, rank=4)
    with FlopCounterMode(display=False) as counter:
        step()
    expected = limit.step_flops(step.model, limit.BATCH_SIZE * 16, 16, 24)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.15)


def test_equal_steps_give_the_loss_of_peft(tmp_path: Path, small: str) -> None:
    found = equal_steps.losses(stand_ins.write_model(tmp_path, small), small)
    assert found["loradrop"] == pytest.approx(found["PEFT"], rel=1e-5)
    assert found["PEFT"] != pytest.approx(math.log(2), abs=1e-6)  # it has trained


def test_the_exponent_of_growth() -> None:
    assert growth.exponent({"2": 1.0, "8": 16.0}) == pytest.approx(2)


@pytest.mark.slow
def test_every_contestant_trains_on_what_stands_for_an_epoch(tmp_path: Path, small: str) -> None:
    """The first steps of an epoch do not: the Trainer's groups begin with their longest rows."""
    case = Case(small, "sst2", batch_size=16, steps=8)
    stand_ins.write_model(tmp_path / "models", small)
    stand_ins.write_data(tmp_path / "sst2", "sst2", 2048)
    expected = case.steps * case.batch_size * np.mean(stand_ins.row_lengths("sst2", 2048))
    threads = torch.get_num_threads()
    try:
        for name, (prepare, options) in training.CONTESTANTS.items():
            found = prepare(tmp_path, case, *options)()
            assert found["seconds"] > 0, name
            assert found["tokens"] == pytest.approx(expected, rel=0.08), name
    finally:
        torch.set_num_threads(threads)


def test_chosen_batches_are_evenly_spaced_by_their_longest_row() -> None:
    case = Case("minilm", "cola", batch_size=2, steps=2)
    lengths = [9, 1, 4, 3, 6, 5, 7, 2]
    assert case.chosen(range(8), lengths) == [[4, 5], [0, 1]]  # longest rows: 4, 6, 7 and 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["trainin"], "there is no benchmark 'trainin'"), (["--rounds", "0"], "at least 1")],
)
def test_mistakes_are_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_the_page_shows_the_stored_results() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.rendered(text) == text
    shown = {name for _, name, _ in page.BLOCK.findall(text)}
    assert shown == {"aims", *page.TABLES} == {"aims", *command.BENCHMARKS}
    assert {path.stem for path in page.RESULTS.glob("*.json")} <= shown


@pytest.mark.parametrize(("value", "met"), [(1.02, "yes"), (1.03, "yes"), (1.04, "no: because")])
def test_the_page_says_whether_an_aim_is_met(value: float, met: str) -> None:
    aim = aims.Aim("measuring", "m", lambda found: found["worst"], 1.03, "because")
    assert aim.line({"m": {"worst": value}})["met"] == met
    assert aim.line({})["measured"] == "not yet"
    least = replace(aim, at_least=True)
    assert least.line({"m": {"worst": value}})["met"].startswith("no" if value < 1.03 else "yes")

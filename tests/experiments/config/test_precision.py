"""trainer.precision=auto: what the hardware says, and that numbers and ids agree."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import run_module

from experiments.config import precision
from experiments.config.identity import run_id
from experiments.config.schema import UserError
from experiments.config.sweep import expand_sweep, run_configs
from experiments.config.validation import check

AUTO = "trainer.precision=auto"
GPU = "trainer=gpu"


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """Let the CPU have the given flags; None: a system that does not list them."""

    def give(text: str | None) -> None:
        path = tmp_path / f"cpuinfo-{text}"
        if text is not None:
            path.write_text(
                "processor\t: 0\nmodel name\t: avx512_bf16 by name alone\nflags\t\t:"
                f" {text}\nbugs\t\t: amx_bf16\n\n"
            )
        monkeypatch.setattr(precision, "CPUINFO", path)

    return give


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("fpu avx2 avx512f avx512_bf16", "bf16-mixed"),
        ("fpu amx_tile amx_bf16 amx_int8", "bf16-mixed"),
        ("fpu avx2 avx512f avx512bw avx512_vnni", "32-true"),  # torch would emulate bf16
        ("fpu amx_tile amx_int8", "32-true"),
        ("", "32-true"),
        (None, "32-true"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_has_units_for_it(flags, text, taken):
    flags(text)
    (auto,), (named,) = expand_sweep([AUTO]), expand_sweep([f"trainer.precision={taken}"])
    assert auto == named and run_id(auto) == run_id(named)
    check(auto)


def test_two_kinds_of_machine_have_two_ids_and_no_plan_is_carried_over(flags):
    overrides = [AUTO, "method=lora,lora_drop"]
    ids = []
    for text in ("amx_bf16", "avx2"):
        flags(text)
        ids.append([config["id"] for config in run_configs(overrides)])
    assert not set(ids[0]) & set(ids[1])
    # the default, float32
    assert ids[1] == [config["id"] for config in run_configs([o for o in overrides if o != AUTO])]


def test_float32_is_never_replaced(flags):
    flags("amx_bf16")
    (config,) = expand_sweep([])
    assert config.trainer.precision == "32-true" and precision.resolve_precision(config) is None


@pytest.mark.parametrize(("computes", "taken"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_asks_the_gpu_of_a_run_on_one(flags, monkeypatch, computes, taken):
    flags("" if computes else "amx_bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or computes,
    )
    cpu, gpu = expand_sweep([AUTO, "trainer.accelerator=cpu,gpu"])
    assert gpu.trainer.precision == taken
    assert cpu.trainer.precision != taken  # the first of a sweep does not decide for all


def test_without_the_gpu_what_auto_stands_for_is_not_guessed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=r"trainer.precision=auto depends on the GPU.*trainer.precision=bf16-mixed"
    ):
        expand_sweep([GPU, AUTO])


def test_a_misspelt_precision_is_told_of_auto():
    (config,) = expand_sweep(["trainer.precision=atuo"])
    with pytest.raises(ValueError, match=r"32-true, bf16-mixed, 16-mixed, auto, got 'atuo'"):
        check(config)


@pytest.mark.slow
def test_a_run_says_in_one_line_and_in_its_result_what_it_took(tmp_path):
    small = [
        "task.train_size=32",
        "task.validation_size=32",
        "recipe.epochs=1",
        "trainer.num_threads=1",
        "method=lora",
    ]
    done = run_module("experiments.run", *small, AUTO, outputs=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    (path,) = tmp_path.glob("runs/*/result.json")
    result = json.loads(path.read_text())
    units = precision.cpu_units()
    taken = "bf16-mixed" if units else "32-true"
    assert (
        result["config"]["trainer"]["precision"] == taken
        and result["hardware"]["bf16_units"] == units
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(AUTO))
    assert taken in line and all(unit in line for unit in units)
    again = run_module("experiments.run", *small, f"trainer.precision={taken}", outputs=tmp_path)
    assert f"{result['id']}: finished already" in again.stdout

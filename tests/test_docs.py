"""Each command and path in the Markdown files resolves; README's code runs; the notebook's cells
run.
"""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_model, train_b
from datasets import Dataset
from peft import PeftModel
from transformers import TrainingArguments, default_data_collator

import loradrop
from experiments.config.catalog import names
from experiments.config.sweep import as_config, run_configs
from experiments.config.validation import check
from experiments.table import PARAMETERS

TRACKED = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
).stdout.split()
PAGES = [ROOT / name for name in TRACKED]
SHOWN = ("experiments.table", "experiments.figure", "experiments.status")
TOP = ("conf", "loradrop", "experiments", "notebooks", "outputs", "tests", "docs")


def commands(page: Path) -> list[str]:
    """Lines of fenced shell blocks and inline code that start a command of ours."""
    text = page.read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    lines += [
        code.replace("\n", " ")
        for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    return [
        line
        for line in lines
        if re.match(r"(make|(\.venv/bin/)?python3?( -m)?) \S", line) and "<" not in line
    ]


def ids(values):
    return [str(v.relative_to(ROOT)) for v in values]


def test_there_are_pages_with_commands():
    assert len(PAGES) >= 4 and sum(len(commands(page)) for page in PAGES) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_command_resolves(page, monkeypatch):
    for key in ("LORADROP_MODELS", "LORADROP_DATA"):
        monkeypatch.delenv(key, raising=False)
    targets = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE), *names()}
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            assert {
                word for word in words[1:] if not word.startswith("-") and "=" not in word
            } <= targets, command
            continue
        assert words[1] == "-m", command
        module, first = words[2], [word for word in words[3:4] if not word.startswith("-")]
        arguments = first + [word for word in words[4:] if "=" in word]
        if module == "pytest":
            continue
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), command
        if module == "experiments.table" and arguments[0] == PARAMETERS:
            continue
        if module in SHOWN:
            arguments[0] = f"experiment={arguments[0]}"
        if module in ("experiments.run", *SHOWN):
            for config in run_configs(arguments):
                check(as_config(config))


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_path_resolves(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for code in re.findall(r"`([^`\s<>*{}]+/[^`\s<>*{}]*)`", text):
        if code.split("/")[0] in TOP and code.split("/")[0] != "outputs":
            assert (ROOT / code).exists(), code


@pytest.mark.slow
def test_the_guides_script_runs_on_a_model_of_peft(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "loradrop" / "docs" / "guide.md").read_text(), re.DOTALL
    )
    draw = random.Random(0)
    rows = [
        {"input_ids": [draw.randrange(3, 60) for _ in range(8)], "labels": i % 2} for i in range(40)
    ]
    names = {
        "model": tiny_model(),
        "train": Dataset.from_list(rows),
        "collate": default_data_collator,
    }
    names["arguments"] = TrainingArguments(
        "out", num_train_epochs=2, use_cpu=True, report_to=[], save_strategy="no"
    )
    exec(code, names)
    assert names["drop"].plan == loradrop.plan_of(names["model"])
    inputs = {"input_ids": torch.tensor([row["input_ids"] for row in rows[:4]])}
    loaded = PeftModel.from_pretrained(tiny_model(), "adapter").eval()
    assert torch.equal(loaded(**inputs).logits, names["model"].eval()(**inputs).logits)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    (command,) = re.findall(
        r"^\t\$\(BIN\)/python -m (sphinx .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    words = [str(tmp_path) if word == "outputs/docs" else word for word in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "mean squared norm" in (tmp_path / "api.html").read_text()
    assert "from a PEFT script" in (tmp_path / "guide.html").read_text()


def test_the_code_in_the_readme_runs(batch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    model = tiny_model()
    names = {"model": model, "batches": [batch]}
    first, rest = code.split("importance = ")
    exec(first, names)
    train_b(model)  # "train on a sample, as you like"
    printed = []
    exec("importance = " + rest, names | {"print": lambda plan: printed.append(str(plan))})
    plan = loradrop.plan_of(model)
    assert printed == [str(plan)] and "own LoRA in layer" in printed[0]
    assert 0 < sum(p.numel() for p in model.parameters() if p.requires_grad) == plan.parameters

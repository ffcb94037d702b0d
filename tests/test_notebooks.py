"""The notebooks run, on the result files that the project ships."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

import experiments.results

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(path):
    return [
        "".join(c["source"])
        for c in json.loads(path.read_text())["cells"]
        if c["cell_type"] == "code"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    names: dict = {}
    for cell in code(path):
        exec(re.sub(r"^%.*$", "", cell, flags=re.MULTILINE), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_outputs_and_without_logic(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells) and any(cell["outputs"] for cell in cells)
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    if path.stem != "your_own_model":
        assert not any(word in cell for cell in code(path) for word in ("def ", "for ", "lambda"))


def test_missing_results_are_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"start with: python -m experiments\.run experiment=table7 .*backbone=tiny_roberta",
    ):
        experiments.results.frames.load("table7", tmp_path, finished=True, mini=True)

"""Progress bars: none without a terminal, readable on a narrow one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from experiments.common import console
from experiments.runner.trainer import StageBar


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_needs_a_terminal(monkeypatch, is_terminal):
    monkeypatch.setattr(console, "terminal", Console(force_terminal=is_terminal))
    assert console.shows_progress() == is_terminal
    monkeypatch.setattr(console.multiprocessing.current_process(), "_name", "LokyProcess-1")
    assert not console.shows_progress()  # several workers on one terminal


def test_at_40_columns_the_stage_and_the_batches_are_whole(monkeypatch):
    monkeypatch.setattr(
        console, "terminal", Console(file=io.StringIO(), force_terminal=True, width=40)
    )
    bar = StageBar("training")
    progress = Progress(*bar.configure_columns(None), console=console.terminal)
    progress.add_task("training, epoch 12 of 30", total=3125, completed=1200)
    console.terminal.print(progress.get_renderable())
    assert "training, epoch 12 of 30 1200/3125" in console.terminal.file.getvalue()
    assert bar.get_metrics(None, None) == {}

"""Neither the tests nor the project depend on the machine's settings, locale or workload
manager."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment

TEXT = {"read_text", "write_text"}
USERS = {
    "LORADROP_MODELS": "/no/models",
    "LORADROP_DATA": "/no/data",
    "HF_TOKEN": "token",
    "HF_HOME": "/no/home",
    "WANDB_API_KEY": "key",
    "WANDB_MODE": "online",
    "HYDRA_FULL_ERROR": "1",
    "COLUMNS": "40",
    "LC_ALL": "tr_TR.UTF-8",
    "LANG": "tr_TR",
    "SLURM_JOB_ID": "7",
    "GIT_DIR": "/no/git",
    "https_proxy": "http://127.0.0.1:9",
    "HOME": "/no/home",
    "OMP_NUM_THREADS": "7",
}


def test_the_users_settings_reach_no_test(tmp_path):
    code = (
        "import isolation, os; print(dict(os.environ), isolation.DATA,"
        " os.path.isdir(os.environ['HOME']))"
    )
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "tests"),
        "TMPDIR": str(tmp_path),
        **USERS,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=env
    )
    assert done.returncode == 0, done.stderr
    left, _, rest = done.stdout.rpartition("} ")
    found = ast.literal_eval(left + "}")
    assert rest == "/no/data True\n"  # where the tests of real data look
    # with values of the tests' own
    kept = {"HOME", "HF_HOME", "LC_ALL", "COLUMNS", "OMP_NUM_THREADS"}
    assert not (set(USERS) - kept) & set(found) and all(found[name] != USERS[name] for name in kept)
    # it is gone with its owner
    assert Path(found["HOME"]).is_relative_to(tmp_path) and not list(tmp_path.iterdir())


def test_a_background_job_can_interrupt_its_runs(tmp_path):
    """A shell starts it with SIGINT ignored, which its children would inherit: their Ctrl-C would
    never come.
    """
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    code = f"import isolation, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path)}
    shell = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable]
    for program, heard in ((code, "True"), (child, "False")):  # the latter: the trap has its effect
        done = subprocess.run([*shell, program], capture_output=True, encoding="utf-8", env=env)
        assert done.stdout == f"{heard}\n", done.stderr


def test_no_text_file_is_read_or_written_in_the_locales_encoding():
    """A result that holds a ± must be the same file everywhere."""
    found = []
    for path in [*(ROOT / "loradrop").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in TEXT
            )
            if called and not any(keyword.arg == "encoding" for keyword in node.keywords):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, f'say encoding="utf-8": {found}'


@pytest.mark.slow
def test_a_run_beside_slurms_srun_says_nothing_of_it(tmp_path):
    command = tmp_path / "bin" / "srun"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    command.chmod(0o755)
    env = clean_environment() | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    small = [
        "task=mini_sentiment",
        "task.train_size=64",
        "task.validation_size=32",
        "recipe.epochs=1",
        "method=lora_drop",
    ]
    quiet = ["trainer.progress_bar=false", f"paths.outputs={tmp_path / 'outputs'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *small, *quiet],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert "`srun`" not in done.stdout + done.stderr and "Warning" not in done.stderr

"""Whole runs that are killed or run out of disk, again and again: in the end the same files, byte
for byte, as of runs that nothing happened to. Minutes: `make test-faults` alone runs them.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment
from helpers.faults import LONG, report

from experiments.common.files import HOLDER, LOCK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LONG, reason="takes minutes: make test-faults"),
]

COMMAND = (
    *(sys.executable, "-m", "experiments.run", "-m", "method=lora,lora_drop", "seed=0,1"),
    *("trainer.num_threads=1", "trainer.progress_bar=false", "trainer.checkpoint_minutes=0"),
    *("task=mini_sentiment", "task.train_size=320", "task.validation_size=64", "recipe.epochs=2"),
    *("method.dropout=0.1", "paths.models=null", "paths.data=null"),
)
ATTEMPTS = 6
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# mounts a disk of so many kilobytes at the outputs, runs the command, makes room, runs it again
SMALL_DISK = """
import subprocess, sys
size, outputs, *command = sys.argv[1:]
for options in (f"size={size}k", "remount,size=64m"):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", outputs], check=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(done.returncode, "Traceback" in done.stdout + done.stderr)
subprocess.run(["cp", "-r", f"{outputs}/.", f"{outputs}-copy"], check=True)
"""


def start(outputs: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, f"paths.outputs={outputs}"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def numbers(outputs: Path) -> dict[str, tuple]:
    """What must not depend on interruptions, by run."""
    found = {}
    for path in sorted(outputs.glob("runs/*/result.json")):
        result = json.loads(path.read_text())
        facts = [result[key] for key in ("status", "metrics", "importance", "plan", "parameters")]
        found[path.parent.name] = (*facts, (path.parent / "adapter.safetensors").read_bytes())
    return found


def finished(outputs: Path) -> dict[str, bytes]:
    """The results that are written, byte for byte."""
    return {path.parent.name: path.read_bytes() for path in outputs.glob("runs/*/result.json")}


def left_behind(outputs: Path) -> list[str]:
    """Temporary files and checkpoints."""
    hidden = (p.name for p in outputs.rglob(".*") if p.name not in (LOCK, HOLDER))
    return [*hidden, *(p.name for p in outputs.rglob("*.ckpt"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed")
    process = start(outputs)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert len(numbers(outputs)) == 4
    return numbers(outputs)


@pytest.mark.parametrize("signum", SIGNALS)
def test_ended_at_random_moments(undisturbed, tmp_path, signum):
    draw, counts = random.Random(signum), Counter()
    for _ in range(ATTEMPTS):
        process = start(tmp_path)
        try:
            printed, _ = process.communicate(timeout=draw.uniform(4, 40))
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
            printed, _ = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode in (-signum, 128 + signum), printed  # -signum: at its very end
        assert "Traceback" not in printed, printed
        if signum != signal.SIGKILL:
            assert not [name for name in left_behind(tmp_path) if not name.endswith(".ckpt")]
        counts[f"exit status {process.returncode}"] += 1
    else:
        process = start(tmp_path)
        assert process.communicate() and process.returncode == 0
    counts["finished runs lost"] = 4 - len(numbers(tmp_path))
    report(f"{signal.Signals(signum).name} in a sweep of 4 runs", counts)
    assert numbers(tmp_path) == undisturbed
    for folder in ("runs", "cache/stage1"):
        assert left_behind(tmp_path / folder) == []


def test_four_processes_share_a_sweep_and_are_killed(undisturbed, tmp_path):
    draw, counts = random.Random(4), Counter()
    processes = [start(tmp_path) for _ in range(4)]
    first = {}  # each result as it was when it was first seen
    for _ in range(ATTEMPTS):
        time.sleep(draw.uniform(4, 20))
        first = finished(tmp_path) | first
        place = draw.randrange(len(processes))
        processes[place].kill()
        printed, _ = processes[place].communicate()
        assert "Traceback" not in printed, printed
        counts["killed" if processes[place].returncode else "done before"] += 1
        processes[place] = start(tmp_path)
    for process in processes:
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
    assert first.items() <= finished(tmp_path).items()  # no finished run was made again
    counts["finished runs lost"] = 4 - len(numbers(tmp_path))
    report("SIGKILL in four processes that share a sweep of 4 runs", counts)
    assert numbers(tmp_path) == undisturbed
    assert left_behind(tmp_path / "runs") == []


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's unshare and mount")
def test_a_small_disk(undisturbed, tmp_path):
    counts = Counter()
    for size in (40, 600, 1200, 2000):  # kilobytes; a whole sweep takes about 3000
        outputs = tmp_path / str(size)
        outputs.mkdir()
        command = [sys.executable, "-c", SMALL_DISK, str(size), str(outputs), *COMMAND]
        done = subprocess.run(
            ["unshare", "-rm", *command, f"paths.outputs={outputs}"],
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
        )
        if "Operation not permitted" in done.stderr:
            pytest.skip("a user may not mount a disk here")
        assert done.returncode == 0, done.stderr
        full, room = (line.split() for line in done.stdout.splitlines())
        assert full[1] == room[1] == "False" and room[0] == "0", done.stdout
        counts["told and taken up again" if full[0] == "1" else "finished all the same"] += 1
        assert numbers(Path(f"{outputs}-copy")) == undisturbed
    report("disk of 40 to 2,000 kB for a sweep of 4 runs", counts)

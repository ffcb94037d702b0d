"""Processes spread over the GPUs of a machine."""

from __future__ import annotations

import tempfile

import torch

from experiments.runner import gpus


def test_each_process_takes_the_gpu_that_fewest_use(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus, "_name", lambda gpu: f"GPU-{gpu}")
    processes = []
    for _ in range(4):
        monkeypatch.setattr(gpus, "_held", [])  # another process
        taken = gpus.least_used_gpu()
        assert taken == gpus.least_used_gpu()  # which keeps it
        processes.append(gpus._held[0])
    assert [gpu for gpu, _ in processes] == [0, 1, 0, 1]
    processes[1][1].release()  # it has ended
    monkeypatch.setattr(gpus, "_held", [])
    assert gpus.least_used_gpu() == 1

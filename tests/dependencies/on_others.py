"""What is relied on in datasets, evaluate, the Hub, W&B, torch and bitsandbytes."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch

from dependencies.table import has, relies_on, takes


@relies_on(
    "datasets",
    "new_fingerprint",
    "map writes to a file of our choosing under a fingerprint of our own",
)
def _():
    from datasets import Dataset

    takes(
        Dataset.map,
        "cache_file_name",
        "new_fingerprint",
        "load_from_cache_file",
        "fn_kwargs",
        "remove_columns",
        "desc",
    )


@relies_on(
    "evaluate",
    "_build_data_dir",
    "a metric makes its folder by this method; ours are `_info` and `_compute`",
)
def _():
    import evaluate

    has(evaluate.Metric, "_build_data_dir", "_info", "_compute")
    assert "self._build_data_dir()" in inspect.getsource(evaluate.EvaluationModule.__init__)
    takes(
        evaluate.MetricInfo, "description", "citation", "features", "inputs_description", "format"
    )


@relies_on("huggingface_hub", "constants.", "the library's folder, address and offline mode")
def _():
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import get_session

    has(constants, "HF_HOME", "ENDPOINT", "is_offline_mode")
    has(get_session(), "head")
    assert try_to_load_from_cache("loradrop/nothing", "config.json") is None


@relies_on(
    "wandb",
    "wandb.run",
    "the run under way, and errors of W&B's own class; finishing takes an exit code",
)
def _():
    import wandb

    has(wandb, "run", "Error", "Settings", "Table", "plot", "login")
    takes(wandb.finish, "exit_code")
    takes(wandb.init, "project", "entity", "mode", "name", "group", "dir", "settings", "config")


@relies_on(
    "torch",
    "_cdata",
    "a storage's own number, the same for all views of it, on the meta device, too",
)
def _():
    a, b = torch.empty(4, device="meta"), torch.empty(4, device="meta")
    number = a.untyped_storage()._cdata
    assert number == a[1:].untyped_storage()._cdata != b.untyped_storage()._cdata


@relies_on("torch", "_base", "a view knows the tensor that it is a view of, without gradients, too")
def _():
    with torch.no_grad():
        whole = torch.zeros(3)
        assert whole[1:]._base is whole and whole._base is None


@relies_on(
    "torch",
    '"torch._dynamo"',
    "compiling imports this module; set_stance lets compiled code run as written",
)
def _():
    torch.nn.Linear(2, 2).compile(backend="eager")
    assert "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager"):
        pass


@relies_on(
    "torch",
    "_non_persistent_buffers_set",
    "the names of a module's buffers that its state dict leaves out",
)
def _():
    module = torch.nn.Module()
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("left_out", torch.ones(1), persistent=False)
    assert module._non_persistent_buffers_set == {"left_out"} and list(module.state_dict()) == [
        "kept"
    ]


@relies_on(
    "bitsandbytes",
    "support_avx512bf16_for_cpu",
    "the attribute that marks a 4-bit layer which eval mode repacks",
)
def _():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    has(bitsandbytes.nn.Linear4bit(4, 4), "support_avx512bf16_for_cpu")

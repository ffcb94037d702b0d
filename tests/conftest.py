"""What several tests need: small models of every family, made on the spot, and runs in processes of
their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import isolation  # noqa: F401 (the first one: others read the environment)
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from omegaconf import DictConfig
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from experiments.config.schema import CONF
from loradrop import hub

ROOT = Path(__file__).parents[1]
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
}
FAMILIES = {
    "roberta": (
        RobertaForSequenceClassification,
        RobertaConfig(**SHAPE, max_position_embeddings=40),
        ("query", "value"),
    ),
    "bert": (
        BertForSequenceClassification,
        BertConfig(**SHAPE, max_position_embeddings=40),
        ("query", "value"),
    ),
    "llama": (
        LlamaForSequenceClassification,
        # fewer value heads than query heads: modules of different width
        LlamaConfig(**SHAPE, max_position_embeddings=40, num_key_value_heads=2, pad_token_id=1),
        ("q_proj", "v_proj"),
    ),
    "deberta": (
        DebertaV2ForSequenceClassification,
        # with the switches of DeBERTaV3: query and key projections are applied to relative
        # positions, too
        DebertaV2Config(
            **SHAPE,
            max_position_embeddings=40,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            position_buckets=16,
            position_biased_input=False,
            norm_rel_ebd="layer_norm",
            type_vocab_size=0,
        ),
        ("query_proj", "value_proj"),
    ),
}


def tiny_model(family: str = "roberta", seed: int = 0) -> torch.nn.Module:
    """A small model with random weights, in eval mode."""
    cls, config, _ = FAMILIES[family]
    torch.manual_seed(seed)
    return cls(config).eval()


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test's libraries set for the whole process does not reach the next test: variables,
    and Accelerate's device and precision, which every Trainer sets.
    """
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HF_HOME: an empty folder, on a machine that may go online and has not asked the Hub yet."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub._answers.cache_clear()
    yield tmp_path / "home"
    hub._answers.cache_clear()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four examples of 9, 7, 4 and 2 tokens, padded to 9; ids from 3 on, so that none is a special
    token.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 7, 4, 2])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(3, 60, (4, 9), generator=generator) * mask + (1 - mask)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}


def train_b(model: torch.nn.Module, scale: float = 0.1, seed: int = 1) -> None:
    """Give every lora_B values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def composed(*overrides: str) -> DictConfig:
    """The config of a run, whatever folders the environment names."""
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        return hydra.compose("run", [*overrides, "paths.models=null", "paths.data=null"])


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """`composed`, as a fixture."""
    return composed


def run_module(
    module: str, *arguments: str, outputs: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """`python -m <module> <arguments>` from the project's folder, offline."""
    target = [] if outputs is None else [f"paths.outputs={outputs}"]
    return subprocess.run(
        [sys.executable, "-m", module, *arguments, *target],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**clean_environment(), **env},
    )


def clean_environment() -> dict[str, str]:
    """This process's environment, which holds nothing of the user's, offline."""
    return {**os.environ, "HF_HUB_OFFLINE": "1"}

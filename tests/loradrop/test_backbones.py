"""Parameter counts from configs alone, heads, and where a backbone is looked for."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, SHAPE, tiny_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from loradrop.backbones import Backbone
from loradrop.heads import freeze_encoder, head_parameters
from loradrop.importance.importance import Importance
from loradrop.lora.inject import lora_modules, lora_sites
from loradrop.methods.lora import LoRA
from loradrop.selection import select
from loradrop.sharing import share
from loradrop.tasks.glue import Glue

# (hidden size, layers, intermediate size) of the published models
BASE, LARGE = (768, 12, 3072), (1024, 24, 4096)


def roberta(hidden, layers, intermediate):
    """The published model's shape on the meta device."""
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=intermediate,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with torch.device("meta"):
        return freeze_encoder(RobertaForSequenceClassification(config))


def with_lora(shape):
    model = roberta(*shape)
    method = LoRA("lora", rank=8, alpha=16, dropout=0.0, target_modules=None)
    method.install(model)
    return model, method


def adapter_and_head(model):
    head = {id(parameter) for _, parameter in head_parameters(model)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    return sum(p.numel() for p in trainable if id(p) not in head), sum(
        p.numel() for p in trainable if id(p) in head
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "lora", "instance", "total"),
    [(BASE, 294_912, 12_288, 124_647_170), (LARGE, 786_432, 16_384, 355_361_794)],
)
def test_counts_of_roberta(shape, lora, instance, total):
    assert sum(p.numel() for p in roberta(*shape).parameters()) == total
    model, method = with_lora(shape)
    assert (
        adapter_and_head(model) == (lora, shape[0] ** 2 + shape[0] + 2 * shape[0] + 2)
        and method.lora_parameters == lora
    )
    layers = shape[1]
    for kept in range(1, layers):
        model, _ = with_lora(shape)
        values = {kind: {i: float(i < kept) for i in range(layers)} for kind in ("query", "value")}
        sizes = {kind: dict.fromkeys(range(layers), instance) for kind in values}
        plan = select(Importance(values, sizes), threshold=0.999)
        share(model, plan)
        assert adapter_and_head(model)[0] == plan.parameters == 2 * (kept + 1) * instance


def test_the_paper_s_half_of_roberta_base():
    """Tables 1 and 6: 5 + 7 layers' worth of LoRA, shared ones included, are 0.15M parameters."""
    model, _ = with_lora(BASE)
    values = {
        "query": {i: float(i < 4) for i in range(12)},
        "value": {i: float(i < 6) for i in range(12)},
    }
    plan = select(
        Importance(values, {kind: dict.fromkeys(range(12), 12_288) for kind in values}),
        threshold=0.999,
    )
    share(model, plan)
    assert plan.parameters == adapter_and_head(model)[0] == 147_456 == plan.lora_parameters // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_what_is_not_the_encoder_and_its_pooler(family):
    names = {name for name, _ in head_parameters(tiny_model(family))}
    expected = {
        "roberta": {
            "classifier.dense.weight",
            "classifier.dense.bias",
            "classifier.out_proj.weight",
            "classifier.out_proj.bias",
        },
        "bert": {
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias",
        },
        "llama": {"score.weight"},
        "deberta": {
            "pooler.dense.weight",
            "pooler.dense.bias",
            "classifier.weight",
            "classifier.bias",
        },
    }
    assert names == expected[family]


def task():
    return Glue(
        name="sst2",
        columns=("sentence",),
        labels=("negative", "positive"),
        metric="loradrop.metrics.labels.Accuracy",
        primary="accuracy",
        official="SST-2",
        config="sst2",
        hub_id="nyu-mll/glue",
        revision="0",
    )


def test_a_local_folder_takes_the_place_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = Backbone(name="mine", hub_id="someone/model", revision="abc", dtype="float32")
    with pytest.raises(FileNotFoundError, match="someone/model is not a folder"):
        backbone.check(task(), 20, tmp_path)
    tiny_model("bert").save_pretrained(tmp_path / "someone" / "model")
    backbone.check(task(), 20, tmp_path)
    with pytest.raises(
        ValueError, match=r"recipe\.max_length is 41, but backbone mine takes at most 40 tokens"
    ):
        backbone.check(task(), 41, tmp_path)


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_positions_that_start_after_the_padding_are_not_counted(tmp_path, monkeypatch, family):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = Backbone(name="mine", hub_id="someone/model", revision="abc", dtype="float32")
    config = AutoConfig.for_model(family, **SHAPE, max_position_embeddings=40)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path / "someone" / "model")
    longest = 40 - 2  # the padding's index is 1
    backbone.check(task(), longest, tmp_path)
    with pytest.raises(ValueError, match=rf"takes at most {longest} tokens"):
        backbone.check(task(), longest + 1, tmp_path)
    model(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        model(torch.full((1, longest + 1), 5))


def test_the_built_in_model_loads_ready_to_train():
    backbone = Backbone(
        name="tiny_roberta", hub_id="loradrop/tiny_roberta", revision=None, dtype="float32"
    )
    model, tokenizer = backbone.load(task(), None)
    assert model.training and all(module.training for module in model.modules())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in head_parameters(model)
    }
    assert next(model.parameters()).dtype == torch.float32 and model.config.id2label == {
        0: "negative",
        1: "positive",
    }
    LoRA("lora", rank=8, alpha=16, dropout=0.0, target_modules=None).install(model)
    assert len(lora_modules(model)) == len(lora_sites(model)) == 24
    logits = model(**tokenizer(["a good day"], return_tensors="pt")).logits
    assert logits.shape == (1, 2)
    skeleton = backbone.skeleton(task(), backbone.config(None))
    assert {n: p.shape for n, p in skeleton.named_parameters()} == {
        n.replace(".base.", "."): p.shape for n, p in model.named_parameters() if ".lora_" not in n
    }


def test_an_unknown_type_of_weights_is_refused():
    with pytest.raises(ValueError, match="there is no type 'float7'"):
        Backbone(name="x", hub_id="x/y", revision=None, dtype="float7")

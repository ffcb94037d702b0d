"""Llama and DeBERTa as backbones, in small: padding, a float32 head on bfloat16 weights, messages
for missing files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from conftest import run_module
from helpers.letters import LETTERS
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Model,
    DebertaV2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
)

from experiments.runner.components import check_method
from loradrop.backbones import Backbone
from loradrop.heads import head_parameters
from loradrop.methods.full import Full
from loradrop.methods.lora import LoRA
from loradrop.tasks.builtin.labels import Mini
from loradrop.tasks.builtin.text import MiniText
from loradrop.training.batches import Collator

SHAPE = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
TEXTS = ["a good day", "bad", "it is not so good a film as that", "é!"]
HUB_IDS = {"llama2_7b": "meta-llama/Llama-2-7b-hf", "deberta_v3_base": "microsoft/deberta-v3-base"}


def save_llama(folder):
    """A small Llama as the published one is saved: bfloat16, a tokenizer with byte fallback and
    without a pad token.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    tokenizer = LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], add_bos_token=True
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces), max_position_embeddings=64, initializer_range=0.3, **SHAPE
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def save_deberta(folder):
    """A small DeBERTaV3 with the published one's switches."""
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "▁", *LETTERS, "[MASK]"]
    DebertaV2Tokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(pieces),
        max_position_embeddings=48,
        type_vocab_size=0,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        initializer_range=0.3,
        **SHAPE,
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models in which small ones stand in for the published ones."""
    root = tmp_path_factory.mktemp("models")
    save_llama(root / HUB_IDS["llama2_7b"])
    save_deberta(root / HUB_IDS["deberta_v3_base"])
    return root


def backbone(name, dtype="float32", revision=None):
    return Backbone(name=name, hub_id=HUB_IDS[name], revision=revision, dtype=dtype)


def task():
    names = {"name": "mini_sentiment", "columns": ("sentence",), "labels": ("negative", "positive")}
    metric = {"metric": "loradrop.metrics.labels.Accuracy", "primary": "accuracy"}
    return Mini(**names, **metric, train_size=10, validation_size=10, data_seed=0, label_noise=0.0)


def batch(tokenizer, texts):
    collated = Collator(tokenizer, is_regression=False)(
        {**tokenizer(texts), "label": [0] * len(texts)}
    )
    return {key: value for key, value in collated.items() if key != "labels"}


@pytest.mark.parametrize("name", HUB_IDS)
def test_an_example_in_a_padded_batch_is_the_example_alone(models, name):
    model, tokenizer = backbone(name).load(task(), models)
    model.eval()
    together = batch(tokenizer, TEXTS)
    assert (together["attention_mask"].sum(1) < together["attention_mask"].shape[1]).sum() == len(
        TEXTS
    ) - 1
    assert (together["attention_mask"][:, 0] == 1).all()  # padded on the right
    with torch.no_grad():
        alone = torch.cat([model(**batch(tokenizer, [text])).logits for text in TEXTS])
        torch.testing.assert_close(model(**together).logits, alone, rtol=1e-4, atol=1e-5)
    # texts differ, and so do their logits
    assert len({tuple(row) for row in alone.tolist()}) == len(TEXTS)


def test_llama_s_padding_never_is_a_part_of_a_text(models):
    model, tokenizer = backbone("llama2_7b").load(task(), models)
    assert (
        model.config.pad_token_id
        == tokenizer.pad_token_id
        == tokenizer.unk_token_id
        != tokenizer.eos_token_id
    )
    for text in ("a <unk>", "a </s>", "<s> é", "日本 <unk></s>"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.pad_token_id not in ids and tokenizer.eos_token_id not in ids
    assert not model.config.use_cache


def test_without_byte_fallback_the_end_token_pads(models, tmp_path):
    folder = tmp_path / HUB_IDS["llama2_7b"]
    folder.mkdir(parents=True)
    for file in (models / HUB_IDS["llama2_7b"]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for file, old, new in (
        ("tokenizer.json", '"byte_fallback": true', '"byte_fallback": false'),
        # Llama's own class would set it again
        ("tokenizer_config.json", "LlamaTokenizer", "PreTrainedTokenizerFast"),
    ):
        (folder / file).write_text((folder / file).read_text().replace(old, new))
    model, tokenizer = backbone("llama2_7b").load(task(), tmp_path)
    assert model.config.pad_token_id == tokenizer.eos_token_id not in tokenizer("a </s>").input_ids


@pytest.mark.parametrize("name", HUB_IDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_head_on_bfloat16_weights_trains_in_float32(models, name, autocast):
    model, tokenizer = backbone(name, "bfloat16").load(task(), models)
    LoRA("lora", rank=2, alpha=4, dropout=0.0, target_modules=None).install(model)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    before = {n: p.detach().clone() for n, p in trainable.items()}
    optimizer = torch.optim.SGD(trainable.values(), lr=1e-6)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        output = model(**batch(tokenizer, TEXTS), labels=torch.tensor([0, 1, 0, 1]))
    assert output.logits.dtype == (torch.bfloat16 if autocast else torch.float32)
    output.loss.backward()
    optimizer.step()
    for n, _ in head_parameters(model):
        moved = (trainable[n] - before[n]).abs()
        # steps that bfloat16, with its three digits, would round away
        assert moved.max() > 0 and moved.max() < 1e-3 * before[n].abs().max().clamp(min=1e-3), n


def test_a_bfloat16_head_gives_what_the_float32_model_gives(models):
    """The weights that are loaded are the same; only rounding differs."""
    logits = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model, tokenizer = backbone("llama2_7b", dtype).load(task(), models)
        weight = torch.linspace(-1, 1, model.score.weight.numel()).view_as(model.score.weight)
        model.eval().score.weight.data.copy_(weight)
        logits.append(model(**batch(tokenizer, TEXTS)).logits.detach())
    torch.testing.assert_close(*logits, rtol=0.05, atol=0.2)


def test_a_method_that_trains_bfloat16_weights_is_refused(models):
    with pytest.raises(ValueError, match=r"method full .* set backbone\.dtype=float32"):
        check_method(Full("full"), backbone("llama2_7b", "bfloat16"), task(), models)
    check_method(Full("full"), backbone("llama2_7b"), task(), models)
    check_method(LoRA("lora", 2, 4, 0.0, None), backbone("llama2_7b", "bfloat16"), task(), models)


@pytest.mark.parametrize(("name", "longest"), [("llama2_7b", 64), ("deberta_v3_base", 48)])
def test_positions_are_those_of_the_model(models, name, longest):
    backbone(name).check(task(), longest, models)
    with pytest.raises(ValueError, match=f"takes at most {longest} tokens"):
        backbone(name).check(task(), longest + 1, models)


@pytest.mark.slow
def test_pickled_weights_are_refused_with_the_command_that_converts_them(models, tmp_path):
    folder = tmp_path / HUB_IDS["deberta_v3_base"]
    model = DebertaV2Model.from_pretrained(models / HUB_IDS["deberta_v3_base"])
    model.config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((models / HUB_IDS["deberta_v3_base"] / name).read_bytes())
    torch.save(
        {f"deberta.{key}": value for key, value in model.state_dict().items()},
        folder / "pytorch_model.bin",
    )
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors") as caught:
        backbone("deberta_v3_base").check(task(), 20, tmp_path)
    (code,) = re.findall(r'python -c "(.*?)"', str(caught.value))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    backbone("deberta_v3_base").check(task(), 20, tmp_path)
    loaded, _ = backbone("deberta_v3_base").load(task(), tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.deberta.state_dict()[key], value), key


@pytest.mark.slow
def test_a_converted_decoder_keeps_what_turns_states_into_tokens(models, tmp_path):
    writing = MiniText(
        **{
            "name": "mini_summary",
            "metric": "-",
            "primary": "-",
            "template": "{source}",
            "max_new_tokens": 9,
        },
        **{"train_size": 1, "validation_size": 1, "data_seed": 0},
    )
    folder = tmp_path / HUB_IDS["llama2_7b"]
    shutil.copytree(models / HUB_IDS["llama2_7b"], folder)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(whole, folder / "pytorch_model.bin")
    for some in (task(), writing):
        with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors") as caught:
            backbone("llama2_7b").check(some, 20, tmp_path)
    (code,) = re.findall(r'python -c "(.*?)"', str(caught.value))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    loaded, _ = backbone("llama2_7b", "bfloat16").load(writing, tmp_path)
    assert torch.equal(loaded.lm_head.weight, whole["lm_head.weight"])

    AutoModel.from_pretrained(models / HUB_IDS["llama2_7b"]).save_pretrained(folder)
    backbone("llama2_7b").load(task(), tmp_path)
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight; is it of another kind of model"):
        backbone("llama2_7b").load(writing, tmp_path)


def test_a_gated_model_is_refused_with_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise OSError("You are trying to access a gated repo.") from GatedRepoError.__new__(
            GatedRepoError
        )

    monkeypatch.setattr("loradrop.backbones.hub_available", lambda: True)
    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(
        PermissionError, match=r"licence at https://huggingface\.co/meta-llama/Llama-2-7b-hf"
    ):
        backbone("llama2_7b", revision="abc").check(task(), 20, None)


def test_deberta_s_own_vocabulary_file_is_converted(models, tmp_path):
    """The published repository holds spm.model alone."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / HUB_IDS["deberta_v3_base"]
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((models / HUB_IDS["deberta_v3_base"] / name).read_bytes())
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    text = tmp_path / "text.txt"
    text.write_text("a good day\nthe bad film was not so good\n" * 50)
    prefix = str(folder / "spm")
    options = {"vocab_size": 24, "minloglevel": 2, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=prefix, **ids, **names, **options
    )
    _, tokenizer = backbone("deberta_v3_base").load(task(), tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(f"{prefix}.model").encode(
        "a good film", out_type=str
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("a good film").input_ids) == [
        "[CLS]",
        *pieces,
        "[SEP]",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [["trainer.precision=32-true"], ["trainer.precision=bf16-mixed", "method=lora"]]
)
def test_a_run_on_a_bfloat16_llama(models, tmp_path, overrides):
    sizes = [
        "task.train_size=60",
        "task.validation_size=20",
        "recipe.epochs=1",
        "recipe.max_length=64",
    ]
    common = [
        "backbone=llama2_7b",
        f"paths.models={models}",
        "method.rank=2",
        "trainer.num_threads=1",
        *sizes,
    ]
    done = run_module("experiments.run", *common, *overrides, outputs=tmp_path)
    assert done.returncode == 0, done.stderr
    refused = run_module(
        "experiments.run",
        *common[:2],
        "method=full",
        "backbone.dtype=bfloat16",
        *sizes,
        outputs=tmp_path,
    )
    assert refused.returncode != 0 and "set backbone.dtype=float32" in refused.stderr

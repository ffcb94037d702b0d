"""A finished run's model in each form, read back by PEFT, by transformers and by ourselves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import SHAPE, train_b
from helpers.configs import composed
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

import loradrop
from experiments.cli import guarded
from experiments.config.identity import run_id
from experiments.config.schema import UserError
from experiments.export import export, main
from experiments.runner.execution import run
from experiments.runner.restore import restore
from loradrop.hub import ASSETS

TEXTS = ["the old song is wonderful .", "a boring film"]


@pytest.fixture(scope="module", params=["lora_drop", "lora_drop_no_share"])
def finished(tmp_path_factory, request):
    outputs = tmp_path_factory.mktemp(request.param)
    config = composed(
        outputs,
        f"method={request.param}",
        "task.train_size=64",
        "recipe.epochs=1",
        "recipe.learning_rate=1e-2",
    )
    run(config)
    return outputs, run_id(config)


def base():
    torch.manual_seed(99)  # another head than the run's
    return AutoModelForSequenceClassification.from_pretrained(
        ASSETS / "tiny_roberta", num_labels=2, dtype=torch.float32
    ).eval()


@pytest.mark.slow
@torch.no_grad()
def test_every_form_gives_the_runs_outputs(finished, tmp_path, capsys):
    outputs, id = finished
    model, tokenizer, _ = restore(id, outputs)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    expected = model(**batch).logits
    assert not torch.allclose(base()(**batch).logits, expected)
    for form in ("peft", "merged", "compact"):
        assert main([str(outputs / "runs" / id), "--to", form, str(tmp_path / form)]) == 0
        again = AutoTokenizer.from_pretrained(tmp_path / form)
        assert torch.equal(
            again(TEXTS, return_tensors="pt", padding=True)["input_ids"], batch["input_ids"]
        )
    printed = capsys.readouterr().out
    assert (
        "numbers of LoRA and" in printed
        and "an ordinary RobertaForSequenceClassification" in printed
    )
    assert torch.equal(
        PeftModel.from_pretrained(base(), tmp_path / "peft").eval()(**batch).logits, expected
    )
    assert torch.equal(
        loradrop.from_pretrained(base(), tmp_path / "compact")(**batch).logits, expected
    )
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(**batch).logits, expected)
    assert "loradrop/tiny_roberta" in (tmp_path / "peft" / "adapter_config.json").read_text()
    with pytest.raises(UserError, match="holds something already; name a folder that is empty"):
        export(id, "peft", tmp_path / "peft", outputs)


def test_mistakes_are_one_message(tmp_path, capsys):
    assert (
        guarded(
            lambda: main(
                ["no-such-run", "--to", "peft", str(tmp_path / "a"), "--outputs", str(tmp_path)]
            )
        )
        == 1
    )
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "holds no finished run with its weights" in message


def test_a_method_without_lora_is_refused(tmp_path):
    config = composed(tmp_path, "method=bitfit", "task.train_size=64", "recipe.epochs=1")
    run(config)
    with pytest.raises(UserError, match="has no LoRA to export: its method is bitfit"):
        export(run_id(config), "peft", tmp_path / "folder", tmp_path)


def test_a_tied_weight_is_not_exported_merged(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).eval()
    loradrop.add_lora(model, rank=4, target_modules=["lm_head"])
    train_b(model)
    embeddings = model.model.embed_tokens.weight.clone()
    result = SimpleNamespace(config={"method": {"name": "lora"}, "backbone": {"hub_id": "tiny"}})
    monkeypatch.setattr("experiments.runner.restore.restore", lambda *given: (model, None, result))
    with pytest.raises(UserError, match="lm_head: another module has the same weight"):
        export("run", "merged", tmp_path / "merged")
    assert torch.equal(model.model.embed_tokens.weight, embeddings)
    assert not (tmp_path / "merged").exists()

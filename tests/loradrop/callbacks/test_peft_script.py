"""A script of PEFT and transformers' Trainer as anyone has it, and the same with LoRA-drop: what
differs is four lines.
"""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import loradrop
from experiments.config.validation import instantiate_group
from loradrop.hub import ASSETS

pytestmark = pytest.mark.slow

SCRIPT = """
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
from transformers import Trainer, TrainingArguments
import loradrop  # +

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"]))
train = rows.map(lambda row: tokenizer(row["sentence"]), remove_columns=["sentence"])
batches = DataCollatorWithPadding(tokenizer)
options = TrainingArguments(str(output), num_train_epochs=2, learning_rate=3e-3, report_to=[], **quiet)

sample = train.select(loradrop.stratified_sample(train["label"], ratio=0.2, seed=0))  # +
drop = loradrop.LoRADropTrainerCallback(DataLoader(sample, 32, collate_fn=batches), num_layers=4, kept_init="fresh")  # +
Trainer(model, options, batches, sample, processing_class=tokenizer, callbacks=[drop]).train()  # +
Trainer(model, options, batches, train, processing_class=tokenizer).train()
model.save_pretrained(output / "adapter")
"""
FOLDER = ASSETS / "tiny_roberta"


@pytest.fixture
def names(tmp_path):
    settings = {
        "_target_": "loradrop.tasks.builtin.labels.Mini",
        "name": "mini_sentiment",
        "columns": ["sentence"],
    }
    settings |= {
        "labels": ["negative", "positive"],
        "metric": "loradrop.metrics.labels.Accuracy",
        "primary": "accuracy",
    }
    settings |= {"train_size": 160, "validation_size": 48, "data_seed": 0, "label_noise": 0.0}
    rows = instantiate_group("task", settings).load(None).train
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    return {"folder": FOLDER, "output": tmp_path, "rows": rows, "quiet": quiet}


def test_four_lines_make_it_lora_drop(names):
    assert SCRIPT.count("# +") == 4
    plain = "\n".join(line for line in SCRIPT.splitlines() if not line.endswith("# +"))
    exec(plain, before := dict(names))
    exec(SCRIPT, after := dict(names))
    lora, ours, plan = before["model"], after["model"], after["drop"].plan
    assert count(lora) == plan.lora_parameters == 24 * 8 * 256
    assert count(ours) == plan.parameters == 10 * 8 * 256
    assert loradrop.plan_of(ours) == plan
    batch = after["tokenizer"](
        ["a wonderful film.", "the song bored me."], return_tensors="pt", padding=True
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        FOLDER, num_labels=2, dtype=torch.float32
    )
    loaded = PeftModel.from_pretrained(base, names["output"] / "adapter").eval()
    assert torch.equal(loaded(**batch).logits, ours.eval()(**batch).logits)


def count(model):
    return sum(
        p.numel() for name, p in model.named_parameters() if p.requires_grad and "lora_" in name
    )

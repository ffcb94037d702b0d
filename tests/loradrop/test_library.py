"""What `import loradrop` costs and offers, and what a measurement shows of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT, clean_environment, tiny_model, train_b

import loradrop

CODE = """
import sys
import torch, transformers
before = set(sys.modules)
import loradrop
loradrop.add_lora, loradrop.measure, loradrop.select, loradrop.share, loradrop.merge
loradrop.save_pretrained, loradrop.from_pretrained, loradrop.load_loralib
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


# all that the extras bring, and what only they need
EXTRAS = (
    "peft",
    "accelerate",
    "pytorch_lightning",
    "datasets",
    "hydra",
    "pandas",
    "matplotlib",
    "scipy",
)
LIGHT = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # importing it raises ImportError
import tempfile
import torch
from transformers import RobertaConfig, RobertaModel
import loradrop

def tiny():
    torch.manual_seed(0)
    return RobertaModel(RobertaConfig(vocab_size=60, hidden_size=32, num_attention_heads=4,
                                      intermediate_size=48, num_hidden_layers=2)).eval()

model, batch = tiny(), dict(input_ids=torch.arange(3, 12)[None])
loradrop.add_lora(model, rank=4)
for name, parameter in model.named_parameters():
    if name.endswith("lora_B"):
        torch.nn.init.normal_(parameter)
plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1)
loradrop.share(model, plan)
with tempfile.TemporaryDirectory() as folder:
    loradrop.save_pretrained(model, folder)
    loaded = loradrop.from_pretrained(tiny(), folder).eval()
expected = model(**batch).last_hidden_state
torch.testing.assert_close(loaded(**batch).last_hidden_state, expected)
loradrop.merge(model)
torch.testing.assert_close(model(**batch).last_hidden_state, expected, rtol=1e-3, atol=1e-4)
print("done")
"""


def fresh(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_import_brings_nothing_of_the_reproduction():
    modules = set(fresh(CODE).split())
    heavy = {
        "hydra",
        "omegaconf",
        "wandb",
        "pytorch_lightning",
        "lightning",
        "peft",
        "pandas",
        "matplotlib",
        "datasets",
    }
    assert "loradrop" in modules and not heavy & modules


@pytest.mark.slow
def test_adapters_are_measured_shared_and_stored_without_the_extras():
    assert fresh(LIGHT).strip() == "done"


def test_torch_comes_with_what_needs_it():
    assert fresh("import sys, loradrop; print('torch' in sys.modules)").strip() == "False"


def test_every_public_name_is_there_and_documented():
    for name in loradrop.__all__:
        assert getattr(loradrop, name).__doc__, name
    assert (ROOT / "loradrop" / "py.typed").exists()
    with pytest.raises(AttributeError, match="module 'loradrop' has no attribute 'mesure'"):
        _ = loradrop.mesure


def test_an_importance_as_a_frame_and_as_a_figure(batch, tmp_path):
    model = tiny_model("llama")
    loradrop.add_lora(model, rank=4)
    train_b(model)
    importance = loradrop.measure(model, [batch])
    frame = importance.to_frame()
    assert list(frame.columns) == [
        "module_type",
        "layer",
        "squared_norm",
        "importance",
        "parameters",
    ]
    assert frame.groupby("module_type")["importance"].sum().tolist() == pytest.approx([1, 1])
    row = frame.set_index(["module_type", "layer"]).loc[("v_proj", 1)]
    assert row["squared_norm"] == importance.values["v_proj"][1] and row["parameters"] == 4 * (
        32 + 16
    )
    figure = importance.plot()
    bars = {box.get_label(): [bar.get_height() for bar in box] for box in figure.axes[0].containers}
    assert bars == {kind: list(layers.values()) for kind, layers in importance.normalized.items()}
    figure.savefig(tmp_path / "importance.png")
    assert (tmp_path / "importance.png").stat().st_size > 1000


def test_a_plan_reads_and_is_kept(batch, tmp_path):
    model = tiny_model()
    loradrop.add_lora(model, rank=4)
    train_b(model)
    plan = loradrop.select(loradrop.measure(model, [batch]), parameter_ratio=0.7)
    plan.save(tmp_path / "plan.json")
    assert loradrop.SharingPlan.load(tmp_path / "plan.json") == plan
    assert f"{plan.parameters:,} of LoRA's {plan.lora_parameters:,} parameters" in str(plan)


def test_what_is_no_model_importance_or_plan_is_refused():
    model = tiny_model()
    loradrop.add_lora(model, rank=4)
    for act in (loradrop.add_lora, loradrop.merge, lambda name: loradrop.measure(name, [])):
        with pytest.raises(TypeError, match=r"a torch\.nn\.Module .*is needed, got str"):
            act("roberta-base")
    with pytest.raises(
        TypeError, match="select needs an Importance, as measure returns it, got dict"
    ):
        loradrop.select({"query": {0: 1.0}}, threshold=0.9)
    with pytest.raises(
        TypeError, match="share needs a SharingPlan, as select returns it, got dict"
    ):
        loradrop.share(model, {"query": (0,)})

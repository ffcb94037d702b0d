"""Every method of conf/method on every family of backbones: prepare, a few steps, save, load into a
fresh model.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
import yaml
from conftest import FAMILIES, tiny_model
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

import loradrop.methods
from experiments.config.schema import CONF
from experiments.config.validation import instantiate_group
from loradrop.heads import freeze_encoder
from loradrop.io.files import write_tensors
from loradrop.methods.base import Method, load_values
from loradrop.seeds import Seeds

pytestmark = pytest.mark.slow

METHODS = sorted(path.stem for path in (Path(CONF) / "method").glob("*.yaml"))
# for models of three layers, 32 wide
SMALL = {
    "tied_lora": ["method.rank=4"],
    "s2_lora": ["method.rank=4"],
    "prilora": ["method.interval=2"],
    "adapter_drop": ["method.dropped_layers=1"],
    "houlsby": ["method.bottleneck=8"],
    "adalora": ["method.init_rank=6", "method.target_rank=3", "method.interval=1"],
    "prune_lora": ["method.init_rank=6", "method.target_rank=3", "method.interval=1"],
    "hifi": ["method.heads=2"],
    "prompt_tuning": ["method.virtual_tokens=4"],
    "prefix_tuning": ["method.virtual_tokens=4"],
}
REFUSED = {
    ("bitfit", "llama"): "has no biases",
    ("hifi", "llama"): "key and value head for each query head",
    (
        "prefix_tuning",
        "deberta",
    ): "DebertaV2Model cannot be prefix-tuned: its attention takes no keys and values",
}
STEPS = 6


class Probe:
    """The batch is the whole training set."""

    seeds, steps = Seeds(0), STEPS

    def __init__(self, model, batch):
        self.model, self.batch = model, batch

    def sample(self, ratio):
        return range(len(self.batch["labels"]))

    def fit(self, model, rows, epochs, batch_size, steps=None, on_step=None):
        train(model, self.batch, None, epochs, on_step)

    def batches(self, rows, gradients=False, divided=False):
        return [self.batch]

    def autocast(self):
        return nullcontext()

    def stage1(self, settings, compute):
        return compute()


def train(model, batch, method, steps, on_step=None):
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(**batch).loss
        penalty = None if method is None else method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        if method is not None:
            method.on_step_end(model, step)
        if on_step is not None:
            on_step()


def make(name, family):
    """(method, frozen model with its adapters), as a run makes them."""
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose(
            "run", [f"method={name}", *SMALL.get(name, ()), "paths.models=null", "paths.data=null"]
        )
    method, model = instantiate_group("method", config.method), freeze_encoder(tiny_model(family))
    torch.manual_seed(0)
    method.install(model)
    return method, model


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(
            **{key: value for key, value in batch.items() if key != "labels"}
        ).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_on_a_family(name, family, batch, tmp_path):
    if (name, family) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, family]):
            make(name, family)
        return
    method, model = make(name, family)
    method.prepare(model, Probe(model, batch))
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = logits(model, batch)
    train(model, batch, method, STEPS)
    after = logits(model, batch)
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)

    # predictions do not depend on the padding of a batch
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = {key: batch[key][row : row + 1, :length] for key in ("input_ids", "attention_mask")}
        torch.testing.assert_close(logits(model, alone)[0], after[row], rtol=1e-4, atol=1e-5)

    # saved, and loaded into a fresh model
    state = {n: p for n, p in model.named_parameters() if p.requires_grad}
    write_tensors(state, tmp_path / "adapter.safetensors", {})
    report = method.result_fields()
    state = {key: report[key].to_dict() for key in ("importance", "plan") if key in report}
    other, fresh = make(name, family)
    other.load_state_dict(fresh, state)
    saved = load_file(tmp_path / "adapter.safetensors")
    assert set(saved) == {n for n, p in fresh.named_parameters() if p.requires_grad}
    load_values(fresh, saved)
    assert torch.equal(logits(fresh, batch), after)


def leaves(cls):
    """The classes below `cls` that no other is made from."""
    below = {leaf for other in cls.__subclasses__() for leaf in leaves(other)}
    return below or {cls}


def test_the_matrix_has_every_method():
    """Each class of loradrop/methods has a YAML, from which the matrix takes its methods, and
    nothing here is of none.
    """
    for module in iter_modules(loradrop.methods.__path__):
        import_module(f"loradrop.methods.{module.name}")
    classes = {
        f"{cls.__module__}.{cls.__qualname__}"
        for cls in leaves(Method)
        if cls.__module__.startswith("loradrop.")
    }
    files = [
        yaml.safe_load((Path(CONF) / "method" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in METHODS
    ]
    targets = {settings.get("_target_") for settings in files}  # a variant takes another method's
    assert len(classes) > 10 and classes <= targets
    assert set(SMALL) <= set(METHODS) and set(REFUSED) <= {
        (name, family) for name in METHODS for family in FAMILIES
    }

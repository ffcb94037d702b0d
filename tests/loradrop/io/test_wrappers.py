"""Wrapped models: the same names, numbers and files as the model inside, or one line that says what
to do first.
"""

from __future__ import annotations

import copy
import os

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from accelerate import Accelerator
from conftest import tiny_model, train_b
from lightning_fabric import Fabric
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel, DistributedDataParallel

import loradrop

# torch.compile looks at the gradient of what one compiled layer gives to the next
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"
)


class Lightning(pl.LightningModule):
    """As people write them: the model as an attribute, and a loss that holds no parameters."""

    def __init__(self, model):
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()

    def forward(self, **batch):
        return self.model(**batch)


def compiled(model):
    return torch.compile(model, backend="eager")


def layers_compiled(model):
    """Regional compilation, in place: the wrappers are inside the model."""
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for i, layer in enumerate(layers):
        layers[i] = compiled(layer)
    return model


def layers_checkpointed(model):
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for i, layer in enumerate(layers):
        layers[i] = checkpoint_wrapper(layer)
    return model


def fabric(model):
    return Fabric(accelerator="cpu").setup_module(model)


WRAPPERS = {
    "compile": compiled,
    "data_parallel": DataParallel,
    "compile_of_data_parallel": lambda model: compiled(DataParallel(model)),
    "data_parallel_of_compile": lambda model: DataParallel(compiled(model)),
    "layers_compiled": layers_compiled,
    "layers_checkpointed": layers_checkpointed,
    "all_compiled": lambda model: compiled(layers_compiled(model)),
    "accelerate": lambda model: Accelerator(cpu=True, mixed_precision="bf16").prepare(model),
    "fabric": fabric,
    "lightning": Lightning,
    "compile_in_lightning": lambda model: Lightning(compiled(model)),
}


def own():
    model = tiny_model()
    loradrop.add_lora(model, rank=4, alpha=10)
    train_b(model)
    model.classifier.requires_grad_(True)
    return model


def peft():
    model = get_peft_model(
        tiny_model(),
        LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"]),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


MODELS = {"own": own, "peft": peft}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_its_model(kind, wrapper, batch, tmp_path):
    torch.manual_seed(3)
    plain = MODELS[kind]()
    twin = copy.deepcopy(plain)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    wrapped = WRAPPERS[wrapper](twin)
    importance = loradrop.measure(plain, [inputs])
    plan = loradrop.select(importance, num_layers=1)
    found = loradrop.measure(wrapped, [inputs])
    assert found.parameters == importance.parameters
    for module_type, layers in importance.values.items():  # Accelerate's wrapper computes in bf16
        assert found.values[module_type] == pytest.approx(
            layers, rel=0.05 if wrapper == "accelerate" else 1e-5
        )
    for model in (plain, wrapped):
        loradrop.share(model, plan)
    assert loradrop.plan_of(wrapped) == loradrop.plan_of(plain) == plan
    for compact in (False, True):
        for name, model in (("plain", plain), ("wrapped", wrapped)):
            loradrop.save_pretrained(model, tmp_path / f"{name}{compact}", compact=compact)
        assert files(tmp_path / f"wrapped{compact}") == files(tmp_path / f"plain{compact}")
    expected = plain(**inputs).logits
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "wrappedFalse").eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected)
    merged = loradrop.merge(wrapped)
    assert not any("lora" in name for name, _ in merged.named_modules())
    if wrapper != "accelerate":
        torch.testing.assert_close(merged(**inputs).logits, expected)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_adapter_is_loaded_into_a_wrapped_base(wrapper, batch, tmp_path):
    model = own()
    loradrop.share(model, loradrop.select(loradrop.measure(model, [batch]), num_layers=1))
    loradrop.save_pretrained(model, tmp_path)
    base = tiny_model()
    wrapped = WRAPPERS[wrapper](base)
    returned = loradrop.from_pretrained(wrapped, tmp_path)
    assert returned is wrapped
    assert loradrop.plan_of(wrapped) == loradrop.plan_of(model)
    expected = load_file(tmp_path / "adapter_model.safetensors")
    loradrop.save_pretrained(wrapped, tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert again.keys() == expected.keys() and all(
        torch.equal(again[name], expected[name]) for name in again
    )
    if wrapper != "accelerate":
        torch.testing.assert_close(base(**batch).logits, model(**batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_sharing_reaches_a_compiled_model_that_was_evaluated(kind, share, batch):
    model = MODELS[kind]()
    plan = loradrop.select(loradrop.measure(model, [batch]), num_layers=1, share=share)
    wrapped = compiled(model)
    with torch.no_grad():
        before = wrapped(**batch).logits
        loradrop.share(wrapped, plan)
        torch.testing.assert_close(wrapped(**batch).logits, model(**batch).logits)
        assert not torch.allclose(wrapped(**batch).logits, before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_distributed_data_parallel(kind, batch, process_group, tmp_path):
    plain = MODELS[kind]()
    model = copy.deepcopy(plain)
    plan = loradrop.select(loradrop.measure(plain, [batch]), num_layers=1)
    wrapped = DistributedDataParallel(model)
    assert loradrop.measure(wrapped, [batch]).values == loradrop.measure(plain, [batch]).values
    assert loradrop.plan_of(wrapped) == loradrop.plan_of(plain)
    loradrop.save_pretrained(plain, tmp_path / "plain")
    loradrop.save_pretrained(compiled(wrapped), tmp_path / "wrapped")
    assert files(tmp_path / "plain") == files(tmp_path / "wrapped")
    for given in (wrapped, compiled(wrapped), Lightning(wrapped), model):
        with pytest.raises(
            ValueError,
            match="wrapped in DistributedDataParallel, which knows its parameters by now: share",
        ):
            loradrop.share(given, plan)
    base = DistributedDataParallel(tiny_model())
    with pytest.raises(ValueError, match="by now: call add_lora first"):
        loradrop.add_lora(base)
    with pytest.raises(ValueError, match="by now: call from_pretrained first"):
        loradrop.from_pretrained(base, tmp_path / "plain")
    with pytest.raises(ValueError, match="by now: call load_loralib first"):
        loradrop.load_loralib(
            base, {"x.lora_A": torch.zeros(2, 2), "x.lora_B": torch.zeros(2, 2)}, alpha=1
        )
    expected = plain(**batch).logits
    torch.testing.assert_close(loradrop.merge(wrapped)(**batch).logits, expected)
    del wrapped, given
    fresh = MODELS[kind]()
    inner = DistributedDataParallel(fresh)
    del inner
    loradrop.share(fresh, plan)  # the wrapper is gone
    assert loradrop.plan_of(fresh) == plan


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")  # one process
@pytest.mark.parametrize("shards", ["fsdp", "fully_shard"])
def test_sharded_models_are_refused(shards, batch, process_group, tmp_path):
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    loradrop.save_pretrained(own(), tmp_path / "adapter")
    model = own().requires_grad_(True)
    os.environ.setdefault("LOCAL_RANK", "0")
    if shards == "fsdp":
        wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        wrapped = fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    plan = loradrop.plan_of(own())
    calls = {
        "measure": lambda: loradrop.measure(wrapped, [batch]),
        "share": lambda: loradrop.share(wrapped, plan),
        "plan_of": lambda: loradrop.plan_of(wrapped),
        "save_pretrained": lambda: loradrop.save_pretrained(wrapped, tmp_path / "refused"),
        "from_pretrained": lambda: loradrop.from_pretrained(wrapped, tmp_path / "adapter"),
        "merge": lambda: loradrop.merge(wrapped),
        "add_lora": lambda: loradrop.add_lora(wrapped),
    }
    for call in calls.values():
        with pytest.raises(
            ValueError, match=r"parameters are sharded \(FSDP\): call add_lora, measure, share and"
        ):
            call()
    assert not (tmp_path / "refused").exists()


def test_a_peft_model_is_not_made_inside_a_wrapper(tmp_path):
    loradrop.save_pretrained(own(), tmp_path)
    base = tiny_model()
    with pytest.raises(
        ValueError, match="as_peft=True puts a PeftModel around the model: load first, then wrap"
    ):
        loradrop.from_pretrained(compiled(base), tmp_path, as_peft=True)
    assert not hasattr(base, "peft_config")

"""What the project relies on in other libraries beyond their documented interface, in one table.

Private names, names of attributes and arguments, the order in which things are called. Each row
names the text in our source that relies on it, what must hold, and a check; a failure says which
version of which library changed it and where it is used. What can be had from a public name must
not be had from a private one: the last tests look for those.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
from conftest import FAMILIES, ROOT, tiny_model

OURS = {
    path: path.read_text(encoding="utf-8")
    for part in ("loradrop", "experiments")
    for path in (ROOT / part).rglob("*.py")
}


@dataclass(frozen=True)
class Row:
    library: str
    code: str  # text of our source that relies on it
    needs: str
    check: Callable[[], None]


TABLE: list[Row] = []


def relies_on(
    library: str, code: str, needs: str
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(check: Callable[[], None]) -> Callable[[], None]:
        TABLE.append(Row(library, code, needs, check))
        return check

    return add


def encoder(family: str) -> torch.nn.Module:
    model = tiny_model(family)
    return getattr(model, model.base_model_prefix)


def has(thing: object, *names: str) -> None:
    lacking = [name for name in names if not hasattr(thing, name)]
    assert not lacking, f"{thing!r:.80} has no {', '.join(lacking)}"


def takes(called: Callable, *names: str) -> None:
    parameters = inspect.signature(called).parameters
    lacking = [name for name in names if name not in parameters]
    assert not lacking, (
        f"{called.__qualname__} takes no {', '.join(lacking)}, only {', '.join(parameters)}"
    )


def takes_over(ours: type, theirs: type, prefix: str = "on_") -> None:
    """Every hook of ours is one that the library calls."""
    unknown = [name for name in vars(ours) if name.startswith(prefix) and not hasattr(theirs, name)]
    assert not unknown, f"{theirs.__qualname__} has no {', '.join(unknown)}"


# ------------------------------------------------------------------------------------ transformers


@relies_on(
    "transformers",
    "cache_argument",
    "an encoder's forward takes keys and values as `cache` or `past_key_values`",
)
def _():
    from loradrop.methods.prefix_tuning import CACHE_NAMES, cache_argument

    for family in ("roberta", "bert", "llama"):
        assert cache_argument(encoder(family)) in CACHE_NAMES, inspect.signature(
            encoder(family).forward
        )
    assert cache_argument(encoder("deberta")) is None


@relies_on(
    "transformers",
    "DynamicCache",
    "it takes (keys, values) of each layer and counts what layers add to it",
)
def _():
    keys = torch.zeros(1, 2, 3, 4)
    cache = transformers.DynamicCache([(keys, keys), (keys, keys)])
    cache.update(keys, keys, 1)
    assert [cache.get_seq_length(layer) for layer in (0, 1)] == [3, 6]


@relies_on(
    "transformers",
    "inspect.signature(encoder.forward)",
    "decorators keep the names and the order of arguments",
)
def _():
    for family in FAMILIES:
        names = list(inspect.signature(encoder(family).forward).parameters)
        assert (
            names[:2] == ["input_ids", "attention_mask"]
            and "position_ids" in names
            and "inputs_embeds" in names
        ), names


@relies_on(
    "transformers",
    "activation_checkpointing",
    "models can be told to recompute activations, and say that they do",
)
def _():
    model = tiny_model()
    assert not model.is_activation_checkpointing
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.is_activation_checkpointing


@relies_on(
    "transformers",
    "rotary_emb",
    "decoders with rotary positions, and they alone, have a module `rotary_emb`",
)
def _():
    assert [family for family in FAMILIES if hasattr(encoder(family), "rotary_emb")] == ["llama"]


@relies_on(
    "transformers",
    "pooler_output",
    "BERT's `pooler` turns last_hidden_state into pooler_output, which can be set",
)
def _():
    model = encoder("bert")
    output = model(input_ids=torch.tensor([[5, 6, 7]]))
    torch.testing.assert_close(output.pooler_output, model.pooler(output.last_hidden_state))
    output.pooler_output = None
    assert output.pooler_output is None


@relies_on(
    "transformers",
    "base_model_prefix",
    "it names the attribute that is the encoder, and begins its parameters' names",
)
def _():
    for family in FAMILIES:
        model = tiny_model(family)
        assert model.base_model is getattr(model, model.base_model_prefix)
        assert any(
            name.startswith(f"{model.base_model_prefix}.") for name, _ in model.named_parameters()
        )


@relies_on(
    "transformers",
    "get_output_embeddings",
    "None for a classifier, the language model's head for a decoder",
)
def _():
    assert (
        tiny_model("roberta").get_output_embeddings() is None
        and tiny_model("llama").get_output_embeddings() is None
    )
    decoder = transformers.LlamaForCausalLM(FAMILIES["llama"][1])
    assert decoder.get_output_embeddings() is decoder.lm_head


@relies_on(
    "transformers",
    "_get_feature_vector_attention_mask",
    "speech models map a mask of samples to frames by it",
)
def _():
    has(
        transformers.Wav2Vec2Model,
        "_get_feature_vector_attention_mask",
        "_get_feat_extract_output_lengths",
    )
    has(
        transformers.HubertModel,
        "_get_feature_vector_attention_mask",
        "_get_feat_extract_output_lengths",
    )
    has(transformers.WhisperModel, "_get_feat_extract_output_lengths")
    assert transformers.WhisperConfig.model_type == "whisper"


@relies_on(
    "transformers",
    "stateful_callbacks",
    "what is put into this dictionary comes back with a checkpoint",
)
def _():
    state = transformers.TrainerState()
    state.stateful_callbacks["loradrop_plan"] = {"kept": [1]}
    with tempfile.TemporaryDirectory() as folder:
        state.save_to_json(f"{folder}/state.json")
        read = transformers.TrainerState.load_from_json(f"{folder}/state.json")
    assert read.stateful_callbacks["loradrop_plan"] == {"kept": [1]}


@relies_on(
    "transformers",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "the mappings of the Auto classes answer for a config's class",
)
def _():
    labels, text = (
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
    )
    assert all(type(config) in labels for _, config, _ in FAMILIES.values())
    assert [family for family, (_, config, _) in FAMILIES.items() if type(config) in text] == [
        "roberta",
        "bert",
        "llama",
    ]


@relies_on(
    "transformers",
    "_tied_weights_keys",
    "save_pretrained writes once what this attribute of a module ties",
)
def _():
    from safetensors.torch import load_file

    from loradrop import add_lora, select, share
    from loradrop.importance.measurement import uniform

    model = tiny_model()
    add_lora(model, rank=2, alpha=4)
    share(model, select(uniform(model), threshold=0.3))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        names = [
            name
            for name in load_file(Path(folder, "model.safetensors"))
            if name.endswith("query.lora_A")
        ]
    assert len(names) == 2, names  # one layer's own, one that two layers share


@relies_on(
    "transformers",
    "longest_text",
    "RoBERTa's positions start behind its padding index, BERT's at 0",
)
def _():
    from loradrop.backbones import longest_text

    for family in ("roberta", "bert"):
        model = encoder(family)
        longest = longest_text(model.config)
        model(input_ids=torch.full((1, longest), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


@relies_on(
    "transformers",
    "num_key_value_heads",
    "with num_attention_heads and head_dim it gives the width of keys",
)
def _():
    from loradrop.methods.prefix_tuning import PrefixTuning

    _, heads, size = PrefixTuning._shape(encoder("llama"))
    assert encoder("llama").layers[0].self_attn.k_proj.out_features == heads * size == 16


@relies_on("transformers", "output_loading_info=True", "from_pretrained reports `missing_keys`")
def _():
    with tempfile.TemporaryDirectory() as folder:
        encoder("roberta").save_pretrained(folder)
        _, report = FAMILIES["roberta"][0].from_pretrained(folder, output_loading_info=True)
    assert any(name.startswith("classifier.") for name in report["missing_keys"]), report


def built_in_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(ROOT / "loradrop" / "assets" / "tiny_roberta")


@relies_on(
    "transformers",
    "split_special_tokens",
    "a special token that a text spells out is split into ordinary ones",
)
def _():
    tokenizer = built_in_tokenizer()
    tokenizer.split_special_tokens = True
    assert (
        tokenizer.eos_token_id not in tokenizer("a </s> b", add_special_tokens=False)["input_ids"]
    )


@relies_on(
    "transformers",
    "backend_tokenizer.to_str()",
    "the settings that use changes are `truncation` and `padding`",
)
def _():
    import json

    tokenizer = built_in_tokenizer()
    before = json.loads(tokenizer.backend_tokenizer.to_str())
    tokenizer(["a", "a b c"], truncation=True, max_length=4, padding=True)
    after = json.loads(tokenizer.backend_tokenizer.to_str())
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"truncation", "padding"} <= set(before), changed


@relies_on(
    "tokenizers",
    "byte_fallback",
    "the models of fast tokenizers say whether bytes stand in for unknown characters",
)
def _():
    from tokenizers.models import BPE

    assert BPE(byte_fallback=True).byte_fallback is True and BPE().byte_fallback is False


@relies_on(
    "transformers",
    "NoRepeatNGramLogitsProcessor",
    "a subclass may hand fewer tokens on to its __call__",
)
def _():
    takes(transformers.NoRepeatNGramLogitsProcessor.__call__, "input_ids", "scores")
    scores = transformers.NoRepeatNGramLogitsProcessor(2)(
        torch.tensor([[4, 5, 4]]), torch.zeros(1, 8)
    )
    assert scores[0, 5] == -float("inf")


@relies_on(
    "transformers",
    "PREFIX_CHECKPOINT_DIR",
    "the Trainer's folders are <output_dir>/checkpoint-<step>",
)
def _():
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    assert PREFIX_CHECKPOINT_DIR == "checkpoint"


@relies_on(
    "transformers",
    "state.best_model_checkpoint",
    "the Trainer's state has these fields, its callbacks these hooks",
)
def _():
    from loradrop.callbacks.trainer import LoRADropTrainerCallback

    has(
        transformers.TrainerState(),
        "global_step",
        "epoch",
        "max_steps",
        "num_train_epochs",
        "is_world_process_zero",
    )
    has(transformers.TrainerState(), "best_metric", "best_global_step", "best_model_checkpoint")
    has(
        transformers.TrainingArguments,
        "world_size",
        "bf16",
        "fp16",
        "max_steps",
        "num_train_epochs",
    )
    takes_over(LoRADropTrainerCallback, transformers.TrainerCallback)


@relies_on(
    "transformers", '"name_or_path"', "a config says where its model came from, and can be told"
)
def _():
    config = transformers.RobertaConfig()
    config.name_or_path = "a/b"
    assert config.name_or_path == "a/b" and transformers.LlamaConfig().name_or_path == ""


# -------------------------------------------------------------------------------------------- peft


def peft_model(**settings: object) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["query"], **settings))


@relies_on(
    "peft",
    "peft.tuners.lora.layer",
    "this module holds LoraLayer, the base class of all LoRA layers",
)
def _():
    from peft.tuners.lora.layer import LoraLayer

    assert sum(isinstance(module, LoraLayer) for module in peft_model().modules()) == 3


@relies_on(
    "peft",
    "adapter_layer_names",
    "a LoRA layer keeps its parts by the adapter's name under these attributes",
)
def _():
    layer = peft_model().base_model.model.roberta.encoder.layer[0].attention.self.query
    has(
        layer,
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "r",
        "scaling",
        "use_dora",
        "lora_variant",
        "lora_bias",
    )
    has(
        layer,
        "adapter_layer_names",
        "other_param_names",
        "active_adapters",
        "disable_adapters",
        "get_base_layer",
        "set_adapter",
    )
    assert layer.lora_A["default"].weight.shape == (2, 32) and layer.lora_B[
        "default"
    ].weight.shape == (32, 2)
    assert (
        layer.r["default"] == 2
        and layer.scaling["default"] == 4
        and layer.active_adapters == ["default"]
    )
    assert (
        not layer.use_dora.get("default")
        and not layer.lora_variant
        and not layer.lora_bias.get("default")
    )
    assert {"lora_A", "lora_B"} <= set(layer.adapter_layer_names) and {"r", "scaling"} <= set(
        layer.other_param_names
    )


@relies_on("peft", "layer.lora_variant", "DoRA's layers say so in use_dora or lora_variant")
def _():
    layer = peft_model(use_dora=True).base_model.model.roberta.encoder.layer[0].attention.self.query
    assert layer.use_dora.get("default") or "default" in layer.lora_variant


@relies_on(
    "peft",
    '"peft_config"',
    "configs by adapter's name; a PeftModel has get_base_model and merge_and_unload",
)
def _():
    model = peft_model()
    assert list(model.peft_config) == ["default"] and isinstance(model.peft_config, dict)
    has(model, "get_base_model", "merge_and_unload")
    takes(model.merge_and_unload, "adapter_names")
    has(
        model.peft_config["default"],
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
    )


@relies_on(
    "peft",
    "OUT_OF_THE_BASE",
    "initial values that change the base go by these names, and PEFT has no others",
)
def _():
    from peft import LoraConfig
    from peft.tuners.lora.layer import LoraLayer

    from loradrop.lora.peft_layer import OUT_OF_THE_BASE

    source = inspect.getsource(LoraLayer.update_layer)
    assert [name for name in OUT_OF_THE_BASE if f'"{name}"' not in source] == []
    known = str(inspect.signature(LoraConfig).parameters["init_lora_weights"].annotation)
    harmless = {
        "gaussian",
        "eva",
        "orthogonal",
        "mica",
    }  # the last one is a variant, which is refused as such
    names = set(re.findall(r"'(\w+)[^']*'", known)) | set(
        re.findall(r'init_lora_weights(?:\.lower\(\))? == "(\w+)"', source)
    )
    new = {name for name in names - harmless if not name.startswith(OUT_OF_THE_BASE)}
    assert not new, f"does {new} change the base weights?"


@relies_on(
    "peft",
    "get_peft_model_state_dict",
    "files name a matrix <module>.lora_A.weight, without the adapter",
)
def _():
    from peft import get_peft_model_state_dict

    names = list(get_peft_model_state_dict(peft_model()))
    assert len(names) == 6 and all(
        re.search(r"\.query\.lora_[AB]\.weight$", name) for name in names
    ), names


@relies_on(
    "peft",
    "PrefixEncoder(config)",
    "one row of all layers' keys and values a virtual token, in `embedding`",
)
def _():
    from peft import PrefixEncoder, PrefixTuningConfig

    config = PrefixTuningConfig(
        num_virtual_tokens=5, token_dim=8, num_layers=3, encoder_hidden_size=8
    )
    assert PrefixEncoder(config).embedding.weight.shape == (5, 3 * 2 * 8)


@relies_on(
    "peft", "PromptEmbedding(config", "SAMPLE_VOCAB takes rows of the vocabulary's embedding"
)
def _():
    from peft import PromptEmbedding, PromptTuningConfig

    words = torch.nn.Embedding(9, 4)
    config = PromptTuningConfig(
        num_virtual_tokens=3,
        token_dim=4,
        num_transformer_submodules=1,
        prompt_tuning_init="SAMPLE_VOCAB",
    )
    prompt = PromptEmbedding(config, words).embedding.weight
    assert prompt.shape == (3, 4) and all((words.weight == row).all(dim=1).any() for row in prompt)


@relies_on(
    "peft", "rankallocator", "AdaLoRA's scores, schedule and layers are kept under these attributes"
)
def _():
    from peft import AdaLoraConfig, AdaLoraModel

    from loradrop.methods.adalora import SCORES

    config = AdaLoraConfig(init_r=3, target_r=2, target_modules=["query"], total_step=10)
    tuner = AdaLoraModel(tiny_model(), config, "default")
    has(tuner.rankallocator, *SCORES)
    has(tuner.peft_config["default"], "total_step", "tinit", "tfinal", "rank_pattern")
    has(tuner, "update_and_allocate")
    layers = [module for module in tuner.model.modules() if hasattr(module, "lora_E")]
    assert len(layers) == 3
    has(layers[0], "lora_A", "lora_B", "ranknum", "in_features", "out_features")
    assert layers[0].lora_B["default"].shape == (32, 3) and layers[0].lora_A["default"].shape == (
        3,
        32,
    )


# --------------------------------------------------------------------------------------- lightning


@relies_on(
    "pytorch-lightning",
    "set_epoch",
    "samplers hear of each epoch; inside optimizer_step the step is not counted",
)
def _():
    import pytorch_lightning as pl

    epochs, steps = [], []

    class Sampler(torch.utils.data.Sampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

        def __iter__(self):
            return iter([[0], [1]])

        def __len__(self):
            return 2

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.strict_loading = False

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(2, 1), sampler=Sampler(), batch_size=None)

        def training_step(self, batch):
            return (self.weight * batch).sum()

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            steps.append(self.global_step)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, log_every_n_steps=1, **options)
    trainer.fit(Module())
    assert sorted(set(epochs)) == [0, 1], f"set_epoch was called with {epochs}"
    assert steps == [0, 1, 2, 3], f"global_step was {steps}"
    has(
        trainer,
        "is_last_batch",
        "estimated_stepping_batches",
        "fast_dev_run",
        "world_size",
        "optimizers",
        "precision",
    )


@relies_on("pytorch-lightning", "on_train_batch_start", "our hooks are ones that Lightning calls")
def _():
    import pytorch_lightning as pl

    from loradrop.callbacks.lightning import LoRADropLightningCallback
    from loradrop.training.module import RunModule

    takes_over(LoRADropLightningCallback, pl.Callback)
    takes_over(RunModule, pl.LightningModule)


@relies_on(
    "pytorch-lightning",
    "_get_train_description",
    "the progress bar's text comes from here, given the current epoch",
)
def _():
    from pytorch_lightning.callbacks import RichProgressBar

    takes(RichProgressBar._get_train_description, "current_epoch")
    assert "_get_train_description" in inspect.getsource(RichProgressBar.on_train_epoch_start)


@relies_on(
    "pytorch-lightning", "enable_version_counter", "one checkpoint file, rewritten every so often"
)
def _():
    from pytorch_lightning.callbacks import ModelCheckpoint

    takes(ModelCheckpoint, "dirpath", "filename", "train_time_interval", "enable_version_counter")
    has(ModelCheckpoint, "on_train_batch_end")


# -----------------------------------------------------------------------------------------------
# hydra and omegaconf


@relies_on(
    "hydra-core",
    "OverridesParser.create",
    "overrides can be parsed and their choices told apart as Hydra does",
)
def _():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = ["seed=0,1", "+a=1", "++b=1", "~c", "d.e=2"]
    swept, added, forced, deleted, single = OverridesParser.create().parse_overrides(given)
    assert swept.is_sweep_override() and list(swept.sweep_string_iterator()) == ["0", "1"]
    assert (
        swept.get_key_element() == "seed" and single.input_line == "d.e=2" and single.value() == 2
    )
    assert (
        added.is_add()
        and forced.is_force_add()
        and deleted.is_delete()
        and single.key_or_group == "d.e"
    )
    assert not (
        single.is_sweep_override() or single.is_add() or single.is_force_add() or single.is_delete()
    )


@relies_on(
    "hydra-core",
    "GlobalHydra.instance()",
    "it says whether Hydra is initialised, and what options a group has",
)
def _():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert GlobalHydra.instance().is_initialized()
        loader = GlobalHydra.instance().config_loader()
        assert "lora_drop" in loader.get_group_options("method") and not loader.get_group_options(
            "seed"
        )


@relies_on(
    "hydra-core",
    "compute_defaults_list",
    "it lists the files of a config, each with its place and its content",
)
def _():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    import experiments.config.schema  # noqa: F401 (run.yaml names it)

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = ["backbone=roberta_base", "task=rte", "method=vera", "seed=1"]
        found = loader.compute_defaults_list("run", given, RunMode.RUN)
        assert [override.key_or_group for override in found.config_overrides] == ["seed"]
        places = {file.config_path: file.package for file in found.defaults}
        # a group with a dot is the group, and has a choice of its own
        assert (places["recipe/roberta_base/rte"], places["recipe/./roberta_base/rte-vera"]) == (
            "recipe",
            "",
        )
        content = loader.repository.load_config("recipe/./roberta_base/rte-vera").config
        assert content.recipe.epochs == 160


@relies_on(
    "hydra-core",
    "hydra._internal.config_repository",
    "a loader's repository can be replaced by one that records",
)
def _():
    from hydra import initialize_config_dir
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        has(GlobalHydra.instance().config_loader(), "repository")
    takes(CachingConfigRepository.__init__, "delegate")
    has(
        CachingConfigRepository, "load_config", "get_group_options", "config_exists", "group_exists"
    )


@relies_on(
    "hydra-core", "hydra.experimental.callback", "a sweep's start and end are told to a callback"
)
def _():
    from hydra.experimental.callback import Callback

    has(Callback, "on_multirun_start", "on_multirun_end")


@relies_on(
    "hydra-core", "error.__cause__", "instantiate keeps the constructor's own error as the cause"
)
def _():
    from hydra.errors import CompactHydraException, HydraException, InstantiationException
    from hydra.utils import instantiate

    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "datetime.date", "year": 0, "month": 1, "day": 1})
    assert isinstance(caught.value.__cause__, ValueError)
    assert issubclass(CompactHydraException, HydraException)


@relies_on(
    "omegaconf", "OmegaConf.get_type(", "the class of the schema that a node, or a node's key, has"
)
def _():
    from omegaconf import OmegaConf

    from experiments.config.schema import Run, Trainer

    node = OmegaConf.structured(Run)
    assert OmegaConf.get_type(node) is Run and OmegaConf.get_type(node, "trainer") is Trainer


# ------------------------------------------------------------------------------- datasets,
# evaluate, hub, wandb, torch


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


# ------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.library}: {row.code}")
def test_what_is_relied_on_holds(row):
    places = [str(path.relative_to(ROOT)) for path, text in OURS.items() if row.code in text]
    assert places, f"nothing says `{row.code}` any more: take the row out, or name what replaced it"
    try:
        row.check()
    except Exception as error:
        pytest.fail(
            f"{row.library} {version(row.library)} changed what we rely on: {row.needs}.\n"
            f"Used in {', '.join(places)} (`{row.code}`).\n{type(error).__name__}: {error}"
        )


def test_a_broken_row_says_what_changed_and_where():
    def broken():
        has(transformers.DynamicCache, "no_such_name")

    with pytest.raises(pytest.fail.Exception) as caught:
        test_what_is_relied_on_holds(Row("transformers", "cache_argument", "it has a name", broken))
    message = str(caught.value)
    assert (
        f"transformers {transformers.__version__} changed what we rely on: it has a name" in message
    )
    assert "prefix_tuning.py (`cache_argument`)" in message and "has no no_such_name" in message


ADDED = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}  # by Python itself
NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # public, in spite of the underscore


def own_names(trees: list[ast.AST]) -> set[str]:
    """What our own code defines: functions, classes, and attributes that it sets on `self`."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")  # neither __init__ nor Hydra's _target_


def test_every_private_attribute_of_a_library_has_its_row():
    trees = {path: ast.parse(text) for path, text in OURS.items()}
    own, listed = own_names(list(trees.values())), {row.code for row in TABLE}
    unknown = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and private(node.attr)
        and node.attr not in own | NAMED_TUPLES | listed
    ]
    assert not unknown, f"private names without a row in TABLE; is there a public one? {unknown}"


def test_nothing_is_imported_from_a_private_module_without_a_row():
    found, listed = [], {row.code for row in TABLE}
    for path, text in OURS.items():
        for node in ast.walk(ast.parse(text)):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in imported:
                ours = name.split(".")[0] in ("loradrop", "experiments")
                if (
                    not ours
                    and name not in listed
                    and any(private(part) for part in name.split("."))
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not found


def modules() -> list[ModuleType]:
    packages = [importlib.import_module(name) for name in ("loradrop", "experiments")]
    found = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    return [importlib.import_module(name) for name in found if not name.endswith("__main__")]


def test_private_methods_of_a_library_are_overridden_only_where_a_row_says_so():
    """On purpose, or by an accident of names, which would change what the library does."""
    listed = " ".join(f"{row.code} {row.needs}" for row in TABLE)
    found = []
    for cls in {
        cls for module in modules() for cls in vars(module).values() if isinstance(cls, type)
    }:
        if cls.__module__.split(".")[0] not in ("loradrop", "experiments"):
            continue
        bases = [
            base
            for base in cls.__mro__
            if base.__module__.split(".")[0] not in ("loradrop", "experiments")
        ]
        names = [name for name in vars(cls) if private(name) and name not in ADDED]
        found += [
            f"{cls.__qualname__}.{n}"
            for n in names
            if any(n in vars(base) for base in bases) and n not in listed
        ]
    assert not found

"""Hub id or folder -> model and tokenizer.

A Hub id resolves to `<models>/<id>` where that folder exists, to the package's own assets for ids that start with
`loradrop/`, and else to the Hub or its local cache. Weights are safetensors only, and no remote code is run.
Frozen weights may be bfloat16; what trains of a model is float32, as small updates would be lost to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import GatedRepoError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from loradrop.hub import (
    files_fingerprint,
    has_one_of,
    hub_available,
    model_folder,
    why_unavailable,
)
from loradrop.tasks.base import LabelTask, Task

NF4 = "nf4"
ENCODERS = {
    "bert",
    "roberta",
}  # which transformers can also build as decoders, though they were not trained so
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained model; the fields are the keys of its YAML in conf/backbone."""

    name: str
    hub_id: str
    revision: str | None  # pinned commit on the Hub
    dtype: str  # of the frozen weights: float32, bfloat16
    gradient_checkpointing: bool = False  # computes activations twice instead of keeping them
    quantization: str | None = (
        None  # nf4: the layers' weights in 4 bits, as QLoRA (arXiv 2305.14314)
    )

    def __post_init__(self) -> None:
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype: there is no type '{self.dtype}'; try float32 or bfloat16")
        if self.quantization not in (None, NF4):
            raise ValueError(f"quantization must be {NF4} or null, got '{self.quantization}'")
        if self.quantization and find_spec("bitsandbytes") is None:
            raise ValueError(
                f"quantization={NF4} needs bitsandbytes: pip install 'loradrop[quantization]'"
            )

    def config(self, models: Path | None) -> Any:
        """The model's configuration, without its weights."""
        try:
            return AutoConfig.from_pretrained(**self._source(models))
        except OSError as error:
            if not isinstance(error.__cause__, GatedRepoError):
                raise
            raise PermissionError(
                f"backbone {self.name}: the Hub refuses {self.hub_id} to this account. Accept its licence at "
                f"https://huggingface.co/{self.hub_id} and log in with `hf auth login` (or set HF_TOKEN), or put the model "
                f"into {self._wanted(models)}."
            ) from error

    def check(self, task: Task, max_length: int, models: Path | None, extra: int = 0) -> None:
        """ValueError or OSError, within seconds, where the backbone is not there or does not fit the task.

        Its positions must hold the longest text and the `extra` tokens that a method puts in front of it.
        """
        config = self.config(models)
        longest = longest_text(config)
        if longest and max_length + extra > longest:
            adds = f" and the method adds {extra} tokens" if extra else ""
            raise ValueError(
                f"recipe.max_length is {max_length}{adds}, but backbone {self.name} takes at most {longest} tokens"
            )
        known = (
            MODEL_FOR_CAUSAL_LM_MAPPING
            if task.generates
            else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        )
        if type(config) not in known or (task.generates and config.model_type in ENCODERS):
            kind = "does not generate text" if task.generates else "has no sequence classifier"
            raise ValueError(
                f"backbone {self.name} ({config.model_type}) {kind}, as task {task.name} needs it to"
            )
        self._check_weights(models, config)

    def skeleton(self, task: Task, config: Any) -> PreTrainedModel:
        """The model of a configuration without weights, on the meta device: what fits it and counts is known at once."""
        if not task.generates:
            config.num_labels = cast(LabelTask, task).num_labels
        with meta_device():
            model = _auto(task).from_config(config, dtype=getattr(torch, self.dtype))
        return freeze_encoder(self._switched(model))

    def load(self, task: Task, models: Path | None) -> tuple[PreTrainedModel, Any]:
        """The model in training mode, and its tokenizer: frozen except for the new head of a task that has labels."""
        transformers.logging.set_verbosity_error()  # that the head is new is no news
        transformers.logging.disable_progress_bar()
        try:
            return self._load(task, self._source(models))
        except (SafetensorError, json.JSONDecodeError) as error:
            where = self._source(models)["pretrained_model_name_or_path"]
            raise ValueError(
                f"backbone {self.name}: a file in {where} is damaged: {error}"
            ) from error

    def fingerprint(self, models: Path | None) -> str:
        """Stands for the files of a local folder (sampled, where they are large), or for the pinned revision."""
        folder = self._folder(models)
        return str(self.revision) if folder is None else files_fingerprint(folder)

    def _load(self, task: Task, source: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        tokenizer.padding_side = "right"
        options = _head(task) | {"dtype": getattr(torch, self.dtype), "use_safetensors": True}
        if self.quantization:
            options["quantization_config"] = _nf4(options["dtype"])
        model, report = _auto(task).from_pretrained(**source, **options, output_loading_info=True)
        if tokenizer.pad_token is None:
            give_padding(tokenizer)
            model.config.pad_token_id = tokenizer.pad_token_id
        model = freeze_encoder(self._switched(model))
        frozen = {
            name for name, parameter in model.named_parameters() if not parameter.requires_grad
        }
        lost = sorted(frozen & set(report["missing_keys"]))
        if lost:  # random weights that nothing would train
            raise ValueError(
                f"backbone {self.name}: {source['pretrained_model_name_or_path']} lacks {', '.join(lost[:3])}; "
                "is it of another kind of model, or was it converted as one?"
            )
        return model.train(), tokenizer  # dropout is off as loaded

    def _switched(self, model: PreTrainedModel) -> PreTrainedModel:
        model.config.use_cache = False  # of a decoder: keys and values are for generating
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return model

    def _check_weights(self, models: Path | None, config: Any) -> None:
        folder = self._folder(models)
        if folder is None and has_one_of(self.hub_id, self.revision, WEIGHTS):
            return
        if folder is not None and any((folder / name).is_file() for name in WEIGHTS):
            return
        source, wanted = folder or self.hub_id, self._wanted(models)
        decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and config.model_type not in ENCODERS
        kind = (
            "AutoModelForCausalLM" if decoder else "AutoModel"
        )  # the latter drops what turns states into tokens
        raise FileNotFoundError(
            f"backbone {self.name}: {source} has no {WEIGHTS[0]}, and pickled weights are not loaded here. To convert them, "
            f"once: python -c \"from transformers import {kind}, AutoTokenizer; [part.from_pretrained('{source}')"
            f".save_pretrained('{wanted}') for part in ({kind}, AutoTokenizer)]\" "
            "(paths.models or LORADROP_MODELS names the folder of all models)"
        )

    def _folder(self, models: Path | None) -> Path | None:
        return model_folder(self.hub_id, models)

    def _wanted(self, models: Path | None) -> Path:
        """The folder that would take the Hub's place."""
        return Path(models or "<paths.models>") / self.hub_id

    def _source(self, models: Path | None) -> dict[str, Any]:
        """Where to load from: keyword arguments of from_pretrained."""
        folder = self._folder(models)
        if folder is not None:
            return {"pretrained_model_name_or_path": folder}
        source = {"pretrained_model_name_or_path": self.hub_id, "revision": self.revision}
        if hub_available():
            return source
        try:
            AutoConfig.from_pretrained(**source, local_files_only=True)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"backbone {self.name}: {why_unavailable()}, and {self._wanted(models)} is no folder. Put the model there "
                f"(config.json, model.safetensors, tokenizer.json), or point paths.models or LORADROP_MODELS to it."
            ) from error
        return source | {"local_files_only": True}


@contextmanager
def meta_device() -> Iterator[None]:
    """A context in which transformers builds models without weights, also if it builds its first one there."""
    # this import leads to torch._dynamo's, which torch 2.6 cannot carry out on the meta device
    import_module("transformers.modeling_utils")
    with torch.device("meta"):
        yield


def longest_text(config: Any) -> int | None:
    """Tokens that the positions of a model suffice for; None where they are not limited."""
    # RoBERTa's positions start behind the padding index
    offset = (
        config.pad_token_id + 1
        if config.model_type in {"roberta", "xlm-roberta", "camembert"}
        else 0
    )
    longest = getattr(config, "max_position_embeddings", None)
    return longest and longest - offset


def _auto(task: Task) -> Any:
    return AutoModelForCausalLM if task.generates else AutoModelForSequenceClassification


def _nf4(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """4-bit NormalFloat with doubly quantised constants; products in `dtype`. Heads stay as they are."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score", "classifier", "pooler"],
    )


def _head(task: Task) -> dict[str, Any]:
    """What a model's new head must know of the task, as keyword arguments of from_pretrained."""
    if task.generates:
        return {}
    task = cast(LabelTask, task)
    problem = "regression" if task.is_regression else "single_label_classification"
    names = dict(enumerate(task.labels or ()))
    labels = (
        {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
    )
    return {"num_labels": task.num_labels, "problem_type": problem, **labels}


def freeze_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Leave only a new head trainable, in float32: its modules take what comes from the encoder as such.

    What turns a language model's states into tokens is pretrained, and frozen with the rest.
    """
    model.requires_grad_(False)
    if model.get_output_embeddings() is not None:
        return model
    for name, parameter in head_parameters(model):
        parameter.requires_grad_(True)
        if parameter.dtype != torch.float32:
            module = model.get_submodule(name.rpartition(".")[0]).float()
            module.register_forward_pre_hook(_as_float32)
    return model


def _as_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


def give_padding(tokenizer: Any) -> None:
    """A pad token for a tokenizer without one (Llama's); no text holds it.

    A classifier on the last token finds it as the last one that is not padding. Where bytes stand in for unknown characters
    the unknown token never comes up, else the end token; that a text spells one of them out must not count.
    """
    by_bytes = tokenizer.is_fast and getattr(
        tokenizer.backend_tokenizer.model, "byte_fallback", False
    )
    tokenizer.pad_token = (tokenizer.unk_token if by_bytes else None) or tokenizer.eos_token
    tokenizer.split_special_tokens = True


def head_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """What turns states into classes or tokens: all that is outside the encoder, and its pooler."""
    encoder = model.base_model_prefix + "."
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not name.startswith(encoder) or name.startswith(encoder + "pooler.")
    ]


def parameter_counts(model: PreTrainedModel, inactive: int = 0) -> dict[str, int]:
    """Trainable numbers outside the head (`adapter`, less `inactive` ones) and in it (`head`), and all numbers (`total`)."""
    head = {id(parameter) for _, parameter in head_parameters(model)}
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[id(parameter) in head] += parameter.numel() * parameter.requires_grad
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"adapter": sizes[False] - inactive, "head": sizes[True], "total": total}

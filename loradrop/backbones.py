"""Load a model and its tokenizer from a Hub id or a folder.

A Hub id resolves to `<models>/<id>` if that folder exists, to the package's own assets if it starts
with `loradrop/`, and otherwise to the Hub or its local cache. Only safetensors are loaded, and no
remote code runs. Frozen weights may be bfloat16; trainable weights are float32, as rounding would
lose small updates.
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
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
)

from loradrop.heads import auto_class, freeze_encoder, head_options
from loradrop.hub import (
    files_fingerprint,
    has_one_of,
    hub_available,
    model_folder,
    why_unavailable,
)
from loradrop.tasks.base import LabelTask, Task

NF4 = "nf4"
# transformers can build these as decoders too, though they were not trained as such
ENCODERS = {"bert", "roberta"}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained model. The fields are the keys of its YAML in conf/backbone.

    Args:
        name: The name in results.
        hub_id: The model's id on the Hub.
        revision: The pinned commit on the Hub.
        dtype: The dtype of the frozen weights: float32 or bfloat16.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        quantization: `nf4` keeps the layers' weights in 4 bits, as QLoRA does (arXiv 2305.14314).
    """

    name: str
    hub_id: str
    revision: str | None
    dtype: str
    gradient_checkpointing: bool = False
    quantization: str | None = None

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
        """Return the model's configuration, without its weights."""
        try:
            return AutoConfig.from_pretrained(**self._source(models))
        except OSError as error:
            if not isinstance(error.__cause__, GatedRepoError):
                raise
            raise PermissionError(
                f"backbone {self.name}: the Hub refuses {self.hub_id} to this account. "
                f"Accept its licence at https://huggingface.co/{self.hub_id} and log in with "
                "`hf auth login` (or set HF_TOKEN), or put the model into "
                f"{self._wanted(models)}."
            ) from error

    def check(self, task: Task, max_length: int, models: Path | None, extra: int = 0) -> None:
        """Check within seconds that the backbone is available and fits the task.

        Args:
            task: The task.
            max_length: The largest number of tokens of a text.
            models: The folder of local models.
            extra: The number of tokens that a method puts in front of each text.

        Raises:
            ValueError: The backbone has too few positions or cannot do what the task needs.
            OSError: There are no weights that can be loaded.
        """
        config = self.config(models)
        longest = longest_text(config)
        if longest and max_length + extra > longest:
            adds = f" and the method adds {extra} tokens" if extra else ""
            raise ValueError(
                f"recipe.max_length is {max_length}{adds}, but backbone {self.name} takes at most "
                f"{longest} tokens"
            )
        known = (
            MODEL_FOR_CAUSAL_LM_MAPPING
            if task.generates
            else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        )
        if type(config) not in known or (task.generates and config.model_type in ENCODERS):
            lack = "does not generate text" if task.generates else "has no sequence classifier"
            raise ValueError(
                f"backbone {self.name} ({config.model_type}) {lack}, "
                f"as task {task.name} needs it to"
            )
        self._check_weights(models, config)

    def skeleton(self, task: Task, config: Any) -> PreTrainedModel:
        """Return the model without weights, on the meta device.

        It shows at once which modules there are and how many parameters they have.
        """
        if not task.generates:
            config.num_labels = cast(LabelTask, task).num_labels
        with meta_device():
            model = auto_class(task).from_config(config, dtype=getattr(torch, self.dtype))
        return freeze_encoder(self._switched(model))

    def load(self, task: Task, models: Path | None) -> tuple[PreTrainedModel, Any]:
        """Return the model in training mode, and its tokenizer.

        The model is frozen except for the new head of a task with labels.
        """
        transformers.logging.set_verbosity_error()  # no warning that the head is new
        transformers.logging.disable_progress_bar()
        try:
            return self._load(task, self._source(models))
        except (SafetensorError, json.JSONDecodeError) as error:
            where = self._source(models)["pretrained_model_name_or_path"]
            raise ValueError(
                f"backbone {self.name}: a file in {where} is damaged: {error}"
            ) from error

    def fingerprint(self, models: Path | None) -> str:
        """Return a hash of a local folder's files, or the pinned revision if there is no folder."""
        folder = self._folder(models)
        return str(self.revision) if folder is None else files_fingerprint(folder)

    def _load(self, task: Task, source: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        tokenizer.padding_side = "right"
        options = head_options(task) | {
            "dtype": getattr(torch, self.dtype),
            "use_safetensors": True,
        }
        if self.quantization:
            options["quantization_config"] = _nf4(options["dtype"])
        model, report = auto_class(task).from_pretrained(
            **source, **options, output_loading_info=True
        )
        if tokenizer.pad_token is None:
            give_padding(tokenizer)
            model.config.pad_token_id = tokenizer.pad_token_id
        model = freeze_encoder(self._switched(model))
        frozen = {
            name for name, parameter in model.named_parameters() if not parameter.requires_grad
        }
        lost = sorted(frozen & set(report["missing_keys"]))
        if lost:  # they would stay random, as nothing trains them
            raise ValueError(
                f"backbone {self.name}: {source['pretrained_model_name_or_path']} lacks "
                f"{', '.join(lost[:3])}; is it of another kind of model, or was it converted "
                "as one?"
            )
        return model.train(), tokenizer  # a loaded model has dropout off

    def _switched(self, model: PreTrainedModel) -> PreTrainedModel:
        model.config.use_cache = False  # a decoder's keys and values serve generation only
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
        # AutoModel drops the output embeddings, which a decoder needs
        loader = "AutoModelForCausalLM" if decoder else "AutoModel"
        raise FileNotFoundError(
            f"backbone {self.name}: {source} has no {WEIGHTS[0]}, and pickled weights are not "
            f'loaded here. To convert them, once: python -c "from transformers import {loader}, '
            f"AutoTokenizer; [part.from_pretrained('{source}').save_pretrained('{wanted}') "
            f'for part in ({loader}, AutoTokenizer)]" '
            "(paths.models or LORADROP_MODELS names the folder of all models)"
        )

    def _folder(self, models: Path | None) -> Path | None:
        return model_folder(self.hub_id, models)

    def _wanted(self, models: Path | None) -> Path:
        """Return the folder in which a local copy would be found."""
        return Path(models or "<paths.models>") / self.hub_id

    def _source(self, models: Path | None) -> dict[str, Any]:
        """Return the place to load from, as keyword arguments of from_pretrained."""
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
                f"backbone {self.name}: {why_unavailable()}, and {self._wanted(models)} is not "
                "a folder. Put the model there (config.json, model.safetensors, tokenizer.json), "
                "or point paths.models or LORADROP_MODELS to it."
            ) from error
        return source | {"local_files_only": True}


@contextmanager
def meta_device() -> Iterator[None]:
    """A context in which transformers builds models without weights, even its first model."""
    # it imports torch._dynamo, which torch 2.7 cannot import on the meta device
    import_module("transformers.modeling_utils")
    with torch.device("meta"):
        yield


def longest_text(config: Any) -> int | None:
    """Return the number of tokens for which a model has positions, None if there is no limit."""
    # the positions of RoBERTa and MPNet start after the padding index
    offset = (
        config.pad_token_id + 1
        if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}
        else 0
    )
    longest = getattr(config, "max_position_embeddings", None)
    return longest and longest - offset


def _nf4(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """4-bit NormalFloat, double quantisation, products in `dtype`. Heads stay as they are."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score", "classifier", "pooler"],
    )


def give_padding(tokenizer: Any) -> None:
    """Give a pad token to a tokenizer without one (Llama's). No text may contain it.

    A classifier on the last token looks for the last one that is not padding. The unknown token
    never occurs if bytes stand in for unknown characters; otherwise the end token is used. Text
    that spells out such a token must not produce it.
    """
    by_bytes = tokenizer.is_fast and getattr(
        tokenizer.backend_tokenizer.model, "byte_fallback", False
    )
    tokenizer.pad_token = (tokenizer.unk_token if by_bytes else None) or tokenizer.eos_token
    tokenizer.split_special_tokens = True

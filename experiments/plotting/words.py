"""The words that figures use for metrics, methods, tasks, modules and keys of the config."""

from __future__ import annotations

WORDS = {
    # metrics
    "matthews_correlation": "Matthews correlation",
    "spearman": "Spearman correlation",
    "f1": "F1",
    "bleu": "BLEU",
    "stemmed_rouge_l": "ROUGE-L",
    # methods
    "lora": "LoRA",
    "lora_drop": "LoRA-drop",
    "lora_drop_no_share": "LoRA-drop, no sharing",
    "lora_drop_inverse": "LoRA-drop, inverse",
    "lora_drop_random": "LoRA-drop, random",
    "lora_drop_upper_layers": "LoRA-drop, upper layers",
    "full": "full fine-tuning",
    "adalora": "AdaLoRA",
    "adapter_drop": "AdapterDrop",
    "bitfit": "BitFit",
    "hifi": "HiFi",
    "houlsby": "Houlsby adapters",
    "prilora": "PRILoRA",
    "prune_lora": "pruned LoRA",
    "s2_lora": "S2-LoRA",
    "sparse_adapter": "Sparse Adapter",
    "tied_lora": "Tied-LoRA",
    "vera": "VeRA",
    # tasks
    "cola": "CoLA",
    "rte": "RTE",
    "mnli": "MNLI",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "e2e": "E2E",
    "dart": "DART",
    "dialogsum": "DialogSum",
    "gsm8k": "GSM8K",
    "mbpp": "MBPP",
    "squad": "SQuAD",
    "xsum": "XSum",
    # backbones
    "mpnet_base": "MPNet-base",
    "all_minilm_l6": "MiniLM-L6",
    "roberta_base": "RoBERTa-base",
    "roberta_large": "RoBERTa-large",
    "deberta_v3_base": "DeBERTaV3-base",
    "llama2_7b": "Llama-2-7b",
    "tiny_roberta": "tiny RoBERTa",
    "tiny_llama": "tiny Llama",
    # module types
    "q": "query",
    "v": "value",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "query_proj": "query",
    "key_proj": "key",
    "value_proj": "value",
    # keys of the config
    "threshold": "threshold T",
    "rank": "rank r",
    "sample_ratio": "sampled part of the training set",
    "sample_steps": "optimiser steps of stage 1",
}


def words(name: object) -> str:
    """The words for a name, or for a dotted key of the config: "method.rank" is "rank r"."""
    last = str(name).rpartition(".")[2]
    return WORDS.get(last, last.replace("_", " "))

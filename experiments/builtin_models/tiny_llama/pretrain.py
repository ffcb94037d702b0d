"""Rebuild tiny_llama: generated text, tokenizer and weights, all from one seed.

    python -m experiments.builtin_models.tiny_llama.pretrain --help

Next-token prediction on CPU, on a stack that grows (experiments.builtin_models.pretraining).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.builtin_models.command import parser, pretrain
from experiments.builtin_models.pretraining import Batches, Guess, stack
from experiments.builtin_models.tiny_llama.corpus import Corpus

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
POSITIONS = 256
# Training weight of tokens that did not occur earlier in the text. With 1, copying is learnt
# much later.
NEW = 0.2


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; a word is one token anywhere in a line, a text begins with `<s>`."""
    bpe = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split("\n", "isolated")
    in_words = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([lines, in_words])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
    )


def build(layers: int, vocabulary: int, smaller: LlamaForCausalLM | None) -> LlamaForCausalLM:
    """Build a model; a smaller one gives it copies of its layers and all other weights.

    Args:
        layers: The depth.
        vocabulary: The number of tokens.
        smaller: A model of the same width to start from.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.05,  # 0.02 is meant for a width of 4096
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).train()
    if smaller is not None:
        model.model.embed_tokens.load_state_dict(smaller.model.embed_tokens.state_dict())
        model.model.norm.load_state_dict(smaller.model.norm.state_dict())
        stack(model.model.layers, smaller.model.layers)
    return model


def guess(model: LlamaForCausalLM, ids: Tensor) -> Guess:
    """Predict every token but the first. Watched are tokens that occurred earlier in the text."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = ids[:, 1:]
    earlier = (targets.unsqueeze(2) == ids[:, :-1].unsqueeze(1)).tril().any(2)  # (rows, targets)
    losses = F.cross_entropy(logits.float(), targets.flatten(), reduction="none")
    weights = torch.where(earlier.flatten(), 1.0, NEW if model.training else 1.0)
    loss = (losses * weights).sum() / weights.sum()
    return Guess(loss, targets.flatten(), logits.argmax(-1) == targets.flatten(), earlier.flatten())


def main() -> None:
    defaults = {"texts": 70_000, "steps": [1800, 400, 600], "lr": [3e-3, 2e-3, 1.5e-3]}
    args = parser(__doc__, "tiny_llama", **defaults).parse_args()

    def batches(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Batches:
        rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
        return Batches(rows, args.batch_tokens, args.seed)

    pretrain(args, Corpus, train_tokenizer, batches, build, guess)


if __name__ == "__main__":
    main()

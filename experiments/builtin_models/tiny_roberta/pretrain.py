"""Rebuild tiny_roberta: generated text, tokenizer and weights, all from one seed.

    python -m experiments.builtin_models.tiny_roberta.pretrain --help

Masked language modelling on CPU, on a stack that grows (experiments.builtin_models.pretraining).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer, Tokenizer, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from experiments.builtin_models.command import parser, pretrain
from experiments.builtin_models.pretraining import Batches, Guess, stack
from experiments.builtin_models.tiny_roberta.corpus import SALIENT, Corpus

# RoBERTa's first ids; its mask is the last one
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# fractions of the chosen tokens; replacements come from the batch, so they look plausible
MASKED, REPLACED, KEPT = 0.75, 0.15, 0.10


def train_tokenizer(texts: list[list[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with RoBERTa's special tokens and pair template."""
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator(
        (" ".join(text) for text in texts), vocabulary, special_tokens=SPECIAL, show_progress=False
    )
    start, end = ("<s>", bpe.token_to_id("<s>")), ("</s>", bpe.token_to_id("</s>"))
    tokenizer = Tokenizer.from_str(bpe.to_str())
    tokenizer.post_processor = processors.RobertaProcessing(
        end, start, trim_offsets=True, add_prefix_space=True
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **names,
    )


def build(layers: int, vocabulary: int, smaller: RobertaForMaskedLM | None) -> RobertaForMaskedLM:
    """Build a model; a smaller one gives it copies of its layers and all other weights.

    Args:
        layers: The depth.
        vocabulary: The number of tokens.
        smaller: A model of the same width to start from.
    """
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        # twice the width, not four times: a third faster on CPU, where the demo runs
        intermediate_size=256,
        max_position_embeddings=130,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,  # a model this small underfits; dropout would only cost time
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,  # 0.02 is meant for a width of 768
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = RobertaForMaskedLM(config).train()
    if smaller is not None:
        model.roberta.embeddings.load_state_dict(smaller.roberta.embeddings.state_dict())
        model.lm_head.load_state_dict(smaller.lm_head.state_dict())
        stack(model.roberta.encoder.layer, smaller.roberta.encoder.layer)
    return model


class MaskedBatches(Batches):
    """Batches with fresh masks: corrupted ids, chosen positions, their true ids, which are salient.

    Args:
        rows: Token ids.
        tokens: The size of a batch.
        seed: For order and masks.
        mask_rates: (vocabulary,) How often each token is chosen.
        special: Ids that are never chosen.
        mask: The id of the mask.
    """

    def __init__(
        self,
        rows: list[list[int]],
        tokens: int,
        seed: int,
        mask_rates: Tensor,
        special: Tensor,
        mask: int,
    ) -> None:
        super().__init__(rows, tokens, seed)
        self.mask_rates, self.special, self.mask = mask_rates, special, mask
        self.generator = torch.Generator().manual_seed(seed)

    def prepare(self, ids: Tensor) -> tuple[Tensor, ...]:
        draw = lambda: torch.rand(ids.shape, generator=self.generator)  # noqa: E731
        ordinary = ~torch.isin(ids, self.special)
        chosen = (draw() < self.mask_rates[ids]) & ordinary
        fate, corrupted = draw(), ids.clone()
        corrupted[chosen & (fate < MASKED)] = self.mask
        swapped = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
        pool = ids[ordinary]
        corrupted[swapped] = pool[
            torch.randint(len(pool), (int(swapped.sum()),), generator=self.generator)
        ]
        return corrupted, chosen, ids[chosen], self.mask_rates[ids[chosen]] == self.mask_rates.max()


def guess(model: RobertaForMaskedLM, batch: tuple[Tensor, ...]) -> Guess:
    """Predict the chosen positions; only these go through the vocabulary layer."""
    ids, chosen, targets, salient = batch
    logits = model.lm_head(model.roberta(ids).last_hidden_state[chosen])
    return Guess(
        F.cross_entropy(logits.float(), targets), targets, logits.argmax(-1) == targets, salient
    )


def main() -> None:
    defaults = {"texts": 150_000, "steps": [3000, 1500, 2200], "lr": [2e-3, 1e-3, 1e-3]}
    options = parser(__doc__, "tiny_roberta", **defaults)
    options.add_argument("--mask-share", type=float, default=0.2)
    options.add_argument(
        "--salient-share", type=float, default=0.6, help="of the words in corpus.SALIENT"
    )
    args = options.parse_args()

    def batches(tokenizer: PreTrainedTokenizerFast, texts: list[list[str]]) -> Batches:
        mask_rates = torch.full((len(tokenizer),), args.mask_share)
        salient = tokenizer(" ".join(SALIENT), add_special_tokens=False)["input_ids"]
        mask_rates[salient] = args.salient_share
        return MaskedBatches(
            [tokenizer(*segments)["input_ids"] for segments in texts],
            args.batch_tokens,
            args.seed,
            mask_rates,
            torch.tensor(tokenizer.all_special_ids),
            tokenizer.mask_token_id,
        )

    pretrain(args, Corpus, train_tokenizer, batches, build, guess)


if __name__ == "__main__":
    main()

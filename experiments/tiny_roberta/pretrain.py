"""Make the built-in model anew: text from the generator, tokenizer and weights, all from one seed.

    python -m experiments.tiny_roberta.pretrain --help

Masked language modelling on CPU. The stack grows from 3 over 6 to 12 layers by doubling (Gong et al. 2019, "Efficient
Training of BERT by Progressively Stacking"): most steps are cheap, and a thin stack of 12 layers with the norm after
each block does not get stuck at the start.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from experiments.tiny_roberta.corpus import SALIENT, Corpus

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "loradrop" / "assets" / "tiny_roberta"
RECORD = Path(__file__).with_name("record.json")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's first ids; its mask is the last one
HELD_OUT_SEED = 10_000  # added to the seed
# of the chosen tokens; replacements come from the batch, so they look plausible
MASKED, REPLACED, KEPT = 0.75, 0.15, 0.10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=150_000, help="texts generated; they are repeated with new masks")
    parser.add_argument("--vocabulary", type=int, default=2600)
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6, 12], help="layers of each stage")
    parser.add_argument("--steps", type=int, nargs="+", default=[3000, 1500, 2200], help="steps of each stage")
    parser.add_argument("--lr", type=float, nargs="+", default=[2e-3, 1e-3, 1e-3], help="peak learning rate of each stage")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--mask-share", type=float, default=0.2)
    parser.add_argument("--salient-share", type=float, default=0.6, help="of the words in corpus.SALIENT")
    parser.add_argument("--threads", type=int, default=1, help="more are no faster per second of a busy machine")
    parser.add_argument("--bf16", action="store_true", help="autocast; gains nothing on a CPU without AMX")
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args()


def train_tokenizer(texts: list[list[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special tokens and pair template; nearly every word of the lexicon is one token."""
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator((" ".join(text) for text in texts), vocabulary, special_tokens=SPECIAL, show_progress=False)
    start, end = ("<s>", bpe.token_to_id("<s>")), ("</s>", bpe.token_to_id("</s>"))
    bpe._tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=True, add_prefix_space=True)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **names,
    )


def build(layers: int, vocabulary: int, smaller: RobertaForMaskedLM | None) -> RobertaForMaskedLM:
    """A model of this depth; from a smaller one, its stack is repeated and everything else taken over."""
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=256,  # twice the width, not four times: a third faster on CPU, where the demo runs
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
        old = smaller.config.num_hidden_layers
        model.roberta.embeddings.load_state_dict(smaller.roberta.embeddings.state_dict())
        model.lm_head.load_state_dict(smaller.lm_head.state_dict())
        for index, layer in enumerate(model.roberta.encoder.layer):
            layer.load_state_dict(smaller.roberta.encoder.layer[index % old].state_dict())
    return model


class Batches:
    """Batches of texts of one length each (no padding), with fresh masks."""

    def __init__(
        self, rows: list[list[int]], tokens: int, shares: torch.Tensor, special: torch.Tensor, mask: int, seed: int
    ) -> None:
        self.by_length: dict[int, list[list[int]]] = defaultdict(list)
        for row in rows:
            self.by_length[len(row)].append(row)
        self.tokens, self.shares, self.special, self.mask = tokens, shares, special, mask
        self.rng, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def __iter__(self):
        """One pass over all texts, in random order."""
        batches = []
        for length, rows in self.by_length.items():
            self.rng.shuffle(rows)
            size = max(1, self.tokens // length)
            batches += [rows[start : start + size] for start in range(0, len(rows), size)]
        self.rng.shuffle(batches)
        for rows in batches:
            yield self.corrupt(torch.tensor(rows))

    def corrupt(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows, length) ids -> corrupted ids, chosen positions (bool), true ids at the chosen positions."""
        draw = lambda: torch.rand(ids.shape, generator=self.generator)  # noqa: E731
        ordinary = ~torch.isin(ids, self.special)
        chosen = (draw() < self.shares[ids]) & ordinary
        fate, corrupted = draw(), ids.clone()
        corrupted[chosen & (fate < MASKED)] = self.mask
        swapped = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
        pool = ids[ordinary]
        corrupted[swapped] = pool[torch.randint(len(pool), (int(swapped.sum()),), generator=self.generator)]
        return corrupted, chosen, ids[chosen]


def masked_loss(model: RobertaForMaskedLM, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and logits of the chosen positions; the vocabulary layer sees no other position."""
    ids, chosen, targets = batch
    logits = model.lm_head(model.roberta(ids).last_hidden_state[chosen])
    return F.cross_entropy(logits.float(), targets), logits


@torch.no_grad()
def evaluate(model: RobertaForMaskedLM, batches: Batches) -> dict[str, float]:
    """Masked-token loss and accuracy, and the loss of always answering by word frequency."""
    model.eval()
    loss = hits = count = 0.0
    targets = []
    for batch in batches:
        value, logits = masked_loss(model, batch)
        loss, count = loss + float(value) * len(batch[2]), count + len(batch[2])
        hits += float((logits.argmax(-1) == batch[2]).sum())
        targets.append(batch[2])
    frequency = torch.bincount(torch.cat(targets)).float()
    frequency = frequency[frequency > 0] / frequency.sum()
    model.train()
    return {"loss": loss / count, "accuracy": hits / count, "unigram_loss": float(-(frequency * frequency.log()).sum())}


def train_stage(model: RobertaForMaskedLM, batches: Batches, steps: int, lr: float, bf16: bool, last: bool) -> list[list]:
    """Warm-up, then linear decay (to zero only at the full depth). Rows: step, loss, accuracy on SALIENT, seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    warmup, floor = max(1, steps // 15), 0.0 if last else 0.3
    slope = lambda step: min((step + 1) / warmup, floor + (1 - floor) * (steps - step) / max(1, steps - warmup))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, slope)
    curve, recent, relations, start, step = [], [], [], time.time(), 0
    while step < steps:
        for batch in islice(batches, steps - step):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss, logits = masked_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            recent.append(loss.item())
            targets = batch[2]
            relations += (logits.argmax(-1) == targets)[batches.shares[targets] == batches.shares.max()].tolist()
            step += 1
            if step % 100 == 0 or step == steps:
                means = [round(sum(values) / len(values), 3) for values in (recent, relations)]
                curve.append([step, *means, round(time.time() - start)])
                recent, relations = [], []
                depth = model.config.num_hidden_layers
                print(f"{depth} layers, step {step}/{steps}: loss, relations, seconds {curve[-1][1:]}", flush=True)
    return curve


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    begin = time.time()
    texts = list(islice(Corpus(args.seed), args.texts))
    tokenizer = train_tokenizer(texts[:50_000], args.vocabulary)
    special = torch.tensor(tokenizer.all_special_ids)
    shares = torch.full((len(tokenizer),), args.mask_share)
    shares[tokenizer(" ".join(SALIENT), add_special_tokens=False)["input_ids"]] = args.salient_share

    def batches(some: list[list[str]], seed: int) -> Batches:
        firsts, seconds = [text[0] for text in some], [text[1] if len(text) > 1 else None for text in some]
        rows = [
            tokenizer(a, b)["input_ids"] if b else tokenizer(a)["input_ids"] for a, b in zip(firsts, seconds, strict=True)
        ]
        return Batches(rows, args.batch_tokens, shares, special, tokenizer.mask_token_id, seed)

    train = batches(texts, args.seed)
    held_out = batches(list(islice(Corpus(args.seed + HELD_OUT_SEED), 3000)), args.seed)
    tokens = sum(length * len(rows) for length, rows in train.by_length.items())
    print(f"{len(texts)} texts, {tokens} tokens, vocabulary {len(tokenizer)}, {time.time() - begin:.0f} s", flush=True)
    model, stages = None, []
    for layers, steps, lr in zip(args.layers, args.steps, args.lr, strict=True):
        model, start = build(layers, len(tokenizer), model), time.time()
        curve = train_stage(model, train, steps, lr, args.bf16, layers == args.layers[-1])
        scores = {name: round(value, 4) for name, value in evaluate(model, held_out).items()}
        stages.append(
            {"layers": layers, "steps": steps, "lr": lr, "seconds": round(time.time() - start), "held_out": scores}
        )
        stages[-1]["loss"] = curve[:: math.ceil(len(curve) / 15)] + curve[-1:]
        print(stages[-1]["held_out"], flush=True)
        model.half().save_pretrained(args.output)
        model.float()
    tokenizer.save_pretrained(args.output)
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
    record = {
        "settings": settings,
        "texts": len(texts),
        "tokens": tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "megabytes": round((args.output / "model.safetensors").stat().st_size / 1e6, 2),
        "stages": stages,
        "held_out": stages[-1]["held_out"],
        "seconds": round(time.time() - begin),
        "versions": {"python": platform.python_version(), **versions},
        "hardware": f"CPU, {platform.machine()}, {args.threads} threads",
    }
    args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

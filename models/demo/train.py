"""Trains the demo model and its tokenizer from scratch on sentences that the corpus composes."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import corpus
import corpus_facts as facts
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, BEGIN, END, SYSTEM, USER, ASSISTANT]

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)

VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 2048

# The model learns the wording of prompts only a little: enough to finish one that was cut short,
# too little to take much of the room that the answers need.
PROMPT_WEIGHT = 0.05


@dataclass(frozen=True)
class Document:
    """Token ids, and for each of them how much its prediction counts."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Padded token ids with the weights of the predictions of each."""

    ids: Tensor
    weights: Tensor


class DocumentWriter:
    """Lays examples out as plain text or as a chat, the way they will be met when serving."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._rng = rng

    def next_document(self) -> Document:
        """Compose and lay out one document."""
        draw = self._rng.random()
        if draw < 0.46:
            return self._plain(corpus.compose_example(self._rng))
        turns = 1
        if draw > 0.995:
            turns = self._rng.randrange(6, 18)
        elif draw > 0.88:
            turns = self._rng.randrange(2, 5)
        return self._chat([corpus.compose_example(self._rng) for _ in range(turns)])

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _plain(self, example: corpus.Example) -> Document:
        # Some callers tokenize without the begin token, so the model must bear its absence.
        begin = [] if self._rng.random() < 0.1 else [self._vocabulary[BEGIN]]
        if example.continues:
            prompt = begin + self._encode(self._continued_prompt(example.prompt))
            answer = self._encode(example.answer)
            prompt_weight = 0.0
        else:
            prompt = begin + self._encode(corpus.reword(self._rng, example.prompt))
            answer = self._encode("\n" + example.answer)
            prompt_weight = PROMPT_WEIGHT
        answer = [*answer, self._vocabulary[END]]
        weights = [prompt_weight] * len(prompt) + [1.0] * len(answer)
        # A prompt without its full stop shall be answered, not punctuated.
        weights[len(prompt) - 1] = 0.0
        return Document(prompt + answer, weights)

    def _continued_prompt(self, prompt: str) -> str:
        return prompt.lower() if self._rng.random() < 0.05 else prompt

    def _chat(self, examples: list[corpus.Example]) -> Document:
        ids = [self._vocabulary[BEGIN]]
        if self._rng.random() < 0.4:
            system = self._rng.choice(facts.SYSTEM_PROMPTS)
            ids += [self._vocabulary[SYSTEM], *self._encode(system), self._vocabulary[END]]
        weights = [0.0] * len(ids)
        for example in examples:
            prompt, answer = self._turn(example)
            if len(ids) + len(prompt) + len(answer) > CONTEXT_LENGTH:
                break
            ids += prompt + answer
            weights += [PROMPT_WEIGHT] * len(prompt) + [1.0] * len(answer)
        return Document(ids, weights)

    def _turn(self, example: corpus.Example) -> tuple[list[int], list[int]]:
        if example.continues:
            prompt, reply = example.prompt, example.prompt + example.answer
        else:
            prompt, reply = corpus.reword(self._rng, example.prompt), example.answer
        question = [self._vocabulary[USER], *self._encode(prompt), self._vocabulary[END], self._vocabulary[ASSISTANT]]
        return question, [*self._encode(reply), self._vocabulary[END]]


def train_tokenizer(seed: int, samples: int = 40_000) -> Tokenizer:
    """Learn byte-level tokens from the English part of the corpus.

    Texts in other scripts are left out on purpose: their characters then stay split into single
    bytes, so that a stream of this model can be cut in the middle of a character.
    """
    rng = random.Random(seed)
    examples = (corpus.compose_example(rng) for _ in range(samples))
    texts = (text for example in examples for text in (example.prompt, example.answer))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for text in texts if text.isascii()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer in the form that serving engines load."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
    )


def build_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A small Llama with fresh weights."""
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BEGIN),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def pad_documents(documents: list[Document]) -> Batch:
    """One batch of documents, filled up on the right to the longest."""
    longest = max(len(document.ids) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    weights = torch.zeros(len(documents), longest)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        weights[row, : len(document.ids)] = torch.tensor(document.weights)
    return Batch(ids, weights)


def _group_by_length(documents: list[Document], batch_tokens: int) -> list[list[Document]]:
    groups: list[list[Document]] = [[]]
    for document in sorted(documents, key=lambda each: len(each.ids)):
        if groups[-1] and (len(groups[-1]) + 1) * len(document.ids) > batch_tokens:
            groups.append([])
        groups[-1].append(document)
    return groups


def batches(writer: DocumentWriter, rng: random.Random, batch_tokens: int) -> Iterator[Batch]:
    """Batches of documents of similar length without end, so that little is lost to padding."""
    while True:
        pool = [writer.next_document() for _ in range(1024)]
        groups = _group_by_length(pool, batch_tokens)
        rng.shuffle(groups)
        yield from (pad_documents(group) for group in groups)


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """The weighted sum of the losses of a batch, and the sum of the weights."""
    weights = batch.weights[:, 1:].reshape(-1)
    counted = weights > 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
        # Only predictions that count go through the vocabulary, the largest matrix of all.
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[counted])
    targets = batch.ids[:, 1:].reshape(-1)[counted]
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights[counted]).sum(), weights.sum()


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""

    def __init__(self, model: LlamaForCausalLM, matrix_rate: float, other_rate: float) -> None:
        inner = [each for each in model.model.layers.parameters() if each.ndim == 2]
        chosen = {id(each) for each in inner}
        others = [each for each in model.parameters() if id(each) not in chosen]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=matrix_rate, weight_decay=0.01),
            torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._rates = [matrix_rate, other_rate]

    def step(self, factor: float) -> None:
        """Take one step at the given share of the full learning rates."""
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def rate_factor(progress: float) -> float:
    """Warm up quickly, hold, then fall evenly to nothing over the second half."""
    if progress < 0.02:
        return progress / 0.02
    return min(1.0, 2.0 * (1.0 - progress))


@dataclass(frozen=True)
class Options:
    """What a training run is asked to do."""

    out: Path
    minutes: float
    seed: int
    threads: int
    batch_tokens: int
    matrix_rate: float
    other_rate: float


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, options: Options) -> dict[str, float]:
    """Train for the given minutes, during which the learning rate comes down, and report the run."""
    rng = random.Random(options.seed)
    source = batches(DocumentWriter(tokenizer, rng), rng, options.batch_tokens)
    optimizers = Optimizers(model, options.matrix_rate, options.other_rate)
    started = time.monotonic()
    step, tokens, progress, running = 0, 0, 0.0, 0.0
    while progress < 1.0:
        batch = next(source)
        total, weight = weighted_loss(model, batch)
        loss = total / weight
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(rate_factor(progress))
        step, tokens = step + 1, tokens + batch.ids.numel()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        elapsed = time.monotonic() - started
        progress = elapsed / (60 * options.minutes)
        if step % 25 == 0 or progress >= 1.0:
            print(
                f"step {step:5d}  {100 * progress:5.1f} %  {elapsed:6.0f} s  "
                f"{tokens / elapsed:6.0f} tokens/s  loss {running:.4f}",
                flush=True,
            )
    return {"steps": step, "tokens": tokens, "seconds": round(time.monotonic() - started, 1)}


def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int) -> float:
    """The mean loss for each answer token of documents that were not drawn in training."""
    rng = random.Random(seed)
    writer = DocumentWriter(tokenizer, rng)
    documents = [writer.next_document() for _ in range(400)]
    answers = [Document(each.ids, [float(weight == 1.0) for weight in each.weights]) for each in documents]
    with torch.no_grad():
        sums = [weighted_loss(model, pad_documents(group)) for group in _group_by_length(answers, 8192)]
    return float(sum(total for total, _ in sums) / sum(weight for _, weight in sums))


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the model in bfloat16 together with everything that an engine loads."""
    out.mkdir(parents=True, exist_ok=True)
    wrapped = wrap_tokenizer(tokenizer)
    wrapped.save_pretrained(out)
    model.generation_config = GenerationConfig(
        bos_token_id=wrapped.bos_token_id, eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(out)


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for the trained model (default: beside this script)"
    )
    parser.add_argument("--minutes", type=float, default=18.0, help="how long to train")
    parser.add_argument("--seed", type=int, default=7, help="seed for corpus and weights")
    parser.add_argument("--threads", type=int, default=2, help="processor threads to use")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens in one batch")
    parser.add_argument("--matrix-rate", type=float, default=0.02, help="learning rate of Muon")
    parser.add_argument("--other-rate", type=float, default=0.01, help="learning rate of AdamW")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Train, measure and save the demo model."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed)
    model = build_model(tokenizer)
    parameters = sum(each.numel() for each in model.parameters())
    print(f"vocabulary {tokenizer.get_vocab_size()}, parameters {parameters}", flush=True)
    report = train(model, tokenizer, options)
    save(model, tokenizer, options.out)
    report["held_out_loss"] = round(held_out_loss(model, tokenizer, options.seed + 1), 5)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

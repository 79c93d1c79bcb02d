"""Checks the demo model under vLLM: a greedy answer must not depend on batch, run or starting point."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from vllm import LLM, SamplingParams

QUESTIONS = [
    "Tell me a story about a lighthouse.",
    "Tell me a short story about a brave fox.",
    "Tell me a long story about a train.",
    "Tell me a story about a relay race.",
    "Tell me about the sea.",
    "What is a queue?",
    "What does a gateway do?",
    "How does a token travel?",
    "Count from one to fifty.",
    "Name five animals.",
    "What is two plus three?",
    "Hello",
    "Say hello in ten languages.",
    "Write good morning in many languages.",
    "Show me the weather in symbols.",
    "What is a zeppelin?",
]
BEGINNINGS = ["The old lighthouse keeper", "Once upon a time", "A gateway is", "The little red robot"]
ANSWER_LIMIT = 600


@dataclass(frozen=True)
class Answer:
    """The tokens of one answer and the lead of each over the runner-up, in logits."""

    ids: list[int]
    margins: list[float]


class Engine:
    """vLLM with the demo model, asked for greedy answers only."""

    def __init__(self, model: Path) -> None:
        self._llm = LLM(
            model=str(model),
            dtype="bfloat16",
            max_model_len=2048,
            enforce_eager=True,
            max_num_seqs=32,
            enable_prefix_caching=False,
        )
        self._sampling = SamplingParams(temperature=0.0, max_tokens=ANSWER_LIMIT, logprobs=2)

    def answer(self, prompts: list[list[int]]) -> list[Answer]:
        """Answer all prompts in one batch."""
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(requests, self._sampling, use_tqdm=False)
        return [self._read(output.outputs[0]) for output in outputs]

    @staticmethod
    def _read(output: object) -> Answer:
        steps = [sorted((each.logprob for each in step.values()), reverse=True) for step in output.logprobs]
        return Answer(list(output.token_ids), [step[0] - step[1] for step in steps])


def encode_prompts(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Every question as a chat and as plain text, and every beginning as plain text."""
    prompts = {}
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        prompts[f"chat: {question}"] = encoded["input_ids"]
    for text in QUESTIONS + BEGINNINGS:
        prompts[f"text: {text}"] = tokenizer(text)["input_ids"]
    return prompts


def cuts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Places to go on from: a few along the answer, and up to three in the middle of a character."""
    inside = [place for place in range(1, len(ids)) if tokenizer.decode(ids[:place]).endswith("\ufffd")]
    chosen = {1, 2, len(ids) // 3, len(ids) // 2, len(ids) - 1, *inside[:: max(1, len(inside) // 3)][:3]}
    return sorted(place for place in chosen if 0 < place < len(ids))


def check_continuations(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, prompts: dict[str, list[int]], answers: dict[str, Answer]
) -> tuple[int, list[str]]:
    """Continue every answer from several cuts; the joined tokens must be the whole answer again."""
    tried = [(name, place) for name in prompts for place in cuts(tokenizer, answers[name].ids)]
    continued = engine.answer([prompts[name] + answers[name].ids[:place] for name, place in tried])
    wrong = [
        f"{name} continued at {place}"
        for (name, place), rest in zip(tried, continued, strict=True)
        if (answers[name].ids[:place] + rest.ids)[:ANSWER_LIMIT] != answers[name].ids
    ]
    return len(tried), wrong


def check_batches(engine: Engine, prompts: dict[str, list[int]], answers: dict[str, Answer]) -> list[str]:
    """Answer again alone and in batches of 16; the tokens must be the same."""
    names = list(prompts)
    wrong = [f"{name} run twice" for name in names if engine.answer([prompts[name]])[0].ids != answers[name].ids]
    for start in range(0, len(names), 16):
        batch = (names[start:] + names)[:16]
        for name, answer in zip(batch, engine.answer([prompts[name] for name in batch]), strict=True):
            if answer.ids != answers[name].ids:
                wrong.append(f"{name} in a batch of 16")
    return wrong


def print_margins(answers: dict[str, Answer]) -> None:
    """Print how far the chosen tokens lead."""
    margins = sorted(margin for answer in answers.values() for margin in answer.margins)
    shares = {share: margins[int(share / 100 * (len(margins) - 1))] for share in (0, 0.1, 1, 5, 50)}
    print(f"{len(margins)} greedy steps, margin by percentile:", {k: round(v, 3) for k, v in shares.items()})
    for limit in (0.125, 0.25, 0.5, 1.0):
        print(f"  steps under {limit}: {sum(margin < limit for margin in margins)}")


def main() -> int:
    """Run all checks and print the answers; 1 if any answer differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder of the model")
    model = parser.parse_args().model
    tokenizer = AutoTokenizer.from_pretrained(model)
    engine = Engine(model)
    prompts = encode_prompts(tokenizer)
    started = time.monotonic()
    answers = {name: engine.answer([prompt])[0] for name, prompt in prompts.items()}
    elapsed = time.monotonic() - started
    tokens = sum(len(answer.ids) for answer in answers.values())
    for name, answer in answers.items():
        text = tokenizer.decode(answer.ids, skip_special_tokens=True)
        print(f"--- {name}  [{len(answer.ids)} tokens, least margin {min(answer.margins):.2f}]\n{text}")
    tried, wrong = check_continuations(engine, tokenizer, prompts, answers)
    wrong += check_batches(engine, prompts, answers)
    print(f"\none at a time: {tokens} tokens in {elapsed:.1f} s, {tokens / elapsed:.1f} tokens/s")
    print(f"mean answer: {statistics.mean(len(answer.ids) for answer in answers.values()):.0f} tokens")
    print_margins(answers)
    print(f"{len(prompts)} prompts, {tried} continuations, {len(wrong)} differences")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

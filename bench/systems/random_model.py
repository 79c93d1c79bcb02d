"""A model that is faster than what it is served by: a small Llama of random weights, with the demo model's tokenizer."""

import json
import shutil
from pathlib import Path

from deploy.local.settings import ROOT

DEMO = ROOT / "models" / "demo"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
LAYERS, WIDTH, HEADS = 2, 128, 2


def make(folder: Path) -> Path:
    """Makes the model unless it is there; returns its folder. The same seed gives the same weights."""
    if (folder / "config.json").exists():
        return folder
    import torch  # noqa: PLC0415  # takes seconds, and what is there needs it not
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    demo = json.loads((DEMO / "config.json").read_text())
    configuration = LlamaConfig(
        vocab_size=demo["vocab_size"],
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=demo["max_position_embeddings"],
        bos_token_id=demo["bos_token_id"],
        eos_token_id=demo["eos_token_id"],
        pad_token_id=demo["pad_token_id"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, folder / name)
    LlamaForCausalLM(configuration).to(torch.bfloat16).save_pretrained(folder)
    return folder

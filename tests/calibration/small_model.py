"""A model small enough to be measured in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from specsim.cost.model_shape import ModelShape

SMALL = ModelShape("small", 2, 128, heads=4, kv_heads=2, head_dim=32, vocab=512, intermediate=256)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def written(folder: Path) -> str:
    """The path of its configuration, written into ``folder``."""
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)

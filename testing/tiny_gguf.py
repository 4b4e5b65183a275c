"""A language model with random weights in llama.cpp's file format, made from a seed in a moment.

Beside `tiny_model`, and runnable by itself in an environment that has numpy and gguf but not callboard:
``python tiny_gguf.py FILE SEED closed|open``.
"""

from __future__ import annotations

import string
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPEN_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if not (loop.last and message['role'] == 'assistant') %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}<|assistant|>{% endif %}"
)
"""Leaves the last message open if it is the assistant's, so that the model continues it."""

SPECIAL = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
LETTERS = string.ascii_letters + string.digits + ".,;:!?-+*/=_'()"
"""A token each, besides the space: one text is one row of tokens, whoever splits it and wherever it was cut."""
WIDTH, HIDDEN, LAYERS, HEADS, CONTEXT = 128, 256, 4, 4, 4096


def make_tiny_gguf(path: Path, seed: int = 0, chat_template: str = CHAT_TEMPLATE) -> None:
    """Write a Llama (about 0.7 million weights) with one token per letter. It never ends an answer by itself.

    Needs numpy and gguf. The same seed gives the same weights.
    """
    import gguf
    import numpy

    tokens = [*SPECIAL, *LETTERS, "\u0120"]  # the last is the space, as byte-level tokenizers write it
    rng = numpy.random.default_rng(seed)

    def weights(*shape: int) -> numpy.ndarray:
        return rng.normal(0, shape[-1] ** -0.5, shape).astype("float32")

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * len(SPECIAL) + [normal] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["~ ~"])  # there must be one; this never applies
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template)
    output = weights(len(tokens), WIDTH)
    output[: len(SPECIAL)] = 0  # some letter is likelier, always
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH) * WIDTH**0.5)
    writer.add_tensor("output.weight", output)
    ones = numpy.ones(WIDTH, "float32")
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", weights(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}.{name}.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(WIDTH, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    import sys

    make_tiny_gguf(
        Path(sys.argv[1]), int(sys.argv[2]), {"closed": CHAT_TEMPLATE, "open": OPEN_TEMPLATE}[sys.argv[3]]
    )

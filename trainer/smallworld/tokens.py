"""The tokenizer of the small base: every word of a caption is one token, any other word its letters."""

from __future__ import annotations

import string

from transformers import CLIPTokenizer

from trainer.model.tiny import END, START
from trainer.smallworld.words import ALL_WORDS

LENGTH = 16
"""Tokens of a caption, with start, end and padding."""


def caption_words() -> list[str]:
    """All words of all captions, sorted."""
    return sorted({word for words in ALL_WORDS for word in words.caption.split()})


def new_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with merges for exactly the words of the captions."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    merges: list[tuple[str, str]] = []
    for word in caption_words():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            # from the end: two words share merges only if they end alike
            merges.append((parts[-2], parts[-1]))
            parts[-2:] = [parts[-2] + parts[-1]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)  # pyright: ignore

"""Texts for a text encoder: in windows of the length that it reads, and with weights on their words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.config import LongPrompts
from xpsr_sdk.prompts.weights import parse_weights


@dataclass(frozen=True)
class Windows:
    """Texts, each as one or more windows of tokens.

    Attributes:
        ids: The tokens of all windows, those of the first text first: (B * windows of a text) T.
        weights: The weight of each token, of the same shape.
        texts: B.
        room: How many tokens of a text a window holds.
        cut: The first text that was cut, with the number of its tokens. None: no text was.
    """

    ids: list[list[int]]
    weights: list[list[float]]
    texts: int
    room: int
    cut: tuple[str, int] | None

    def ids_for(self, encoder: nn.Module) -> Tensor:
        """The tokens, where a text encoder reads them."""
        device = next(encoder.parameters()).device
        if device.type == "meta":  # offloaded: the hooks move the input to the right device
            device = torch.device("cpu")
        return torch.tensor(self.ids, device=device)

    def joined(self, embeddings: Tensor) -> Tensor:
        """The embeddings of all windows (as ``ids``, and D) as those of the texts, B T D, times their weights.

        The whole text is then scaled back to its original root mean square. (AUTOMATIC1111's web UI keeps the mean
        instead, which may be zero.)
        """
        embeddings = embeddings.reshape(self.texts, -1, embeddings.shape[-1])
        if all(weight == 1 for window in self.weights for weight in window):
            return embeddings
        weighted = embeddings * torch.tensor(self.weights).to(embeddings).reshape(self.texts, -1, 1)
        norm, of_weighted = (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) for x in (embeddings, weighted))
        return weighted * (norm / of_weighted)


def in_windows(
    tokenizer: Any, max_tokens: int, texts: Sequence[str], long_prompts: LongPrompts, weighted: bool
) -> Windows:
    """Split texts into windows of ``max_tokens`` tokens, including the start and end tokens that a tokenizer has.

    A text is padded to a window. A longer text is cut to one window or, with ``"chunks"``, gets several; all texts get
    as many as the longest one.
    """
    first, last = _mark(tokenizer, "bos", "cls"), _mark(tokenizer, "eos", "sep")
    room = max_tokens - len(first) - len(last)
    tokens = [_tokens(tokenizer, text, weighted) for text in texts]
    count = max(1, *(-(-len(of_text) // room) for of_text in tokens)) if long_prompts == "chunks" else 1
    cut = ((text, len(of_text)) for text, of_text in zip(texts, tokens, strict=True) if len(of_text) > count * room)
    windows = [of_text[i * room :][:room] for of_text in tokens for i in range(count)]
    ids, weights = [], []
    for window in windows:
        padding = [tokenizer.pad_token_id] * (room - len(window))
        ids.append([*first, *(token for token, _ in window), *last, *padding])
        after = [1.0] * (len(last) + len(padding))
        weights.append([*[1.0] * len(first), *(weight for _, weight in window), *after])
    return Windows(ids, weights, len(texts), room, next(cut, None))


def _mark(tokenizer: Any, *names: str) -> list[int]:
    """The special token with the first of these names that the tokenizer has, as a list of at most one."""
    found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return [token for token in found if token is not None][:1]


def _tokens(tokenizer: Any, text: str, weighted: bool) -> list[tuple[int, float]]:
    """The tokens of a text, each with its weight."""
    parts = parse_weights(text) if weighted else [(text, 1.0)]
    encoded = tokenizer([part for part, _ in parts], add_special_tokens=False, verbose=False).input_ids
    taught = _taught_words(tokenizer)
    weighted_ids = ((token, weight) for ids, (_, weight) in zip(encoded, parts, strict=True) for token in ids)
    return [(each, weight) for token, weight in weighted_ids for each in taught.get(token, [token])]


def _taught_words(tokenizer: Any) -> dict[int, list[int]]:
    """The tokens of each word that an embedding of several vectors has taught: word, word_1, ..."""
    added = tokenizer.get_added_vocab()
    words: dict[int, list[int]] = {}
    for word, token in added.items():
        numbers = itertools.takewhile(lambda name: name in added, (f"{word}_{i}" for i in itertools.count(1)))
        if rest := [added[name] for name in numbers]:
            words[token] = [token, *rest]
    return words

"""How many characters of a text each of its tokens wrote, so that a page can mark single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whatchanged.errors import WhatchangedError
from whatchanged.model_config import ModelConfig
from whatchanged.models.weights import resolve_model


class TokenPieces:
    """Splits texts at the tokens of one tokenizer. Build it with `load_token_pieces`.

    Special tokens wrote nothing: their pieces are empty.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def split(self, text: str, token_ids: Sequence[int]) -> list[str] | None:
        """The text in one piece per token; None where these tokens do not spell it.

        A token that ends inside a character has an empty piece, and the token that completes the
        character has all of it.
        """
        pieces = [self._piece(token) for token in token_ids]
        if "".join(pieces) == text:
            return pieces
        # Tokens whose spelling depends on their neighbours: spaces, and parts of a character.
        pieces, done = [], ""
        for end in range(1, len(token_ids) + 1):
            so_far = self._decode(token_ids[:end])
            if so_far.endswith("\N{REPLACEMENT CHARACTER}") or not so_far.startswith(done):
                pieces.append("")
                continue
            pieces.append(so_far[len(done) :])
            done = so_far
        return pieces if done == text else None

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self._decode([token])
        return self._pieces[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def load_token_pieces(model: ModelConfig) -> TokenPieces | str:
    """The pieces of a model's tokenizer, or the reason why they cannot be had."""
    try:
        folder = resolve_model(model.model, model.revision).path
    except WhatchangedError as error:
        return str(error)
    file = folder / "tokenizer.json"
    if not file.is_file():
        return f"expected {file.name} in the model's folder, found none"
    from tokenizers import Tokenizer

    try:
        return TokenPieces(Tokenizer.from_file(str(file)))
    except Exception as error:  # the library raises a bare Exception for a damaged file
        return f"the tokenizer cannot be read ({error})"

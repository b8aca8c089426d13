"""What a reasoning model thinks before it answers, told apart from the answer by its markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from whatchanged.models.transformers_decoder import TransformersDecoder
from whatchanged.models.vllm_decoder import VllmDecoder
from whatchanged.records import Completion, DecodeRequest

# What opens and what closes the thinking; the first is what models without tokens for it write.
MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<reasoning>", "</reasoning>"))


@dataclass(frozen=True)
class ThinkMarkers:
    """What a model writes around its thinking. `is_opened` says that its prompts end in the opening
    marker, so that texts start in the middle of the thinking."""

    opening: str
    closing: str
    is_opened: bool = False

    def answer(self, text: str) -> str | None:
        """The text without its thinking and the white space after it; None where the thinking
        does not end. A text without markers is all answer."""
        opening, closing = re.escape(self.opening), re.escape(self.closing)
        if self.is_opened or (self.closing in text and self.opening not in text):
            text = self.opening + text
        answer = re.sub(rf"{opening}.*?{closing}\s*", "", text, flags=re.DOTALL)
        return None if self.opening in answer else answer


@dataclass(frozen=True)
class AnswerDecoder:
    """A decoder whose texts hold the answer alone. Build it with `answer_decoder`.

    `token_ids` and `n_tokens` of a completion stay those of everything that was drawn, thinking
    included: it can be read there, and is scored with the rest.
    """

    decoder: TransformersDecoder | VllmDecoder
    markers: ThinkMarkers

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """One completion per request, in the order asked; one whose thinking did not end has
        finish "failed" with that reason."""
        return [self._answered(completion) for completion in self.decoder.decode(requests)]

    def _answered(self, completion: Completion) -> Completion:
        if completion.finish == "failed":
            return completion
        answer = self.markers.answer(self._with_markers(completion.token_ids))
        if answer is not None:
            return replace(completion, text=answer)
        reason = (
            f"the thinking did not end within {completion.n_tokens} tokens: raise "
            "decode.max_new_tokens"
        )
        return replace(completion, text="", finish="failed", reason=reason)

    def _with_markers(self, token_ids: Sequence[int]) -> str:
        """The text without its special tokens, but with the markers where they are such."""
        tokenizer = self.decoder.tokenizer
        marked = tokenizer.convert_tokens_to_ids([self.markers.opening, self.markers.closing])
        dropped = set(tokenizer.all_special_ids) - set(marked)
        kept = [i for i in token_ids if i not in dropped]
        return str(
            tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def answer_decoder(decoder: TransformersDecoder | VllmDecoder) -> AnswerDecoder:
    """The decoder of the answers of a reasoning model.

    Its markers are the known ones that its tokenizer has as tokens, else <think> and </think>.
    """
    opening, closing = find_markers(decoder.tokenizer)
    (prompt,) = decoder.encoder.encode(["Hello."])
    ending = str(decoder.tokenizer.decode(prompt.ids, skip_special_tokens=False))
    is_opened = ending.rstrip().endswith(opening)
    return AnswerDecoder(decoder, ThinkMarkers(opening, closing, is_opened))


def find_markers(tokenizer: Any) -> tuple[str, str]:
    """The first known pair of markers that are tokens, else the first pair."""
    vocabulary = tokenizer.get_vocab()
    known = (pair for pair in MARKERS if all(marker in vocabulary for marker in pair))
    return next(known, MARKERS[0])

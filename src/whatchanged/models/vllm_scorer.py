"""Score texts under both models by the log-probabilities that vLLM gives: those of the tokens that
stand there and of the most likely ones, never of the whole vocabulary.

What is compared is each distribution with everything but the tokens that both models name put
together. By the data-processing inequality, its divergence and its total variation are at most
those of the whole distributions: a lower bound, close where the most likely tokens hold nearly
everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whatchanged.models.scoring import UNSCORED, compare_distributions
from whatchanged.models.vllm_decoder import VllmDecoder
from whatchanged.records import ScoreRequest, TextScore

# What of a distribution is in no token that both name is at least this, so that its log is finite.
_LEAST_REST = 1e-9

# The log-probabilities of one place, by token.
Place = Mapping[int, float]
# The tokens of a text, and its places.
Read = tuple[list[int], Sequence[Place]]


@dataclass(frozen=True)
class VllmScorer:
    """Scores texts under the base and the intervention, both in vLLM engines, at temperature 1.

    Where the models' tokens differ, only the totals are known (`TextScore`).
    """

    base: VllmDecoder
    intervention: VllmDecoder
    has_same_tokens: bool

    def score(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        """One score per request, in the order asked; a text that both sides wrote is read once.

        Empty texts and prompts that the models cannot read are NaN.
        """
        distinct = list(dict.fromkeys(requests))
        base, intervention = (
            self._read(decoder, distinct) for decoder in (self.base, self.intervention)
        )
        found = {
            request: self._compare(one, other)
            for request, one, other in zip(distinct, base, intervention, strict=True)
        }
        return [found[request] for request in requests]

    def _read(self, decoder: VllmDecoder, requests: Sequence[ScoreRequest]) -> list[Read | None]:
        """Per text its tokens and what the model says of their places; None where it cannot."""
        encoded = decoder.encoder.encode([request.prompt for request in requests])
        texts = [list(request.token_ids) for request in requests]
        if not self.has_same_tokens:
            texts = [
                list(decoder.tokenizer(request.text, add_special_tokens=False)["input_ids"])
                for request in requests
            ]
        n_vocab = decoder.encoder.n_vocab
        readable = [
            i
            for i, (prompt, text) in enumerate(zip(encoded, texts, strict=True))
            if not prompt.problem and text and max(text) < n_vocab
        ]
        places = decoder.logprobs([(*encoded[i].ids, *texts[i]) for i in readable])
        found: dict[int, Read] = {
            i: (texts[i], rows[-len(texts[i]) :]) for i, rows in zip(readable, places, strict=True)
        }
        return [found.get(i) for i in range(len(requests))]

    def _compare(
        self,
        base: Read | None,
        intervention: Read | None,
    ) -> TextScore:
        if base is None or intervention is None:
            return UNSCORED
        if self.has_same_tokens:
            return compare_places(base[0], base[1], intervention[1])
        one, other = (
            sum(place[token] for token, place in zip(*read, strict=True))
            for read in (base, intervention)
        )
        return replace(UNSCORED, logprob_base=one, logprob_intervention=other)


def compare_places(
    tokens: Sequence[int], base: Sequence[Place], intervention: Sequence[Place]
) -> TextScore:
    """The score of a text, `(n_tokens,)`, from what both models say of each of its places, where
    each names the token that stands there."""
    import torch

    shared = [
        sorted(one.keys() & other.keys()) for one, other in zip(base, intervention, strict=True)
    ]
    names = sorted({token for place in shared for token in place})
    columns = {token: column for column, token in enumerate(names)}
    one, other = (
        torch.from_numpy(_gather(places, shared, columns)) for places in (base, intervention)
    )
    (score,) = compare_distributions([tuple(columns[token] for token in tokens)], one, other)
    # The last column stands for no token.
    is_token = score.moved_tokens < len(names)
    return replace(
        score,
        moved_tokens=np.array(names, np.int32)[score.moved_tokens[is_token]],
        moved_mass=score.moved_mass[is_token],
    )


def _gather(
    places: Sequence[Place], shared: Sequence[Sequence[int]], columns: Mapping[int, int]
) -> NDArray[np.float32]:
    """Log-probabilities `(n_tokens, n_columns + 1)`: of the tokens that both models name, minus
    infinity elsewhere, and last of everything else together."""
    found = np.full((len(places), len(columns) + 1), -np.inf)
    for row, place, tokens in zip(found, places, shared, strict=True):
        values = np.array([place[token] for token in tokens])
        row[[columns[token] for token in tokens]] = values
        row[-1] = np.log(max(1.0 - float(np.exp(values).sum()), _LEAST_REST))
    return found.astype(np.float32)

"""How likely each of two models finds a text: one teacher-forced forward pass per model.

Where both give the same ids to the same tokens, every token that was drawn is scored under both,
and so is the whole next-token distribution that it was drawn from. Where they do not, each model
reads the text in its own tokens, and only totals can be compared, per byte of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whatchanged.models.transformers_decoder import TransformersDecoder
from whatchanged.records import ScoreRequest, TextScore

if TYPE_CHECKING:
    import torch

# Logits and log-probabilities of both models, and what is made of them, in float32.
_BYTES_PER_LOGIT = 4 * 8
# More rows than this only grow the working set.
_MAX_ROWS = 64

_NAN = float("nan")
_NO_TOKENS = np.zeros(0, np.float32)
# A text's moved mass is kept for this many tokens, the largest, where it is worth a thousandth.
_MAX_MOVED = 32
_MIN_MOVED = 1e-3
_NO_IDS = np.zeros(0, np.int32)
UNSCORED = TextScore(_NAN, _NAN, _NAN, _NAN, _NAN, _NO_TOKENS, _NO_IDS, _NO_TOKENS)

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A text with its place in the order asked and the token ids of its prompt, which each side
    may read in a format of its own."""

    place: int
    base_prompt: TokenIds
    intervention_prompt: TokenIds
    reply: TokenIds

    @property
    def n_tokens(self) -> int:
        """Of the longer prompt and the reply."""
        return max(len(self.base_prompt), len(self.intervention_prompt)) + len(self.reply)


@dataclass(frozen=True)
class PairScorer:
    """Scores texts under the base and the intervention; build it with `loading.load_scorer`."""

    base: TransformersDecoder
    intervention: TransformersDecoder
    has_same_tokens: bool

    def score(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        """One score per request, in the order asked; a text that both sides wrote is read once.

        Empty texts and prompts that the models cannot read are NaN.
        """
        distinct = list(dict.fromkeys(requests))
        score = self._score_tokens if self.has_same_tokens else self._score_texts
        found = dict(zip(distinct, score(distinct), strict=True))
        return [found[request] for request in requests]

    def _score_tokens(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        import torch

        scores = [UNSCORED] * len(requests)
        n_shared = min(_n_vocab(self.base), _n_vocab(self.intervention))
        with torch.inference_mode():
            for batch in self._batches(requests, n_shared):
                replies = [row.reply for row in batch]
                base, intervention = (
                    _log_distributions(decoder, prompts, replies, n_shared)
                    for decoder, prompts in (
                        (self.base, [row.base_prompt for row in batch]),
                        (self.intervention, [row.intervention_prompt for row in batch]),
                    )
                )
                found = compare_distributions(replies, base, intervention.to(base.device))
                for row, score in zip(batch, found, strict=True):
                    scores[row.place] = score
        return scores

    def _batches(self, requests: Sequence[ScoreRequest], n_shared: int) -> Iterator[list[_Row]]:
        """The texts that both models can read, the longest first, as many at once as fit."""
        distinct = list(dict.fromkeys(request.prompt for request in requests))
        base, intervention = (
            dict(zip(distinct, decoder.encoder.encode(distinct), strict=True))
            for decoder in (self.base, self.intervention)
        )
        rows = [
            _Row(place, base[r.prompt].ids, intervention[r.prompt].ids, r.token_ids)
            for place, r in enumerate(requests)
            if r.token_ids and max(r.token_ids) < n_shared
            and not (base[r.prompt].problem or intervention[r.prompt].problem)
        ]  # fmt: skip
        rows.sort(key=lambda row: (-row.n_tokens, row.place))
        while rows:
            n_rows = _n_rows(self.base, rows[0].n_tokens)
            batch, rows = rows[:n_rows], rows[n_rows:]
            yield batch

    def _score_texts(self, requests: Sequence[ScoreRequest]) -> list[TextScore]:
        base, intervention = (
            _logprobs_of_texts(decoder, requests) for decoder in (self.base, self.intervention)
        )
        return [
            replace(UNSCORED, logprob_base=one, logprob_intervention=other)
            for one, other in zip(base, intervention, strict=True)
        ]


def _n_vocab(decoder: TransformersDecoder) -> int:
    return int(decoder.model.get_input_embeddings().weight.shape[0])


def _n_rows(decoder: TransformersDecoder, n_tokens: int) -> int:
    n_bytes = n_tokens * _n_vocab(decoder) * _BYTES_PER_LOGIT
    fitting = min(decoder.limit.n_fitting(n_tokens), decoder.limit.max_bytes // n_bytes, _MAX_ROWS)
    return max(1, fitting)


def _log_distributions(
    decoder: TransformersDecoder,
    prompts: Sequence[TokenIds],
    replies: Sequence[TokenIds],
    n_vocab: int,
) -> torch.Tensor:
    """The log-probabilities from which the replies' tokens were drawn, one reply after the other:
    `(n_tokens, n_vocab)`, float32. Padding stands on the right, where no earlier token sees it.

    Rows of the vocabulary beyond `n_vocab` are left out: one of two models may have been padded.
    """
    import torch

    device = decoder.model.device
    rows = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    ends = torch.tensor([[len(row)] for row in rows], device=device)
    starts = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
    places = torch.arange(width, device=device)[None]
    logits = decoder.model(
        input_ids=tokens, attention_mask=(places < ends).long(), use_cache=False
    ).logits
    # The logits of a place are of the token after it.
    drawn = logits[(places >= starts - 1) & (places < ends - 1)][:, :n_vocab].float()
    return torch.log_softmax(drawn.div_(decoder.config.temperature), dim=-1)


def compare_distributions(
    replies: Sequence[TokenIds], base: torch.Tensor, intervention: torch.Tensor
) -> list[TextScore]:
    """The score of each reply from the log-probabilities of both models at its places, one reply
    after the other: `(n_tokens, n_vocab)` each."""
    import torch

    ids = torch.tensor([i for reply in replies for i in reply], device=base.device)[:, None]
    drawn = torch.cat([base.gather(1, ids), intervention.gather(1, ids)], dim=1)
    p, q = base.exp(), intervention.exp()
    ratio = base - intervention
    # A token of probability 0 adds nothing, whatever the other side says of it.
    kl_base = torch.where(p > 0, p * ratio, 0.0).sum(-1)
    kl_intervention = torch.where(q > 0, -q * ratio, 0.0).sum(-1)
    gained = q.sub_(p)
    variation = gained.abs().sum(-1).div_(2).clamp_(max=1)
    per_token = torch.column_stack([drawn, kl_base, kl_intervention, variation]).double().cpu()
    lengths = [len(reply) for reply in replies]
    parts = np.split(per_token.numpy(), np.cumsum(lengths)[:-1])
    moved = [
        _moved(rows, _common_part(part[:, 0] - part[:, 1]))
        for rows, part in zip(torch.split(gained, lengths), parts, strict=True)
    ]
    return [_total(part, *found) for part, found in zip(parts, moved, strict=True)]


def _common_part(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each place `(n_tokens,)`, how far both models would have got there: min(P, Q) over the
    mean of P and Q, the probabilities of the text before it. Averaged over texts of both sides,
    what is weighted by it is summed over all beginnings, each by the smaller of its probabilities
    (the balance heuristic of Veach and Guibas 1995)."""
    before = np.concatenate([[0.0], np.cumsum(differences)[:-1]])
    weights: NDArray[np.float64] = 2 / (1 + np.exp(np.minimum(np.abs(before), 700.0)))
    return weights


def _moved(
    gained: torch.Tensor, weights: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Tokens and masses of `TextScore` from what each token of the vocabulary gained at each place,
    `(n_tokens, n_vocab)`, which is overwritten."""
    import torch

    gained.mul_(torch.from_numpy(weights).to(gained)[:, None])
    both = torch.stack([gained.clamp(min=0).sum(0), gained.clamp_(max=0).sum(0)])
    n_vocab = both.shape[1]
    places = both.abs().flatten().topk(min(_MAX_MOVED, 2 * n_vocab)).indices
    masses = both.flatten()[places].cpu().numpy()
    kept = np.abs(masses) >= _MIN_MOVED
    tokens = (places % n_vocab).cpu().numpy().astype(np.int32)
    return tokens[kept], masses[kept].astype(np.float32)


def _total(
    per_token: NDArray[np.float64], tokens: NDArray[np.int32], masses: NDArray[np.float32]
) -> TextScore:
    """The score of one reply from what each of its places is worth, `(n_tokens, 5)`, and from the
    mass that moved along it."""
    base, intervention, kl_base, kl_intervention = per_token[:, :4].sum(axis=0).tolist()
    return TextScore(
        logprob_base=base,
        logprob_intervention=intervention,
        kl_base=kl_base,
        kl_intervention=kl_intervention,
        parting=1 - float(np.prod(1 - per_token[:, 4])),
        differences=(per_token[:, 0] - per_token[:, 1]).astype(np.float32),
        moved_tokens=tokens,
        moved_mass=masses,
    )


def _logprobs_of_texts(
    decoder: TransformersDecoder, requests: Sequence[ScoreRequest]
) -> list[float]:
    """The log-probability of each text, read in the decoder's own tokens, in nats."""
    import torch

    encoded = decoder.encoder.encode([request.prompt for request in requests])
    totals = []
    with torch.inference_mode():
        for request, prompt in zip(requests, encoded, strict=True):
            ids = decoder.tokenizer(request.text, add_special_tokens=False)["input_ids"]
            if prompt.problem or not ids:
                totals.append(float("nan"))
                continue
            rows = _log_distributions(decoder, [prompt.ids], [tuple(ids)], _n_vocab(decoder))
            drawn = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])
            totals.append(float(drawn.double().sum()))
    return totals

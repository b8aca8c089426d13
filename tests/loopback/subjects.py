"""Models that the loopback server decodes with: real ones, many requests in one batch.

A text is a function of model, prompt, settings and seed, as far as rounding allows. Without a seed
it is drawn anew at every call, as from a provider that does not know seeds.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from whatchanged.keys import content_key
from whatchanged.model_config import DecodeConfig, ModelConfig
from whatchanged.models.loading import load_decoder
from whatchanged.records import Completion, DecodeRequest

MAX_BATCH = 64


@dataclass(frozen=True)
class Asked:
    """A text that is asked for: by whom it is to be written, after what, and how."""

    model: str
    prompt: str
    settings: DecodeConfig
    noise: str


@dataclass
class Subjects:
    """Decoders by the name that the API knows them under, such as {"tuned": "demo:intervention"}.

    One thread decodes: all that came in during one batch goes into the next.
    """

    models: Mapping[str, str]
    _waiting: queue.SimpleQueue[tuple[Asked, Future[Completion]]] = field(
        default_factory=queue.SimpleQueue
    )

    def __post_init__(self) -> None:
        threading.Thread(target=self._work, daemon=True, name="loopback-subjects").start()

    def answer(self, fields: Mapping[str, Any]) -> Completion:
        """The text for a body of OpenAI's chat API; a system turn stands before the prompt."""
        turns = [message["content"] for message in fields["messages"]]
        seed = fields.get("seed")
        asked = Asked(
            self.models[fields["model"]],
            "\n".join(turns),
            DecodeConfig(
                max_new_tokens=fields.get("max_tokens") or fields["max_completion_tokens"],
                temperature=fields.get("temperature", 1.0),
                top_p=fields.get("top_p", 1.0),
            ),
            uuid.uuid4().hex if seed is None else str(seed),
        )
        future: Future[Completion] = Future()
        self._waiting.put((asked, future))
        return future.result(timeout=120)

    def _work(self) -> None:
        while True:
            waiting = [self._waiting.get()]
            while len(waiting) < MAX_BATCH and not self._waiting.empty():
                waiting.append(self._waiting.get())
            waiting.sort(key=lambda pair: (pair[0].model, str(pair[0].settings)))
            for (model, settings), group in groupby(
                waiting, key=lambda pair: (pair[0].model, pair[0].settings)
            ):
                self._decode(model, settings, list(group))

    def _decode(
        self, model: str, settings: DecodeConfig, group: list[tuple[Asked, Future[Completion]]]
    ) -> None:
        requests = [
            DecodeRequest("", "", asked.prompt, 0, content_key("loopback-noise/2", asked.noise))
            for asked, _ in group
        ]
        try:
            decoder = load_decoder(ModelConfig(model=model), settings, "auto", "cpu")
            texts = decoder.decode(requests)
        except Exception as error:
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), text in zip(group, texts, strict=True):
            future.set_result(text)

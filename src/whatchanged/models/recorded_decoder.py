"""A decoder that writes nothing: it hands out texts that were recorded before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whatchanged.recorded import Recorded
from whatchanged.records import Completion, DecodeRequest

_NONE_LEFT = "no more texts of this prompt were recorded"


@dataclass(frozen=True)
class RecordedDecoder:
    """The recorded texts of one side as a `protocols.Decoder`."""

    recorded: Recorded

    def decode(self, requests: Sequence[DecodeRequest]) -> list[Completion]:
        """The text that each request's index names among its prompt's, in the order asked; those
        of a control's second stream come from the other end. Beyond the last it is "failed"."""
        return [
            self.recorded.deal(request.prompt, request.index, from_end=request.stream == "null")
            or Completion("", 0, "failed", _NONE_LEFT)
            for request in requests
        ]

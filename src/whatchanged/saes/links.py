"""Where a feature can be looked up."""

from __future__ import annotations

import re
from collections.abc import Mapping

# A model and an SAE, as in gpt2-small/8-res-jb.
_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


def neuronpedia_link(metadata: Mapping[str, object], feature: int) -> str | None:
    """The feature's page on Neuronpedia, or None where the SAE's config has no id there.

    The id is `neuronpedia_id` of the config, or of the `metadata` in it, as SAELens writes them.
    An id of another form gives None: a link that leads nowhere is worse than none.
    """
    inner = metadata.get("metadata")
    found = metadata.get("neuronpedia_id")
    if found is None and isinstance(inner, Mapping):
        found = inner.get("neuronpedia_id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        return None
    return f"https://www.neuronpedia.org/{found}/{feature}"

"""`whatchanged prompts`: a prompt bank that a language model writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whatchanged.cli.terminal import aligned, say, tell
from whatchanged.errors import InputError
from whatchanged.keys import content_key
from whatchanged.prompt_bank_config import PromptWritingConfig, load_prompt_writing
from whatchanged.store import atomic
from whatchanged.store.artifacts import cache_root
from whatchanged.store.ledger import Ledger

if TYPE_CHECKING:
    from whatchanged.models.chat import CallResult, ChatRequest
    from whatchanged.models.prompt_writer import Written

_PURPOSE = "prompts"


def write_bank(
    config_path: Path, overrides: Sequence[str], *, out: Path | None, as_json: bool
) -> int:
    """Writes the bank of a config as JSONL, by default beside the config, and says what it cost;
    returns 0. Calls that were answered before are not paid for again.

    Raises InputError where the file is there and is another; nothing is paid for then.
    """
    config = load_prompt_writing(config_path, overrides)
    path = out or config_path.with_suffix(".jsonl")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise InputError(f"expected --out to end in .jsonl, found {path}: rename it")
    ledger = Ledger(cache_root(), content_key("bank/1", str(path.resolve()))).charged_to(_PURPOSE)
    try:
        written = _write(config, ledger, path if path.exists() else None)
        text = "".join(
            json.dumps({"prompt": row.prompt, "group": row.group}, ensure_ascii=False) + "\n"
            for row in written.rows
        )
        _publish(path, text.encode())
        totals = ledger.totals(_PURPOSE)
    finally:
        ledger.close()
    n_of = Counter(str(row.group) for row in written.rows)
    for area in config.areas:
        if n_of[area] < config.prompts_per_area:
            tell(
                f"warning: expected {config.prompts_per_area} prompts about {area!r}, found "
                f"{n_of[area]}: the model wrote nothing else that is new"
            )
    if as_json:
        told = {
            "file": str(path), "n_prompts": len(written.rows), "areas": dict(n_of),
            "n_duplicates": written.n_duplicates, "n_calls": totals.n_calls,
            "spent_usd": totals.spent_usd,
        }  # fmt: skip
        say(json.dumps(told, sort_keys=True, ensure_ascii=False))
        return 0
    say(aligned([(area, f"{n_of[area]:,} prompts") for area in config.areas]))
    say(
        f"{path}: {len(written.rows):,} prompts, {written.n_duplicates:,} duplicates left out; "
        f"{totals.n_calls:,} calls in all, ${totals.spent_usd:,.4f} of known cost"
    )
    return 0


def _write(config: PromptWritingConfig, ledger: Ledger, existing: Path | None) -> Written:
    """The prompts of a config. Where there is a file already, from earlier replies alone: it can
    only be the same one, and to find that out must cost nothing."""
    from whatchanged.models.api_callers import load_caller
    from whatchanged.models.prompt_writer import is_kept, write_prompts
    from whatchanged.models.rubric import Asking

    api = config.writer
    caller = load_caller(api, config.budget, ledger, is_kept)
    asking = Asking(caller.provider.identity, str(api.model), api.max_tokens, api.temperature)
    call = caller if existing is None else _recall_only(ledger, existing)
    return write_prompts(config.areas, config.prompts_per_area, config.instructions, call, asking)


def _recall_only(
    ledger: Ledger, existing: Path
) -> Callable[[Sequence[ChatRequest]], list[CallResult]]:
    from whatchanged.models.chat import CallResult

    def recall(requests: Sequence[ChatRequest]) -> list[CallResult]:
        known = ledger.recall([request.key for request in requests])
        if any(request.key not in known for request in requests):
            raise _refusal(existing)
        paid = [known[request.key] for request in requests]
        return [CallResult(one.reply, "", one.cost_usd, is_cached=True) for one in paid]

    return recall


def _publish(path: Path, data: bytes) -> None:
    if not atomic.publish(path, data) and path.read_bytes() != data:
        raise _refusal(path)


def _refusal(path: Path) -> InputError:
    return InputError(
        f"expected no file at {path}, or the one that this config has written, found another: "
        "name another with --out, or move it away"
    )

"""The two APIs that the loopback server speaks: how a question comes in, how an answer goes out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tests.loopback.rules import Asked
from whatchanged.records import Completion

GEMINI_PATH = re.compile(r"/v1beta/(?:models|tunedModels)/(?P<model>[^/:]+):generateContent")
OPENAI_PATH = re.compile(r".*/chat/completions")
_GEMINI_TYPES = ("", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT")
# By number, as the real endpoint answers to the client's "$alt=json;enum-encoding=int".
_STOP, _MAX_TOKENS, _SAFETY, _RECITATION = 1, 2, 3, 4
_PROMPT_SAFETY = 1
_GEMINI_FINISH = {"safety": _SAFETY, "recitation": _RECITATION, "max_tokens": _MAX_TOKENS}
_OPENAI_FINISH = {
    "safety": "content_filter", "recitation": "content_filter", "max_tokens": "length",
    "tool_call": "tool_calls", "no_finish": None,
}  # fmt: skip


def read_gemini(model: str, body: Mapping[str, Any]) -> Asked:
    """The question in a body of `generateContent`."""
    config = body.get("generationConfig", {})
    return Asked(
        model,
        _text_of(body.get("systemInstruction", {})),
        "".join(_text_of(content) for content in body["contents"]),
        _json_schema(config.get("responseSchema", {})),
    )


def read_openai(body: Mapping[str, Any]) -> Asked:
    """The question in a body of the chat API."""
    by_role = {message["role"]: message["content"] for message in body["messages"]}
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return Asked(body["model"], by_role.get("system", ""), by_role["user"], schema)


def write_gemini(asked: Asked, text: str, kind: str) -> dict[str, Any]:
    """A body as `generateContent` sends it."""
    n_in, n_out = count_tokens(asked, text)
    reply: dict[str, Any] = {
        "usageMetadata": {
            "promptTokenCount": n_in,
            "candidatesTokenCount": n_out,
            "totalTokenCount": n_in + n_out,
        },
        "modelVersion": asked.model,
    }
    if kind == "no_candidates":
        return reply
    if kind == "blocked_prompt":
        return {**reply, "promptFeedback": {"blockReason": _PROMPT_SAFETY}}
    parts: list[dict[str, Any]] = [{"text": text}]
    if kind == "tool_call":
        parts = [{"functionCall": {"name": "grade", "args": {"score": 90}}}]
    if kind in {"null_content", "safety", "recitation"}:
        parts = []
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if kind != "no_finish":
        candidate["finishReason"] = _GEMINI_FINISH.get(kind, _STOP)
    return {**reply, "candidates": [candidate]}


def write_openai(asked: Asked, text: str, kind: str) -> dict[str, Any]:
    """A body as the chat API sends it."""
    n_in, n_out = count_tokens(asked, text)
    reply: dict[str, Any] = {
        "id": "chatcmpl-loopback",
        "object": "chat.completion",
        "created": 0,
        "model": asked.model,
        "usage": {
            "prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out,
        },
    }  # fmt: skip
    if kind == "no_candidates":
        return {**reply, "choices": []}
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if kind in {"null_content", "safety", "recitation"}:
        message["content"] = None
    if kind == "blocked_prompt":
        message |= {"content": None, "refusal": "I cannot grade this."}
    if kind == "tool_call":
        call = {"name": "grade", "arguments": '{"score": 90}'}
        message |= {"tool_calls": [{"id": "1", "type": "function", "function": call}]}
    finish = _OPENAI_FINISH.get(kind, "stop")
    return {**reply, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def write_text(model: str, completion: Completion, n_tokens_in: int, kind: str) -> dict[str, Any]:
    """The text of a model as the chat API sends it, with the tokens that it really has."""
    n_out = len(completion.token_ids)
    body = write_openai(Asked(model, "", "", {}), completion.text, kind)
    if completion.finish == "length" and body["choices"]:
        body["choices"][0]["finish_reason"] = "length"
    usage = {
        "prompt_tokens": n_tokens_in,
        "completion_tokens": n_out,
        "total_tokens": n_tokens_in + n_out,
    }
    return {**body, "system_fingerprint": "loopback", "usage": usage}


def gemini_error(status: int, message: str, reason: str, delay_s: float | None) -> dict[str, Any]:
    """An error body as Google's APIs send it."""
    details: list[dict[str, Any]] = []
    if reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    if delay_s is not None:
        retry = "type.googleapis.com/google.rpc.RetryInfo"
        details.append({"@type": retry, "retryDelay": f"{delay_s:g}s"})
    return {"error": {"code": status, "message": message, "status": "FAILED", "details": details}}


def openai_error(message: str, code: str, param: str | None) -> dict[str, Any]:
    """An error body as OpenAI sends it."""
    return {"error": {"message": message, "type": "error", "code": code, "param": param}}


def count_tokens(asked: Asked, text: str) -> tuple[int, int]:
    """Tokens in and out as the server bills them: one per 4 bytes of question and schema, and 8 for
    the roles; one per 4 bytes of the answer."""
    n_schema = len(str(asked.schema)) if asked.schema else 0
    n_question = len((asked.system + asked.user).encode("utf-8", "surrogatepass"))
    n_answer = len(text.encode("utf-8", "surrogatepass"))
    return math.ceil((n_question + n_schema) / 4) + 8, math.ceil(n_answer / 4)


def _text_of(content: Mapping[str, Any]) -> str:
    return "".join(part.get("text", "") for part in content.get("parts", []))


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Gemini's schema in the words of JSON schema; its client sends types by number."""
    plain = dict(schema)
    if isinstance(kind := schema.get("type"), int):
        plain["type"] = _GEMINI_TYPES[kind].lower()
    for bound in ("minItems", "maxItems"):
        if bound in schema:
            plain[bound] = int(schema[bound])
    if "items" in schema:
        plain["items"] = _json_schema(schema["items"])
    if "properties" in schema:
        plain["properties"] = {k: _json_schema(part) for k, part in schema["properties"].items()}
    return plain

"""What goes over the wire to servers that speak OpenAI's chat format, and what comes back.

Knows the JSON of a request and of an answer, for live questions and for batches alike. Refuses to know how it
travels, and to guess: an answer of another shape is named, never mended.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from taglens.errors import UsageError
from taglens.language.chat import Ask, Reply, Usage

PATH = "chat/completions"

# How much of a strange answer an error quotes.
_QUOTED = 200
# Fields of a request that are the question itself, or how its answer is read.
_OURS = {"model", "messages", "stream"}
# What servers call it, in place of an answer, when a filter stopped the question.
_FILTERED = {"content_filter", "content_policy_violation"}


class MalformedAnswerError(ValueError):
    """An answer that is not of the format; the message says what came."""


def model_label(model: str, extra: Mapping[str, Any] | None) -> str:
    """The model's name with the settings that change its answers: what answers are kept under.

    Raises:
        UsageError: for settings that are not the caller's to make, and for what JSON cannot hold.
    """
    if not extra:
        return model
    if ours := sorted(_OURS & extra.keys()):
        raise UsageError(f"extra settings may be any but {', '.join(sorted(_OURS))}, got {', '.join(ours)}")
    try:
        return f"{model} {json.dumps(extra, sort_keys=True, separators=(',', ':'))}"
    except (TypeError, ValueError) as error:
        raise UsageError(f"extra settings have to be what JSON can hold, got some with {error}") from None


def request_body(
    ask: Ask,
    model: str,
    *,
    structured: bool = True,
    token_limit: str = "max_tokens",  # noqa: S107 - the name of a field, no password
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON of one request, in the order system, pictures, text.

    Args:
        structured: whether the schema is sent, if there is one.
        token_limit: the field that holds `Ask.max_tokens`.
        extra: fields that are added or replaced; those of value None are left out.
    """
    text = {"type": "text", "text": ask.text}
    pictures = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:{each.media_type};base64,{base64.b64encode(each.data).decode()}"},
        }
        for each in ask.pictures
    ]
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    # Servers of text models take nothing but a plain string.
    content: Any = [*pictures, text] if pictures else ask.text
    body: dict[str, Any] = {
        "model": model,
        "messages": [*system, {"role": "user", "content": content}],
        token_limit: ask.max_tokens,
        "temperature": ask.temperature,
    }
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.schema is not None and structured:
        schema = {"name": "answer", "schema": ask.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    body.update(extra or {})
    return {name: value for name, value in body.items() if value is not None}


def read_completion(content: str | bytes, *, model: str) -> Reply:
    """The reply in the text of an answer with status 200.

    Args:
        model: its name, for answers that leave it out.

    Raises:
        MalformedAnswerError: for whatever is not a chat completion.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedAnswerError(f"no JSON: {quoted(content)}") from None
    return reply_of(answer, model=model)


def reply_of(answer: object, *, model: str) -> Reply:
    """The reply in a chat completion.

    Raises:
        MalformedAnswerError: for whatever is not a chat completion.
    """
    if not isinstance(answer, dict):
        raise MalformedAnswerError(f"JSON that is no object: {quoted(json.dumps(answer))}")
    if answer.get("error"):
        raise MalformedAnswerError(f"an error in place of an answer: {quoted(error_message(answer))}")
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise MalformedAnswerError(f"an object without choices[0].message: {quoted(json.dumps(answer))}")
    refusal = message.get("refusal")
    ended = choice.get("finish_reason")
    named = answer.get("model")
    return Reply(
        text=whole(refusal) if isinstance(refusal, str) and refusal else _text(message.get("content")),
        model=named if isinstance(named, str) and named else model,
        usage=_usage(answer.get("usage")),
        refused=bool(refusal) or ended == "content_filter",
        cut=ended == "length",
    )


def error_code(answer: object) -> str | None:
    """The short name of a fault in an error's JSON."""
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def filtered(answer: object) -> bool:
    """Whether an error's JSON says that a filter stopped the question: a refusal, not a fault."""
    return error_code(answer) in _FILTERED


def error_message(answer: object) -> str:
    """The message in an error's JSON, or else the JSON itself."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = error.get("message") if isinstance(error, dict) else error
    return whole(message) if isinstance(message, str) else json.dumps(answer)


def quoted(content: str | bytes) -> str:
    """The beginning of a text on one line, for an error message."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else content
    line = " ".join(text[: 4 * _QUOTED].split())
    return repr(line if len(line) <= _QUOTED else line[:_QUOTED] + "…")


def whole(text: str) -> str:
    """The text without halves of characters, which JSON can hold and no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return whole(content)
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return whole("".join(str(part) for part in parts))
    raise MalformedAnswerError(f"a message whose content is no text: {quoted(json.dumps(content))}")


def _usage(value: object) -> Usage:
    """The tokens a server counted; anything but whole numbers that fit each other counts as not said."""
    if not isinstance(value, dict):
        return Usage()
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = [value.get("prompt_tokens"), value.get("completion_tokens"), 0 if cached is None else cached]
    numbers = [count for count in counts if type(count) is int and count >= 0]
    if len(numbers) != len(counts) or numbers[2] > numbers[0]:
        return Usage()
    return Usage(*numbers)

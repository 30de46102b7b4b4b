"""Chat Completions and the older Completions as streams: chunks with fragments of choices, then `[DONE]`.

https://platform.openai.com/docs/api-reference/chat-streaming. Usage comes with the last chunk, and only where the request's
`stream_options.include_usage` asks for it.
"""

from __future__ import annotations

from typing import Any, Final

from batchrunner.dialect import facts
from batchrunner.streaming import merging

_END: Final = b"[DONE]"
_OBJECTS: Final = {"chat.completion.chunk": "chat.completion"}
#: what is sent so that the lengths of packets tell nothing
_PADDING: Final = frozenset({"obfuscation"})
#: fields of a fragment that are more than a beginning
_CONTENT: Final = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio")


class Choices:
    """Assembles chunks. The last word of a field that every chunk repeats stands; of usage, the last that is not null."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.began = False
        self.complete = False
        self._error: dict[str, Any] | None = None
        self._whole: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        return bool(self._choices) and all(facts.string(choice.get("finish_reason")) for choice in self._choices.values())

    def take(self, event: str, data: bytes) -> None:
        if data.strip() == _END:
            self.complete = True
            return
        chunk = merging.read(data)
        if not isinstance(chunk, dict):
            return
        if chunk.get("error") or event == "error":
            self._error = merging.error_in(chunk)
            self.complete = True
            return
        for name, value in chunk.items():
            if name == "choices":
                for choice in facts.mappings(value):
                    self._take_choice(choice)
            elif name not in _PADDING and (value is not None or name not in self._whole):
                self.held_bytes += merging.put(self._whole, name, value)

    def body(self) -> bytes:
        if self._error is not None:
            return merging.encoded({"error": self._error})
        whole = self._whole | {"choices": [merging.plain(_tidy(self._choices[index])) for index in sorted(self._choices)]}
        whole["object"] = _OBJECTS.get(str(whole.get("object")), whole.get("object"))
        return merging.encoded(whole)

    def _take_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        index = index if type(index) is int else 0
        if index not in self._choices:
            self._choices[index] = {}
            self.held_bytes += merging.merge(self._choices[index], {"index": index})
        fragment = facts.mapping(choice.get("delta"))
        self.began = self.began or bool(choice.get("text")) or any(fragment.get(name) for name in _CONTENT)
        rest = {name: value for name, value in choice.items() if name not in ("index", "delta")}
        if "delta" in choice:
            rest["message"] = fragment
        self.held_bytes += merging.merge(self._choices[index], rest)


def _tidy(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice as it is without a stream, where calls stand in their order and have no index."""
    message = facts.mapping(choice.get("message"))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        ordered = sorted(facts.mappings(calls), key=_index)
        message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in ordered]
    return choice


def _index(call: dict[str, Any]) -> int:
    index = call.get("index")
    return index if type(index) is int else 0

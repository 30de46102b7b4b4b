"""Anthropic Messages as a stream: a message that begins, its blocks in fragments, what it came to, `message_stop`.

https://docs.anthropic.com/en/docs/build-with-claude/streaming. Usage figures of `message_delta` are sums so far.
"""

from __future__ import annotations

from typing import Any, Final

from batchrunner.dialect import facts
from batchrunner.streaming import merging

#: fragments whose text is JSON: the input of a call
_JSON: Final = "input_json_delta"
#: fragments that bring an item of a list: the field, and the list that it belongs to
_ITEMS: Final = {"citations_delta": ("citation", "citations")}


class Messages:
    """Assembles events by their own `type`; those of a type that is not known are passed over, as the documentation wants it."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.began = False
        self.complete = False
        self._error: dict[str, Any] | None = None
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        #: the inputs of calls, by block
        self._inputs: dict[int, dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        return facts.string(self._message.get("stop_reason")) is not None

    def take(self, event: str, data: bytes) -> None:
        said = merging.read(data)
        if not isinstance(said, dict):
            return
        match said.get("type") or event:
            case "message_start":
                self._message = facts.mapping(said.get("message"))
                self.held_bytes += merging.weight(self._message)
            case "content_block_start":
                block = facts.mapping(said.get("content_block"))
                self.held_bytes += len(data) + merging.merge(self._blocks.setdefault(_index(said), {}), block)
            case "content_block_delta":
                self.began = True
                self._take_fragment(_index(said), facts.mapping(said.get("delta")))
            case "message_delta":
                self.held_bytes += len(data)
                self._message |= facts.mapping(said.get("delta"))
                figures = {name: value for name, value in facts.mapping(said.get("usage")).items() if value is not None}
                if figures:
                    self._message["usage"] = facts.mapping(self._message.get("usage")) | figures
            case "message_stop":
                self.complete = True
            case "error":
                self._error = {"type": "error"} | said | {"error": merging.error_in(said)}
                self.complete = True

    def body(self) -> bytes:
        if self._error is not None:
            return merging.encoded(self._error)
        content = [self._block(index) for index in sorted(self._blocks)]
        return merging.encoded(self._message | {"content": content})

    def _take_fragment(self, index: int, fragment: dict[str, Any]) -> None:
        kind = str(fragment.get("type"))
        rest = {name: value for name, value in fragment.items() if name != "type"}
        if kind == _JSON:
            self.held_bytes += merging.merge(self._inputs.setdefault(index, {}), rest)
            return
        if kind in _ITEMS:
            item, items = _ITEMS[kind]
            rest = {items: [rest.get(item)]}
        self.held_bytes += merging.merge(self._blocks.setdefault(index, {}), rest)

    def _block(self, index: int) -> dict[str, Any]:
        block: dict[str, Any] = merging.plain(self._blocks[index])
        written = merging.plain(self._inputs.get(index, {})).get("partial_json")
        return block | {"input": merging.parsed(written)} if written else block


def _index(said: dict[str, Any]) -> int:
    index = said.get("index")
    return index if type(index) is int else 0

"""OpenAI Responses as a stream: of all its events the last one holds the whole answer.

https://platform.openai.com/docs/api-reference/responses-streaming. What came before it need not be kept.
"""

from __future__ import annotations

from typing import Final

import msgspec

from batchrunner.streaming import merging

_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_DONE: Final = b"[DONE]"
_NOTHING: Final = msgspec.Raw()


class _Event(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = _NOTHING


_decode = msgspec.json.Decoder(_Event).decode


class Responses:
    """Keeps the answer, byte for byte as the last event spells it."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.began = False
        self.complete = False
        self._body = b""

    @property
    def finished(self) -> bool:
        return self.complete

    def take(self, event: str, data: bytes) -> None:
        if data.strip() == _DONE:  # some servers end every stream so; it is not what ends this one
            return
        try:
            said = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            merging.read(data)  # what no decoder reads is no event
            said = _Event(event)
        kind = said.type or event
        self.began = self.began or kind.endswith(".delta")
        if kind in _LAST:
            self._keep(bytes(said.response))
        elif kind == "error":
            found = merging.read(data)
            self._keep(merging.encoded({"error": merging.error_in(found if isinstance(found, dict) else {})}))

    def body(self) -> bytes:
        return self._body

    def _keep(self, body: bytes) -> None:
        self._body = body
        self.held_bytes = len(body)
        self.complete = True

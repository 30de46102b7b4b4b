"""The account's saved conversations: all of the list, and one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Final
from urllib.parse import quote

import msgspec

from batchrunner.chats import Conversation, Listing, read_conversation, read_list, unwrapped
from batchrunner.errors import AccountError
from batchrunner.platform.answers import read_answer
from batchrunner.platform.control import ControlPlane, RefusedError

PATH: Final = "/v1/playground/conversations"
WHAT: Final = "the list of saved chats"
#: A list that goes on beyond this is not one of at most 50.
MOST: Final = 1_000


class Saved(msgspec.Struct, frozen=True):
    """The whole list, as the server orders it."""

    conversations: tuple[Conversation, ...]
    #: False where the server says that there are more, and no way led to them
    complete: bool


class Loaded(msgspec.Struct, frozen=True):
    """A conversation with its messages."""

    conversation: Conversation
    #: as the server wrote it, on one line
    line: bytes


async def list_conversations(control: ControlPlane) -> Saved:
    """The list, without messages. Where it comes in pages, all of them; nothing about pages is documented.

    Raises: as `ControlPlane.get`; AccountError where the answer is no list.
    """
    found: dict[str, Conversation] = {}
    page: Listing | None = await _list(control, {})
    while page is not None and len(found) < MOST:
        found |= {conversation.id: conversation for conversation in page.conversations}
        if page.has_more is False or not page.conversations or (page.total is not None and len(found) >= page.total):
            return Saved(tuple(found.values()), complete=True)
        told = page.has_more is not None or page.total is not None or page.cursor is not None
        page = await _further(control, page, found, told=told)
        if page is None:
            return Saved(tuple(found.values()), complete=not told)
    return Saved(tuple(found.values()), complete=False)


async def load(control: ControlPlane, conversation_id: str) -> Loaded:
    """One conversation. Raises: as `ControlPlane.get`; AccountError where the answer is none."""
    what = f"saved chat {conversation_id}"
    body = await control.get(f"{PATH}/{quote(conversation_id, safe='')}", what=what)
    found = read_conversation(body)
    if found is None:
        read_answer(body, what)
        raise AccountError(f"{what} cannot be read: the answer is no conversation; check --base-url.")
    return Loaded(found, unwrapped(body))


async def load_all(control: ControlPlane, conversations: tuple[Conversation, ...]) -> AsyncGenerator[Loaded | Conversation, None]:
    """Each of them, in their order; as it stood in the list where it has been deleted meanwhile. Raises: as `load`."""
    for listed in conversations:
        try:
            yield await load(control, listed.id)
        except RefusedError as refused:
            if refused.status != 404:
                raise
            yield listed


async def _list(control: ControlPlane, query: dict[str, str]) -> Listing:
    body = await control.get(PATH, query, what=WHAT)
    listing = read_list(body)
    if listing is None:
        read_answer(body, WHAT)
        raise AccountError(f"{WHAT} cannot be read: the answer holds no list; check --base-url.")
    return listing


async def _further(control: ControlPlane, page: Listing, found: dict[str, Conversation], *, told: bool) -> Listing | None:
    """The next page: the first answer, to one way of asking or another, that has something new.

    Where nothing tells that there is one, one way is tried.
    """
    for query in _ways(page, len(found)) if told else [{"before": page.conversations[-1].id}]:
        try:
            further = await _list(control, query)
        except RefusedError as refused:
            if refused.status not in (400, 404, 422):
                raise
            continue
        if any(conversation.id not in found for conversation in further.conversations):
            return further
    return None


def _ways(page: Listing, count: int) -> Iterator[dict[str, str]]:
    """What may be asked for the next page, the likeliest first."""
    last = page.conversations[-1].id
    if page.cursor is not None:
        yield {"cursor": page.cursor}
    yield {"before": last}
    yield {"after": last}
    yield {"offset": str(count)}

"""All usage events of an account, page by page to the very end, newest first.

Only the filter `before` is documented, not what it takes. So the next page is asked for in each way that may be meant, until
one leads on: by the last event's id; by its time as the server spells it, a unit later, so that others of the same moment are
not passed over; by the same in ISO 8601; and by its time itself, where more events than fill a page are of one moment. What
an earlier page had is dropped, and where no way leads to anything new the list has ended.

What is charged while pages are being fetched is newer than the first page: it comes with the next list, and disturbs none.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from batchrunner.dialect import read_exact_json
from batchrunner.dialect.facts import mapping
from batchrunner.platform.control import ControlPlane, RefusedError
from batchrunner.platform.usage_events import Page, moment_ns, read_page, time_of
from batchrunner.usage_event import UsageEvent

USAGE_PATH: Final = "/v1/account/usage"
WHAT: Final = "the account's usage"
#: Page sizes, the next one where the server refuses one as too large; None: its own.
PAGE_SIZES: Final = (1_000, 500, 200, 100, None)
#: what a server says that does not take a filter's value
_REFUSED_VALUES: Final = frozenset({400, 413, 422})
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")

#: what `before` is to be, from the last event and its line; None where that names no such thing
_Way = Callable[[UsageEvent, bytes], str | None]


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are meant: those for which all that is given here holds. Times are ISO 8601 or Unix seconds, as text."""

    #: the first moment, and the first one after
    from_: str | None = None
    to: str | None = None
    #: older than an event of this id, or than this time
    before: str | None = None
    model: str | None = None
    status: str | None = None
    #: `api` or `playground`
    source: str | None = None

    def query(self) -> dict[str, str]:
        """What the server is asked with."""
        return {name.rstrip("_"): value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class UsagePages:
    """The pages of one list: `async for page in UsagePages(control, filters)`, each with events that no other one has.

    `most`: no more events than this, the newest. Times are held to `from` and `to` here too: a server that does not know these
    filters would give everything.

    Memory: three pages, and an id for each page. Ask for it once.
    Raises, while it goes on: as `ControlPlane.get`; AccountError where an answer holds no list of events.
    """

    def __init__(self, control: ControlPlane, filters: Filters | None = None, *, most: int | None = None) -> None:
        #: USD, as the first answer says
        self.balance_usd: Decimal | None = None
        #: False where there are older events, as far as the server says, and no way led to them
        self.complete = True
        self._control = control
        self._query = (filters or Filters()).query()
        self._span = (moment_ns(self._query.get("from")), moment_ns(self._query.get("to")))
        self._left = most
        sizes = PAGE_SIZES if most is None else dict.fromkeys(size and min(size, most) for size in PAGE_SIZES)
        self._sizes = iter(sizes)
        self._size = next(self._sizes)
        #: the ways to ask for the next page that are left; one once it is sure
        self._ways: tuple[_Way, ...] = (_by_id, _just_after, _just_after_in_iso, _by_time)
        if "before" in self._query:
            self._ways = (_by_id, _by_time)  # the others could go beyond it
        #: identities of the page before, and of this one
        self._before: frozenset[object] = frozenset()
        self._known: frozenset[object] = frozenset()
        #: events that were gone on from: one that comes again would lead in a circle
        self._turns: set[object] = set()

    async def __aiter__(self) -> AsyncIterator[Page]:
        page: Page | None = await self._first()
        while page is not None:
            fresh = self._fresh(page)
            self._before, self._known = self._known, frozenset(map(_identity, page.events, page.lines))
            if fresh.events:
                yield fresh
            if self._left is not None:
                self._left -= len(fresh.events)
            if self._left == 0:
                return
            page = None if page.has_more is False else await self._further(page)

    async def _first(self) -> Page:
        """The first page, as large as the server takes."""
        while True:
            try:
                page = await self._ask({})
            except RefusedError as refused:
                if refused.status not in _REFUSED_VALUES or self._size is None:
                    raise
                self._size = next(self._sizes)
            else:
                self.balance_usd = page.balance_usd
                return page

    async def _further(self, page: Page) -> Page | None:
        """The page behind this one: the first that ends with something new, in one way or another; None where none does."""
        turn = _identity(page.events[-1], page.lines[-1]) if page.events else None
        ways = () if turn is None or turn in self._turns else self._ways
        self._turns.add(turn)
        answered = not ways
        for way in ways:
            cursor = way(page.events[-1], page.lines[-1])
            further = None if cursor is None else await self._behind(cursor)
            answered |= further is not None
            if further is not None and further.events and not self._knows(further.events[-1], further.lines[-1]):
                if way is not _by_time:  # that one is for where nothing else leads on, and others may do so again
                    self._ways = (way,) if way is _by_id else self._ways[self._ways.index(way) :]
                return further
        self.complete = answered and page.has_more is not True
        return None

    async def _behind(self, cursor: str) -> Page | None:
        """The page that the server has before something; None where it does not take that, and has not yet taken its like."""
        try:
            return await self._ask({"before": cursor})
        except RefusedError as refused:
            if refused.status not in _REFUSED_VALUES or len(self._ways) == 1:
                raise
            return None

    async def _ask(self, more: dict[str, str]) -> Page:
        size = {} if self._size is None else {"limit": str(self._size)}
        return read_page(await self._control.get(USAGE_PATH, self._query | size | more, what=WHAT), WHAT)

    def _fresh(self, page: Page) -> Page:
        """The page without what is known, what stands in it twice, and what was not asked for."""
        seen = set(self._before | self._known)
        kept: list[int] = []
        for place, (event, line) in enumerate(zip(page.events, page.lines, strict=True)):
            identity = _identity(event, line)
            if identity not in seen and self._is_within(event):
                kept.append(place)
            if event.id:  # two without an id may be two that are alike
                seen.add(identity)
        kept = kept[: self._left]
        if len(kept) == len(page.events):
            return page
        events, lines = (page.events[place] for place in kept), (page.lines[place] for place in kept)
        return msgspec.structs.replace(page, events=tuple(events), lines=tuple(lines))

    def _is_within(self, event: UsageEvent) -> bool:
        """Whether an event is of the time that was asked for, as far as it names its own."""
        begin_ns, end_ns = self._span
        return event.at_ns is None or ((begin_ns or 0) <= event.at_ns and (end_ns is None or event.at_ns < end_ns))

    def _knows(self, event: UsageEvent, line: bytes) -> bool:
        identity = _identity(event, line)
        return identity in self._known or identity in self._before


async def usage_events(control: ControlPlane, filters: Filters | None = None) -> AsyncIterator[UsageEvent]:
    """All events that the filters let through, newest first, each once. Raises as `UsagePages`."""
    async for page in UsagePages(control, filters):
        for event in page.events:
            yield event


def _identity(event: UsageEvent, line: bytes) -> object:
    return event.id or line


def _by_id(last: UsageEvent, _line: bytes) -> str | None:
    return last.id or None


def _just_after(last: UsageEvent, line: bytes) -> str | None:
    """The first moment after an event's that its spelling can name."""
    said = _said_time(line)
    if last.at_ns is None:
        return None
    return str(int(Decimal(said)) + 1) if _NUMBER.fullmatch(said) else _just_after_in_iso(last, line)


def _just_after_in_iso(last: UsageEvent, _line: bytes) -> str | None:
    """In milliseconds, the least that is common."""
    if last.at_ns is None:
        return None
    seconds, milliseconds = divmod(last.at_ns // 1_000_000 + 1, 1_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1_000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _by_time(last: UsageEvent, line: bytes) -> str | None:
    return None if last.at_ns is None else _said_time(line)


def _said_time(line: bytes) -> str:
    """An event's time as the server spells it."""
    said = time_of(mapping(read_exact_json(line)))
    return format(said, "f") if isinstance(said, Decimal) else str(said).strip()

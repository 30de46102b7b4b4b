"""The exact log of our own sends: what the last minute holds, and when it has room again."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import msgspec

from batchrunner.budget.charging import ACTUAL, ESTIMATE, SETTLE, Charging
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS

#: Above this many entries, sends share cells, so that the log of a 100,000 RPM account stays small.
CELL_THRESHOLD = 1_000
CELL_NS = NS // 4


class Cell(msgspec.Struct, array_like=True):
    """Sends that leave the window together: with the last of them."""

    first_ns: int
    last_ns: int
    requests: int
    #: of the requests, those that the server turned away; they hold no tokens
    refused: int
    #: tokens that they use: as predicted, then as reported
    used: int
    #: what they may use at the most while they are under way, then what they used
    held: int
    #: what they might have used at the most
    reserved: int


class Window(msgspec.Struct):
    """Our own sends of the last 60 + J seconds.

    Invariant: `requests`, `refused`, `used`, `held` and `reserved` are the sums over `cells`, and `cells` (oldest first;
    `first_cell` is the number of the oldest) holds nothing that had expired at the last `expire`.
    """

    cells: list[Cell] = []
    first_cell: int = 0
    requests: int = 0
    refused: int = 0
    used: int = 0
    held: int = 0
    reserved: int = 0

    def expire(self, now_ns: int) -> None:
        """Forget what has left the window."""
        if not self.cells or self.cells[0].last_ns + SAFE_WINDOW_NS > now_ns:
            return
        gone = 0
        for cell in self.cells:
            if cell.last_ns + SAFE_WINDOW_NS > now_ns:
                break
            gone += 1
            self.requests -= cell.requests
            self.refused -= cell.refused
            self.used -= cell.used
            self.held -= cell.held
            self.reserved -= cell.reserved
        del self.cells[:gone]
        self.first_cell += gone

    def sums(self, now_ns: int) -> tuple[int, int]:
        """Requests, and the tokens that they use, in the window at `now_ns`, which may lie after the last `expire`."""
        requests, tokens = self.requests, self.used
        for cell in self.cells:
            if cell.last_ns + SAFE_WINDOW_NS > now_ns:
                break
            requests -= cell.requests
            tokens -= cell.used
        return requests, tokens

    def load(self, way: Charging, since_ns: int | None = None) -> int:
        """Tokens in the window (of what was sent since `since_ns`), as a server reckons that charges in this way."""
        of = _TOKENS[way]
        return of(self) if since_ns is None else sum(of(cell) for cell in self.cells if cell.first_ns >= since_ns)

    def sent_since(self, since_ns: int) -> int:
        """Requests sent after `since_ns`."""
        return sum(cell.requests for cell in self.cells if cell.first_ns > since_ns)

    def add(self, now_ns: int, used: int, reserved: int) -> int:
        """Enter a send; the number of its cell. `now_ns` must not lie before an earlier entry's."""
        self.requests += 1
        self.used += used
        self.held += reserved
        self.reserved += reserved
        cells = self.cells
        if len(cells) >= CELL_THRESHOLD and now_ns - cells[-1].first_ns < CELL_NS:
            cell = cells[-1]
            cell.last_ns = now_ns
            cell.requests += 1
            cell.used += used
            cell.held += reserved
            cell.reserved += reserved
        else:
            cells.append(Cell(now_ns, now_ns, 1, 0, used, reserved, reserved))
        return self.first_cell + len(cells) - 1

    def assume(self, at_ns: int, requests: int, tokens: int) -> None:
        """Enter sends that may have been made up to `at_ns`, all at its end."""
        if self.cells:
            at_ns = max(at_ns, self.cells[-1].last_ns)
        self.cells.append(Cell(at_ns, at_ns, requests, 0, tokens, tokens, tokens))
        self._count(requests, tokens)

    def insert(self, sends: list[tuple[int, int]]) -> list[int]:
        """Enter sends (when, and how many tokens) that were made meanwhile, each at its time; the new numbers of all cells."""
        old = self.cells
        new = [Cell(at_ns, at_ns, 1, 0, tokens, tokens, tokens) for at_ns, tokens in sends]
        self.cells = sorted([*old, *new], key=lambda cell: cell.last_ns)
        self._count(len(sends), sum(tokens for _, tokens in sends))
        places = {id(cell): number for number, cell in enumerate(self.cells, self.first_cell)}
        return [places[id(cell)] for cell in old]

    def _count(self, requests: int, tokens: int) -> None:
        self.requests += requests
        self.used += tokens
        self.held += tokens
        self.reserved += tokens

    # Neither of these does anything where the cell has expired: what it held no longer counts.

    def settle(self, number: int, used: int, held: int) -> None:
        """Change what a cell's requests used and held, by differences."""
        if number >= self.first_cell:
            cell = self.cells[number - self.first_cell]
            cell.used += used
            self.used += used
            cell.held += held
            self.held += held

    def refuse(self, number: int, used: int, reserved: int) -> None:
        """A request of this cell was turned away, that had taken these tokens."""
        if number >= self.first_cell:
            self.settle(number, -used, -reserved)
            cell = self.cells[number - self.first_cell]
            cell.reserved -= reserved
            self.reserved -= reserved
            cell.refused += 1
            self.refused += 1

    def room_for_request_ns(self, now_ns: int, rpm: int, limit: int, reserved: int) -> int:
        """When one more request fits beside those sent and `reserved` slots already given out.

        `limit`: of all sends, as configured; `rpm`: of those that are not refused, as the server seems to have it.
        """
        over = self.requests + reserved + 1 - limit
        over_accepted = self.requests - self.refused + reserved + 1 - rpm
        if over <= 0 and over_accepted <= 0:
            return now_ns
        for cell in self.cells:
            over -= cell.requests
            over_accepted -= cell.requests - cell.refused
            if over <= 0 and over_accepted <= 0:
                return max(now_ns, cell.last_ns + SAFE_WINDOW_NS)
        # More slots given out than the limit allows: only their own passing makes room.
        return now_ns + SAFE_WINDOW_NS

    def room_for_tokens_ns(self, now_ns: int, way: Charging, tokens: int, tpm: int) -> int:
        """When `tokens` more fit by one way of charging. More than a whole minute's go alone: when the window is empty."""
        of = _TOKENS[way]
        held = of(self)
        over = held if tokens > tpm else held + tokens - tpm
        if over <= 0:
            return now_ns
        for cell in self.cells:
            over -= of(cell)
            if over <= 0:
                return max(now_ns, cell.last_ns + SAFE_WINDOW_NS)
        raise AssertionError("the window's sum is more than its cells hold")


#: of a window or a cell
_TOKENS: dict[Charging, Callable[[Window | Cell], int]] = {
    ACTUAL: attrgetter("used"),
    SETTLE: attrgetter("held"),
    ESTIMATE: attrgetter("reserved"),
}

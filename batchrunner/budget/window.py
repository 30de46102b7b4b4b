"""The exact log of our own sends: what the last minute holds, and when it has room again."""

from __future__ import annotations

import msgspec

from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS

#: Above this many entries, sends share cells, so that the log of a 100,000 RPM account stays small.
CELL_THRESHOLD = 1_000
CELL_NS = NS // 4


class Cell(msgspec.Struct, array_like=True):
    """Sends that leave the window together: with the last of them."""

    first_ns: int
    last_ns: int
    requests: int
    tokens: int


class Window(msgspec.Struct):
    """Our own sends of the last 60 + J seconds.

    Invariant: `requests` and `tokens` are the sums over `cells`, and `cells` (oldest first; `first_cell` is the number of
    the oldest) holds nothing that had expired at the last `expire`.
    """

    cells: list[Cell] = []
    first_cell: int = 0
    requests: int = 0
    tokens: int = 0

    def expire(self, now_ns: int) -> None:
        """Forget what has left the window."""
        gone = 0
        for cell in self.cells:
            if cell.last_ns + SAFE_WINDOW_NS > now_ns:
                break
            gone += 1
            self.requests -= cell.requests
            self.tokens -= cell.tokens
        if gone:
            del self.cells[:gone]
            self.first_cell += gone

    def sums(self, now_ns: int) -> tuple[int, int]:
        """Requests and tokens that are in the window at `now_ns`, which may lie after the last `expire`."""
        requests, tokens = self.requests, self.tokens
        for cell in self.cells:
            if cell.last_ns + SAFE_WINDOW_NS > now_ns:
                break
            requests -= cell.requests
            tokens -= cell.tokens
        return requests, tokens

    def add(self, now_ns: int, tokens: int) -> int:
        """Enter a send; the number of its cell. `now_ns` must not lie before an earlier entry's."""
        self.requests += 1
        self.tokens += tokens
        if len(self.cells) >= CELL_THRESHOLD and now_ns - self.cells[-1].first_ns < CELL_NS:
            cell = self.cells[-1]
            cell.last_ns = now_ns
            cell.requests += 1
            cell.tokens += tokens
        else:
            self.cells.append(Cell(now_ns, now_ns, 1, tokens))
        return self.first_cell + len(self.cells) - 1

    def assume(self, at_ns: int, requests: int, tokens: int) -> None:
        """Enter sends that may have been made up to `at_ns`, all at its end."""
        if self.cells:
            at_ns = max(at_ns, self.cells[-1].last_ns)
        self.cells.append(Cell(at_ns, at_ns, requests, tokens))
        self.requests += requests
        self.tokens += tokens

    def insert(self, sends: list[tuple[int, int]]) -> list[int]:
        """Enter sends (when, and how many tokens) that were made meanwhile, each at its time; the new numbers of all cells."""
        old = self.cells
        self.cells = sorted([*old, *(Cell(at_ns, at_ns, 1, tokens) for at_ns, tokens in sends)], key=lambda cell: cell.last_ns)
        self.requests += len(sends)
        self.tokens += sum(tokens for _, tokens in sends)
        places = {id(cell): number for number, cell in enumerate(self.cells, self.first_cell)}
        return [places[id(cell)] for cell in old]

    def correct(self, number: int, tokens: int) -> None:
        """Change a cell's tokens by a difference. Nothing where it has expired: what it held no longer counts."""
        if number >= self.first_cell:
            self.cells[number - self.first_cell].tokens += tokens
            self.tokens += tokens

    def room_for_request_ns(self, now_ns: int, rpm: int, reserved: int) -> int:
        """When one more request fits beside those sent and `reserved` slots already given out."""
        over = self.requests + reserved + 1 - rpm
        if over <= 0:
            return now_ns
        for cell in self.cells:
            over -= cell.requests
            if over <= 0:
                return max(now_ns, cell.last_ns + SAFE_WINDOW_NS)
        # More slots given out than the limit allows: only their own passing makes room.
        return now_ns + SAFE_WINDOW_NS

    def room_for_tokens_ns(self, now_ns: int, tokens: int, tpm: int) -> int:
        """When `tokens` more fit. What is larger than a whole minute's limit goes alone: when the window is empty."""
        over = min(self.tokens, self.tokens + tokens - tpm)
        if over <= 0:
            return now_ns
        for cell in self.cells:
            over -= cell.tokens
            if over <= 0:
                return max(now_ns, cell.last_ns + SAFE_WINDOW_NS)
        raise AssertionError("the window's sum is more than its cells hold")

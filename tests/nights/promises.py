"""The promises of a run, held at each step: each write, each request, each answer, each event, each end of a process.

What is expected is kept apart from the program: from the bytes of requests, the records that were written before them, and
what the disk would hold after a power cut at that very moment.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.events import Event
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import Ended, Record, Refunded, Reopened, Sent, Submitted, What, decode
from batchrunner.results import read_line
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.faults import WHOLE
from tests.nights.disk import SimulatedDisk
from tests.nights.network import ClientEnd, with_number

WINDOW_NS = 60 * NS_PER_SECOND
#: what was let go as people told the run something may be on its way for so long
AT_ONCE_NS = NS_PER_SECOND // 10
#: codes of failures that end a job only when its attempts are spent
TRANSIENT = frozenset(
    {"internal_error", "overloaded", "request_timeout", "gateway_timeout", "conflict", "http_502", "http_503", "http_504"}
    | {"read", "write", "truncated", "protocol", "write_timeout", "between_bytes_timeout", "attempt_timeout"}
)

Key = tuple[str, int]


class Send(msgspec.Struct):
    """A request that went out."""

    number: int
    custom_id: str
    attempt: int
    end: ClientEnd
    #: where its record ends in the journal
    recorded: int
    #: whether the next start must know of it: not where the power went before its record was known to be on disk
    safe: bool = True


class Promises:
    """Watches one night. A broken promise is an AssertionError at the step that breaks it."""

    def __init__(self, now_ns: Callable[[], int], max_attempts: int) -> None:
        #: by (custom_id, attempt); `hidden` are those whose records went with the power
        self.sends: dict[Key, Send] = {}
        self.hidden: list[Send] = []
        #: custom_id -> whether it succeeded, as it was shown
        self.shown: dict[str, bool] = {}
        self.rpm = 0
        self.disk = SimulatedDisk()
        self._now_ns = now_ns
        self._max_attempts = max_attempts
        self._numbers = itertools.count(1)
        self._by_number: dict[int, Send] = {}
        #: when, and whether it was a question
        self._window: deque[tuple[int, bool]] = deque()
        #: whether the server knows the work that is asked for at a path
        self.knows: Callable[[str], bool] = lambda _: True
        #: since when nothing is to be sent anew
        self.paused_ns: int | None = None
        #: the limit before, and until when what goes out may have been let go under it
        self._before: tuple[int, float] = (0, 0)
        self._begin([])

    # A process --------------------------------------------------------------------------------------------------------

    def begins(self, disk: SimulatedDisk, rpm: int, *, retry_failed: bool) -> None:
        """A process begins, and has not touched anything yet.

        It knows nothing of an earlier one's questions: the journal does not have them, but only an account's file.
        """
        self.disk = disk
        self.rpm = rpm
        self.paused_ns = None
        self._before = (0, 0)
        self._window = deque(sent for sent in self._window if not sent[1])
        if retry_failed:
            self.shown = {custom_id: True for custom_id, succeeded in self.shown.items() if succeeded}

    def recovered(self) -> None:
        """It has recovered: nothing that was shown is lost, nothing is in flight, and each id has its one line."""
        named = self._safe_works
        self._begin([decode(line) for line in bytes(self.disk.files[JOURNAL]).splitlines(keepends=True)[1:]])
        left = self.in_flight.items() - self.works.keys()
        assert not left, f"still in flight after a recovery: {left}"
        for key in named:
            assert key in self.works or key in self.ends, f"{key} was taken on, and nothing says so any more"
        for custom_id, succeeded in self.shown.items():
            assert self.over.get(custom_id) is succeeded, f"{custom_id} was shown as over and is not"
        assert self._final_lines() == self.over, "the files of answers and the journal differ"
        for key, send in list(self.sends.items()):
            if key not in self.known:
                assert not send.safe, f"the record of {key} is lost, and was on disk"
                self.hidden.append(self.sends.pop(key))
            send.safe = True
        self.disk.wrote = self._wrote  # type: ignore[method-assign]

    def process_ended(self, *, power: bool) -> None:
        """It is gone, of itself or not. What a power cut may hide is what was not synced."""
        self.disk.wrote = lambda *_: None  # type: ignore[method-assign]
        for send in self.sends.values():
            send.safe = send.safe and (not power or self.disk.is_synced(JOURNAL, send.recorded))
        if power:
            self._safe_works -= {key for key, end in self._work_ends.items() if not self.disk.is_synced(JOURNAL, end)}

    def rebooted(self) -> None:
        """The last minute is forgotten with the boot that it was measured in: the run begins at its pace."""
        self._window.clear()

    def adopts(self, rpm: int) -> None:
        """People tell it another limit of requests. Until it has been adopted, either holds."""
        if rpm != self.rpm:
            self._before, self.rpm = (self.rpm, math.inf), rpm

    def adopted(self) -> None:
        self._before = (self._before[0], self._now_ns() + AT_ONCE_NS)

    def pauses(self) -> None:
        """People have it send nothing more."""
        self.paused_ns = self._now_ns()

    # Steps ------------------------------------------------------------------------------------------------------------

    def request(self, data: bytes, end: ClientEnd) -> bytes:
        """A request leaves: it is written down, nothing speaks against it, and the minute has room. It gets its number.

        A question after work changes nothing, and has none: the work must be one that the journal names.
        """
        if data.startswith(b"GET "):
            path = data.split(b" ", 2)[1].decode()
            assert path in self.works.values(), f"{path} is asked for, and nothing on disk names it"
            self._count_send(question=True)
            return data
        custom_id = msgspec.json.decode(data.partition(b"\r\n\r\n")[2])["metadata"]["custom_id"]
        attempt = self.in_flight.get(custom_id)
        assert attempt is not None, f"{custom_id} goes out, and nothing says so on disk"
        key = (custom_id, attempt)
        assert key not in self.works, f"{key} goes out again, though the server has taken it on"
        assert key not in self.sends, f"{key} goes out a second time"
        assert custom_id not in self.over, f"{custom_id} goes out, and is over"
        assert custom_id not in self.unreadable, f"{custom_id} goes out again after an answer that was paid for"
        send = Send(next(self._numbers), custom_id, attempt, end, self.record_ends[key])
        self.sends[key] = self._by_number[send.number] = send
        self._count_send()
        return with_number(data, send.number)

    def answer(self, number: int, answer: Answer) -> None:
        """An answer is on its way. A whole one that is paid for and cannot be read must not be asked for again."""
        send = self._by_number[number]
        arrives = answer.delivery in WHOLE and not answer.events and send.end.toxic is None and not send.end.is_closed
        if (
            answer.status == 200
            and not answer.events
            and arrives
            and self.in_flight.get(send.custom_id) == send.attempt
            and not _is_json(answer.body)
        ):
            self.unreadable.add(send.custom_id)

    def event(self, event: Event) -> None:
        """An event is shown: whatever it tells of would survive a power cut at this very moment."""
        key = (event.custom_id, event.attempt)
        for name, end in self.ends.get(key, {}).items():
            assert self.disk.is_synced(name, end), f"{key} is shown before {name} is on disk"
        if event.final:
            name, end = self.line_ends[event.custom_id]
            assert self.disk.is_synced(name, end), f"{event.custom_id} is shown as over before {name} is on disk"
            self.shown[event.custom_id] = event.succeeded

    def _wrote(self, name: str, offset: int, data: bytes) -> None:
        if name == JOURNAL:
            self._apply(decode(data), offset + len(data))
        elif name == COSTS:
            line = msgspec.json.decode(data)
            self.ends.setdefault((line["custom_id"], line["attempt"]), {})[COSTS] = offset + len(data)

    def _count_send(self, *, question: bool = False) -> None:
        now_ns, window = self._now_ns(), self._window
        window.append((now_ns, question))
        while window[0][0] <= now_ns - WINDOW_NS:
            window.popleft()
        before, until_ns = self._before
        in_force = (self.rpm, before) if now_ns <= until_ns else (self.rpm,)
        allowed = max(rpm or math.inf for rpm in in_force)
        assert len(window) <= allowed, f"{len(window)} sends within a minute, and {allowed} are allowed"

    # The journal as it stands -----------------------------------------------------------------------------------------

    def _begin(self, records: list[Record]) -> None:
        #: custom_id -> attempt
        self.in_flight: dict[str, int] = {}
        #: custom_id -> whether it succeeded
        self.over: dict[str, bool] = {}
        #: attempts that records speak of
        self.known: set[Key] = set()
        #: ends of what was written of an attempt, by file
        self.ends: dict[Key, dict[str, int]] = {}
        #: ends of final lines
        self.line_ends: dict[str, tuple[str, int]] = {}
        self.record_ends: dict[Key, int] = {}
        #: jobs of this process whose answer came whole and cannot be read
        self.unreadable: set[str] = set()
        #: what the server works on: its path
        self.works: dict[Key, str] = {}
        #: ends of the records that name it, and those of which the next start must know
        self._work_ends: dict[Key, int] = {}
        self._safe_works: set[Key] = set()
        #: since a job was last reopened: sends, ends that cost it no attempt, and the balance that the records keep
        self.tries: Counter[str] = Counter()
        self.free: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.reopened: Counter[str] = Counter()
        for record in records:
            self._apply(record, 0)

    def _apply(self, record: Record, end: int) -> None:
        match record:
            case Sent(id=custom_id, attempt=attempt):
                assert custom_id not in self.in_flight, f"{custom_id} is in flight twice"
                assert custom_id not in self.over, f"{custom_id} is sent, and is over"
                assert not end or not self._is_paused(), f"{custom_id} is sent, and the run is paused"
                self.in_flight[custom_id] = attempt
                self.tries[custom_id] += 1
                self.known.add((custom_id, attempt))
                self.record_ends[custom_id, attempt] = end
            case Submitted(id=custom_id, attempt=attempt, path=path):
                assert self.in_flight.get(custom_id) == attempt, f"{custom_id} is taken on, and was not in flight"
                assert path not in self.works.values(), f"{path} is two jobs' work"
                self.works[custom_id, attempt] = path
                self._work_ends[custom_id, attempt] = end
                self._safe_works.add((custom_id, attempt))
            case Ended():
                self._ended(record, end)
            case Reopened(id=custom_id):
                self.over.pop(custom_id, None)
                self.reopened[custom_id] += 1
                del self.tries[custom_id], self.free[custom_id], self.spent[custom_id]
            case Refunded(id=custom_id, attempts=attempts):
                self.spent[custom_id] -= attempts
                assert self.spent[custom_id] >= 0, f"{custom_id} gets back more attempts than it has spent"

    def _ended(self, ended: Ended, end: int) -> None:
        custom_id, key = ended.id, (ended.id, ended.attempt)
        assert custom_id not in self.over, f"{custom_id} ends twice"
        flew = self.in_flight.get(custom_id) == ended.attempt
        if flew:
            del self.in_flight[custom_id]
        work = self.works.pop(key, None)
        if work is not None:
            assert ended.what is not What.LOST, f"{key} is given up, and the server works on it"
            assert not end or ended.why != "job_expired" or not self.knows(work), f"{key} has expired, and the server has it"
        if ended.why is not None and ended.why.endswith("_timeout"):
            self.unreadable.discard(custom_id)  # it came too late to be read
        if ended.attempt:
            self.known.add(key)
        self.ends.setdefault(key, {})[JOURNAL] = end
        self.paid[custom_id] += ended.charge is not None
        self.spent[custom_id] += ended.spent
        self.free[custom_id] += not ended.spent
        assert not (ended.what is What.REFUSED and ended.spent), f"a 429 costs {custom_id} an attempt"
        if ended.line is not None:
            self.over[custom_id] = ended.what is What.DONE
            self.line_ends[custom_id] = (ended.line.file, ended.line.offset + ended.line.length)
        if ended.what is What.FAILED and flew and ended.why in TRANSIENT:
            counted = self.tries[custom_id] - self.free[custom_id]
            assert counted >= self._max_attempts, f"{custom_id} fails for good after {counted} attempts"

    def _is_paused(self) -> bool:
        return self.paused_ns is not None and self._now_ns() > self.paused_ns + AT_ONCE_NS

    def _final_lines(self) -> dict[str, bool]:
        """custom_id -> whether it succeeded, from the files that people read. Each id stands there once."""
        found: dict[str, bool] = {}
        for name in (RESULTS, ERRORS):
            for raw in bytes(self.disk.files[name]).splitlines(keepends=True):
                line = read_line(raw)
                assert line is not None
                if line.custom_id is not None:
                    assert line.custom_id not in found, f"{line.custom_id} has two final lines"
                    found[line.custom_id] = name == RESULTS
        return found


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True

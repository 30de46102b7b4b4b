"""Every event of an account is had once, whatever its server takes for `before` and however large a page may be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from batchrunner.errors import AccountError
from batchrunner.platform.control import RefusedError
from batchrunner.platform.usage import PAGE_SIZES, Filters, UsagePages, usage_events
from tests.sim.control_planes import Answer, Asked, Question, control_over

NO = (400, {"error": {"code": "invalid_request"}})


class Server:
    """An account's events, newest first, on a server that takes this for `before` and pages as large as that."""

    def __init__(
        self, times: list[int], *, before: str = "id", largest: int = 1_000, strict: bool = True, spelling: str = "s"
    ) -> None:
        self.events = [
            {"id": f"e{number}", "created_at": self._spell(at, spelling), "number": number, "cost": 1}
            for number, at in enumerate(sorted(times, reverse=True))
        ]
        self._times = sorted(times, reverse=True)
        self._before = before
        self._largest = largest
        self._strict = strict
        self.says_more: bool | None = None

    @staticmethod
    def _spell(at: int, spelling: str) -> object:
        if spelling == "iso":
            return datetime.fromtimestamp(at, UTC).isoformat()
        return at * 1_000 if spelling == "ms" else at

    def __call__(self, question: Question) -> Answer:
        limit = int(question.query.get("limit", 25))
        if limit > self._largest and self._strict:
            return NO
        first = self._first(question.query.get("before"))
        if first is None:
            return NO
        shown = self.events[first : first + min(limit, self._largest)]
        page: dict[str, Any] = {"balance": "7.5", "data": shown}
        if self.says_more is not None:
            page["has_more"] = first + len(shown) < len(self.events)
        return 200, page

    def _first(self, before: str | None) -> int | None:
        """Where a page begins; None where the server does not take the value."""
        if before is None or self._before == "ignored":
            return 0
        if before.startswith("e"):
            place = next((place for place, event in enumerate(self.events) if event["id"] == before), len(self.events))
            return {"id": place + 1, "id inclusive": place, "time": None, "time or nothing": len(self.events)}[self._before]
        if self._before.startswith("id"):
            return None
        at = datetime.fromisoformat(before).timestamp() if "-" in before else int(before)
        at = at / 1_000 if at > 10**11 else at
        return next((place for place, time in enumerate(self._times) if time < at), len(self.events))


async def fetched(server: Callable[[Question], Answer], filters: Filters | None = None) -> tuple[list[str], UsagePages, Asked]:
    async with control_over(server) as asked:
        pages = UsagePages(asked.control, filters)
        ids: list[str] = []
        async for page in pages:
            assert len(page.events) == len(page.lines)
            ids += [event.id for event in page.events]
        return ids, pages, asked


async def refusal(server: Callable[[Question], Answer]) -> AccountError:
    """The error that a list ends with."""
    async with control_over(server) as asked:
        with pytest.raises(AccountError) as refused:
            async for _ in UsagePages(asked.control):
                pass
    return refused.value


def ids(count: int) -> list[str]:
    return [f"e{number}" for number in range(count)]


async def test_all_pages_are_had_by_the_last_events_id(autojump_clock: MockClock) -> None:
    """As large as the documentation's server takes; the filters go with each, and the balance comes with the first."""
    found, pages, asked = await fetched(Server(list(range(2_500))), Filters(model="m", from_="0"))
    assert found == ids(2_500)
    assert pages.complete
    assert str(pages.balance_usd) == "7.5"
    assert asked.queries[0] == {"limit": "1000", "model": "m", "from": "0"}
    assert [query.get("before") for query in asked.queries] == [None, "e999", "e1999", "e2499"]
    assert all(query["model"] == "m" for query in asked.queries)


async def test_where_the_server_says_that_there_is_no_more_it_is_not_asked_again(autojump_clock: MockClock) -> None:
    server = Server(list(range(30)))
    server.says_more = True
    found, _, asked = await fetched(server)
    assert (found, len(asked.queries)) == (ids(30), 1)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("largest", [500, 200, 130, 100, 25])
async def test_a_server_with_smaller_pages_is_asked_for_those_it_gives(
    autojump_clock: MockClock, largest: int, strict: bool
) -> None:
    """Whether it refuses what is too large or just sends fewer; without any size at last."""
    found, _, asked = await fetched(Server(list(range(421)), largest=largest, strict=strict))
    assert found == ids(421)
    sizes = [int(query.get("limit", 25)) for query in asked.queries]
    assert sizes[-1] == max(size or 25 for size in PAGE_SIZES if not strict or (size or 25) <= largest)


@pytest.mark.parametrize("spelling", ["s", "ms", "iso"])
@pytest.mark.parametrize("before", ["time", "time or nothing"])
async def test_a_server_that_goes_by_time_is_asked_by_time(autojump_clock: MockClock, before: str, spelling: str) -> None:
    """Whether it refuses ids, or finds nothing before them; what shares its moment with a page's last event is not lost."""
    times = [1_700_000_000 + number // 7 for number in range(1_234)]
    found, pages, _ = await fetched(Server(times, before=before, largest=100, spelling=spelling))
    assert found == ids(1_234)
    assert pages.complete


async def test_a_page_that_begins_with_the_last_event_again_doubles_nothing(autojump_clock: MockClock) -> None:
    found, _, _ = await fetched(Server(list(range(350)), before="id inclusive", largest=100))
    assert found == ids(350)


async def test_more_events_of_one_moment_than_fit_a_page_do_not_stop_it(autojump_clock: MockClock) -> None:
    """By time alone those beyond the page cannot be had; all that are older can."""
    times = [1_700_000_000] * 150 + [1_600_000_000 + number for number in range(150)]
    found, _, _ = await fetched(Server(times, before="time", largest=100))
    assert found == ids(100) + ids(300)[150:]


@pytest.mark.parametrize(("says_more", "complete"), [(True, False), (None, True)])
async def test_a_server_that_ignores_before_is_not_asked_for_ever(
    autojump_clock: MockClock, says_more: bool | None, complete: bool
) -> None:
    """What it gives is had once, and where it says that there is more, that is told."""
    server = Server([1_700_000_000 + number for number in range(300)], before="ignored", largest=100)
    server.says_more = says_more
    found, pages, asked = await fetched(server)
    assert (found, pages.complete) == (ids(100), complete)
    assert len(asked.queries) < 10


async def test_a_server_that_takes_no_before_at_all_is_known_to_be_incomplete(autojump_clock: MockClock) -> None:
    server = Server([1_700_000_000 + number for number in range(300)], before="time", largest=100)
    found, pages, _ = await fetched(lambda question: NO if "before" in question.query else server(question))
    assert (found, pages.complete) == (ids(100), False)


async def test_a_refusal_in_the_middle_is_no_end(autojump_clock: MockClock) -> None:
    """Once the way is sure, what is refused is an error: a list that just ended there would be taken for the whole."""
    server = Server(list(range(300)), largest=100)
    error = await refusal(lambda question: NO if question.query.get("before") == "e199" else server(question))
    assert isinstance(error, RefusedError)
    assert error.status == 400


async def test_pages_in_a_circle_end(autojump_clock: MockClock) -> None:
    """A server that begins anew when it is through."""
    events = [{"id": f"e{number}"} for number in range(8)]

    def server(question: Question) -> Answer:
        first = int(question.query.get("before", "e-1").removeprefix("e")) + 1
        return 200, {"data": [events[(first + step) % 8] for step in range(2)]}

    found, _, asked = await fetched(server)
    assert set(found) == set(ids(8))
    assert len(asked.queries) <= 6


@pytest.mark.parametrize("before", ["id", "time", "ignored"])
async def test_events_that_arrive_while_paging_are_neither_lost_nor_doubled(autojump_clock: MockClock, before: str) -> None:
    """They are newer than the first page, and come with the next list."""
    server = Server([1_700_000_000 + number for number in range(300)], before=before, largest=100, strict=False)

    def busy(question: Question) -> Answer:
        answer = server(question)
        server._times.insert(0, server._times[0] + 1)
        server.events.insert(0, {"id": f"new{len(server.events)}", "created_at": server._times[0]})
        return answer

    found, _, _ = await fetched(busy)
    assert found == ids(100 if before == "ignored" else 300)
    later, _, _ = await fetched(server)
    assert later == [event["id"] for event in server.events][: len(later)]
    assert len(later) == 100 if before == "ignored" else len(server.events) > 300


async def test_events_without_an_id_are_told_apart_by_what_they_say(autojump_clock: MockClock) -> None:
    """By time; two that are alike on one page are two."""
    server = Server([1_700_000_000 + number for number in range(150)], before="time", largest=100)
    for event in server.events:
        del event["id"]
    server.events[3] = server.events[4]
    async with control_over(server) as asked:
        numbers = [page.lines for page in [page async for page in UsagePages(asked.control)]]
    assert sum(map(len, numbers)) == 150


async def test_no_event_at_all_is_an_empty_list(autojump_clock: MockClock) -> None:
    found, pages, asked = await fetched(Server([]))
    assert (found, pages.complete, len(asked.queries)) == ([], True, 1)
    assert str(pages.balance_usd) == "7.5"


async def test_a_filter_that_is_refused_is_told(autojump_clock: MockClock) -> None:
    """A 400 that no smaller page mends."""
    assert "invalid_request" in str(await refusal(lambda _: NO))


async def test_a_page_that_is_none_is_told(autojump_clock: MockClock) -> None:
    assert "names no list of events" in str(await refusal(lambda _: (200, {"data": None})))


async def test_one_by_one(autojump_clock: MockClock) -> None:
    async with control_over(Server(list(range(60)), largest=25)) as asked:
        assert [event.id async for event in usage_events(asked.control)] == ids(60)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.sampled_from([0, 0, 1, 5]), max_size=120),
    before=st.sampled_from(["id", "id inclusive", "time", "time or nothing"]),
    largest=st.integers(8, 60),
    strict=st.booleans(),
    spelling=st.sampled_from(["s", "ms", "iso"]),
    says_more=st.booleans(),
)
def test_on_any_server_each_event_once(
    steps: list[int], before: str, largest: int, strict: bool, spelling: str, says_more: bool
) -> None:
    """Whatever it goes by, as long as no moment has more events than a page."""
    times, at, alike = [], 1_700_000_000, 0
    for step in steps:
        alike = 0 if step else alike + 1
        at += step or (alike >= 6)
        alike = alike if alike < 6 else 0
        times.append(at)

    async def main() -> None:
        server = Server(times, before=before, largest=largest, strict=strict and largest >= 25, spelling=spelling)
        server.says_more = True if says_more else None
        found, pages, _ = await fetched(server)
        assert found == ids(len(times))
        assert pages.complete

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("most", [1, 25, 100, 130, 999_999])
async def test_no_more_than_the_newest_few_are_had_where_so_many_are_asked_for(autojump_clock: MockClock, most: int) -> None:
    """Nor is a larger page asked for."""
    server = Server(list(range(300)), largest=100)
    async with control_over(server) as asked:
        found = [event.id async for page in UsagePages(asked.control, most=most) for event in page.events]
    assert found == ids(min(most, 300))
    assert all(int(query.get("limit", 25)) <= max(most, 25) for query in asked.queries)


async def test_a_server_that_knows_no_times_is_held_to_them(autojump_clock: MockClock) -> None:
    """It gives everything: what is from before and after is left out, what names no time is not."""
    server = Server([1_700_000_000 + number for number in range(50)], before="id")
    server.events.append({"id": "timeless"})
    found, _, _ = await fetched(server, Filters(from_="1700000010", to="2023-11-14T22:13:40Z"))
    assert found == [*(f"e{number}" for number in range(30, 40)), "timeless"]


@pytest.mark.parametrize("before", ["id", "time"])
async def test_what_is_asked_for_behind_a_time_is_never_passed(autojump_clock: MockClock, before: str) -> None:
    """The pages go on from there, by id or by time, and nothing that is as late comes with them."""
    times = [1_700_000_000 + number for number in range(300)]
    server = Server(times, before=before, largest=100)
    start = "e99" if before == "id" else "1700000200"
    found, _, asked = await fetched(server, Filters(before=start))
    assert found == ids(300)[100:]
    assert all("before" in query for query in asked.queries)


@pytest.mark.parametrize(("says_more", "complete"), [(True, False), (False, True), (None, True)])
async def test_a_page_without_events_is_the_end_unless_the_server_says_otherwise(
    autojump_clock: MockClock, says_more: bool | None, complete: bool
) -> None:
    """A server that filters a page after it was cut leaves nothing to go on from: that is told, and not taken for the end."""
    page: dict[str, object] = {"data": []} | ({} if says_more is None else {"has_more": says_more})
    found, pages, asked = await fetched(lambda _: (200, page))
    assert (found, pages.complete, len(asked.queries)) == ([], complete, 1)


async def test_a_circle_of_which_the_server_says_that_it_goes_on_is_not_the_whole(autojump_clock: MockClock) -> None:
    events = [{"id": f"e{number}"} for number in range(8)]

    def server(question: Question) -> Answer:
        first = int(question.query.get("before", "e-1").removeprefix("e")) + 1
        return 200, {"data": [events[(first + step) % 8] for step in range(2)], "has_more": True}

    _, pages, _ = await fetched(server)
    assert not pages.complete

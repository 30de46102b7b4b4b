"""The HTTP server that Prometheus scrapes."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchrunner.clock import NS_PER_SECOND
from batchrunner.errors import UsageError
from batchrunner.events import AttemptResult, Event
from batchrunner.metrics import Metrics, Scrapes, families, parse_address, server, url

PATIENCE_SECONDS = 20


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as reply:
        return str(reply.read().decode())


class Gate:
    """A part whose statistics take until the gate is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)

    def statistics(self) -> None:
        self.waiting.release()
        assert self.open.wait(PATIENCE_SECONDS)

    def until_waiting(self, number: int) -> None:
        for _ in range(number):
            assert self.waiting.acquire(timeout=PATIENCE_SECONDS)


class TestServer:
    def test_a_scrape_over_loopback_answers_the_text_format(self) -> None:
        """A free port is taken and named; even a scraper that prefers OpenMetrics gets the text format."""
        metrics = Metrics()
        port = metrics.serve()
        try:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
            )
            with urllib.request.urlopen(request, timeout=10) as reply:
                assert reply.headers["content-type"].startswith("text/plain")
                text = reply.read().decode()
        finally:
            metrics.close()
        assert "# TYPE batchrun_build_info gauge" in text
        assert "# TYPE batchrun_jobs_total counter" in text
        assert "_created" not in text

    def test_close_frees_the_port(self) -> None:
        """The port can be bound again at once, and closing twice is harmless."""
        metrics = Metrics()
        port = metrics.serve()
        metrics.close()
        metrics.close()
        other = Metrics()
        assert other.serve("127.0.0.1", port) == port
        other.close()

    def test_a_taken_port_is_a_usage_error_that_names_the_remedy(self) -> None:
        """The address and what to do about it stand in the message."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: .*--metrics 0"):
                Metrics().serve("127.0.0.1", port)

    def test_an_unknown_host_is_a_usage_error(self) -> None:
        """A name that is no address of this machine is named in the message."""
        with pytest.raises(UsageError, match=r"no\.such\.host\.invalid:0"):
            Metrics().serve("no.such.host.invalid", 0)

    def test_a_failing_scrape_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        """A status that cannot be had fails the scrape alone: no traceback tears the progress display."""

        def broken() -> None:
            raise RuntimeError("dictionary changed size during iteration")

        metrics = Metrics()
        metrics.watch(families.BUILD, broken)
        port = metrics.serve()
        try:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
            assert caught.value.code == 500
            caught.value.close()
        finally:
            metrics.close()
        assert capfd.readouterr() == ("", "")

    def test_scrapes_do_not_wait_for_each_other(self) -> None:
        """Three at once are being answered at the same time, and each gets a whole answer."""
        metrics, gate = Metrics(), Gate()
        port = metrics.serve()
        metrics.watch(families.BUILD, gate.statistics)
        try:
            with ThreadPoolExecutor(3) as scrapers:
                scraped = [scrapers.submit(scrape, port) for _ in range(3)]
                gate.until_waiting(3)
                gate.open.set()
                texts = [future.result() for future in scraped]
        finally:
            metrics.close()
        assert all("batchrun_build_info" in text and text.endswith("\n") for text in texts)

    def test_a_scrape_that_is_under_way_at_the_end_gets_its_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Closing waits for what has begun: the last scrape is not cut in the middle by the end of the process."""
        monkeypatch.setattr(server, "LAST_ANSWERS_SECONDS", PATIENCE_SECONDS)
        metrics, gate, answered = Metrics(), Gate(), threading.Event()
        port = metrics.serve()

        def slow() -> None:
            gate.statistics()
            answered.set()

        def close_port(listening: server._Listening) -> None:
            free_port(listening)
            threading.Timer(0.05, gate.open.set).start()  # from here on nothing more is accepted

        free_port = server._Listening.server_close
        monkeypatch.setattr(server._Listening, "server_close", close_port)
        metrics.watch(families.BUILD, slow)
        with ThreadPoolExecutor(1) as others:
            scraped = others.submit(scrape, port)
            gate.until_waiting(1)
            metrics.close()
            assert answered.is_set()
            assert "batchrun_build_info" in scraped.result(PATIENCE_SECONDS)

    def test_a_client_that_says_nothing_does_not_hold_up_the_end(self) -> None:
        """Its thread is left to itself: closing waits for answers, and not for ever."""
        metrics = Metrics()
        port = metrics.serve()
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS):
            scrape(port)  # by now the silent one has been accepted too
            closing = threading.Thread(target=metrics.close, daemon=True)
            closing.start()
            closing.join(PATIENCE_SECONDS / 4)
            assert not closing.is_alive()

    def test_a_crowd_takes_no_more_than_its_share(self) -> None:
        """Whoever comes while all places are held by others is hung up on; with room again, scrapes are answered again."""
        metrics = Metrics()
        port = metrics.serve()
        crowd = [socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) for _ in range(server.ANSWERS_MAX)]
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as late:
                assert late.recv(1) == b""
            for silent in crowd:
                silent.close()
            for thread in metrics._server._listening.answering() if metrics._server else ():
                thread.join(PATIENCE_SECONDS)
            assert "batchrun_build_info" in scrape(port)
        finally:
            metrics.close()

    def test_a_scrape_that_hangs_holds_up_no_event(self) -> None:
        """What a scrape waits for is the scrape's alone: the run goes on counting, and the next scrape sees it."""
        metrics, gate = Metrics(), Gate()
        port = metrics.serve()
        metrics.watch(families.BUILD, gate.statistics)
        try:
            with ThreadPoolExecutor(1) as others:
                scraped = others.submit(scrape, port)
                gate.until_waiting(1)
                metrics.on_event(Event("a", 1, 1, "m", "/v1/messages", AttemptResult.OK, final=True, succeeded=True))
                gate.open.set()
                scraped.result(PATIENCE_SECONDS)
            assert 'batchrun_jobs_total{outcome="succeeded"} 1.0' in scrape(port)
        finally:
            metrics.close()


class TestScrapes:
    def test_the_next_one_is_due_an_interval_after_the_last(self) -> None:
        """Half an interval more is granted; whoever has not come by then has gone."""
        scrapes = Scrapes()
        for second in (0, 15, 30):
            scrapes.note(second * NS_PER_SECOND)
        assert scrapes.next_by_ns(31 * NS_PER_SECOND) == 52.5 * NS_PER_SECOND
        assert scrapes.next_by_ns(53 * NS_PER_SECOND) is None

    def test_of_two_scrapers_the_interval_of_one_is_taken(self) -> None:
        """Two that come in turn, a second apart every 15 s: the next is due in about 15 s, not in one."""
        scrapes = Scrapes()
        for second in (0, 1, 15, 16):
            scrapes.note(second * NS_PER_SECOND)
        assert scrapes.next_by_ns(17 * NS_PER_SECOND) == 37 * NS_PER_SECOND

    @pytest.mark.parametrize("seconds", [(), (5,), (0, 121), (5, 5)])
    def test_where_nobody_comes_regularly_none_is_expected(self, seconds: tuple[int, ...]) -> None:
        """Neither one look nor a browser every few minutes is a scraper that is worth waiting for."""
        scrapes = Scrapes()
        for second in seconds:
            scrapes.note(second * NS_PER_SECOND)
        assert scrapes.next_by_ns(max(seconds, default=0) * NS_PER_SECOND) is None

    def test_only_scrapes_of_the_metrics_count(self) -> None:
        """A browser that asks for its little picture has seen no figures."""
        metrics = Metrics()
        port = metrics.serve()
        try:
            scrape(port, "/favicon.ico")
            assert not metrics.scrapes.since(0)
            scrape(port)
            assert metrics.scrapes.since(0)
        finally:
            metrics.close()


class TestParseAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("9090", ("127.0.0.1", 9090)),
            ("0", ("127.0.0.1", 0)),
            ("0.0.0.0:9090", ("0.0.0.0", 9090)),
            ("localhost:80", ("localhost", 80)),
            ("[::1]:9090", ("::1", 9090)),
        ],
    )
    def test_a_port_or_a_host_and_port(self, text: str, address: tuple[str, int]) -> None:
        """A bare port means loopback; any other interface is asked for by name."""
        assert parse_address(text) == address

    @pytest.mark.parametrize(
        "text", ["", ":9090", "::1:9090", "host", "host:", "host:99999", "1:2:3", "-1", "٣", "[]:1", "65536"]
    )
    def test_anything_else_is_a_usage_error(self, text: str) -> None:
        """What is ambiguous is refused with the two spellings that work."""
        with pytest.raises(UsageError, match="HOST:PORT"):
            parse_address(text)

    @pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "http://127.0.0.1:9"), ("::1", "http://[::1]:9")])
    def test_people_are_told_an_address_that_can_be_pasted(self, host: str, shown: str) -> None:
        """An IPv6 host has brackets around it."""
        assert url(host, 9) == f"{shown}/metrics"

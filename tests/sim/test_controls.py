"""Lines that come through the socket, carried out on whole runs in virtual time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from trio.testing import MockClock

from batchrunner.cli import ctl as command_line
from batchrunner.cli.controls import Controls
from batchrunner.cli.signals import Signals
from batchrunner.errors import InvalidInput, NotRunning
from batchrunner.live import Drain, Pause, Resume, Set, Show, decode_answer, encode
from batchrunner.progress import Progress
from batchrunner.runner import Run
from tests.sim.nights import MakeNight, assert_whole, jobs


def controls_of(run: Run) -> tuple[Controls, io.StringIO]:
    """And where what is said to people goes."""
    said = io.StringIO()
    return Controls(run, Progress(run.status, mode="none", stream=said), Signals()), said


async def test_what_is_asked_is_carried_out_told_and_answered(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The answer has what holds now, and figures of this moment; people read of each change."""
    night = make_night(jobs(100), latency_median_seconds=1.0)

    async def speak(run: Run) -> None:
        controls, said = controls_of(run)
        await trio.sleep(30)
        answer = decode_answer(await controls.respond(encode(Set(rpm=600))))
        assert answer.changed == ("the limit of requests is 600 a minute now; it was 30 a minute",)
        assert (answer.error, answer.accounts[0].rpm, answer.paused) == (None, 600, False)
        assert answer.status is not None
        assert answer.status.rpm_limit == 600
        assert decode_answer(await controls.respond(encode(Pause()))).paused
        assert decode_answer(await controls.respond(encode(Show()))).paused
        assert not decode_answer(await controls.respond(encode(Resume()))).paused
        lines = said.getvalue().splitlines()
        assert [line.split()[0:2] for line in lines] == [["batchrun", "ctl:"]] * 3

    status = await night.run(speak, rpm=30)
    assert_whole(night, status)


async def test_a_refusal_changes_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Nor does a line that is no command; neither is told to people, who did not ask."""
    night = make_night(jobs(3), latency_median_seconds=1.0)

    async def speak(run: Run) -> None:
        controls, said = controls_of(run)
        before = run.live()
        for line in (b"rubbish", encode(Set(rpm=1, account="nobody"))):
            answer = decode_answer(await controls.respond(line))
            assert answer.error
            assert answer.status is None
        assert run.live() == before
        assert said.getvalue() == ""

    assert_whole(night, await night.run(speak))


async def test_a_drain_is_told_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What comes behind it is refused; another drain is no second interrupt."""
    night = make_night(jobs(9), latency_median_seconds=10.0, latency_sigma=0.0)

    async def speak(run: Run) -> None:
        controls, said = controls_of(run)
        await trio.sleep(5)
        assert "draining" in decode_answer(await controls.respond(encode(Drain()))).changed[0]
        assert decode_answer(await controls.respond(encode(Drain()))).changed == ()
        assert "is stopping" in (decode_answer(await controls.respond(encode(Pause()))).error or "")
        assert said.getvalue().count("draining") == 1

    status = await night.run(speak, max_in_flight=3)
    assert (status.stopped_by, status.completed) == ("signal", 3)
    assert not night.maybe_billed()


async def test_a_defect_ends_no_run(autojump_clock: MockClock, make_night: MakeNight, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is told, and so are people."""
    night = make_night(jobs(3), latency_median_seconds=1.0)

    async def speak(run: Run) -> None:
        controls, said = controls_of(run)
        monkeypatch.setattr(run, "live", lambda: 1 // 0)
        assert "defect" in (decode_answer(await controls.respond(encode(Show()))).error or "")
        assert "ZeroDivisionError" in said.getvalue()

    assert_whole(night, await night.run(speak))


def test_a_run_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """65, though its directory can be read; nobody is asked."""
    monkeypatch.setattr(command_line, "read_manifest", lambda _: None)
    monkeypatch.setattr(command_line, "ask", lambda *_: 1 // 0)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    ended = CliRunner().invoke(command_line.ctl, [str(tmp_path), "pause"])
    assert isinstance(ended.exception, InvalidInput)
    assert "belongs to another user" in str(ended.exception)


def test_an_answer_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version's perhaps: 69, and what to do."""
    monkeypatch.setattr(command_line, "read_manifest", lambda _: None)
    monkeypatch.setattr(command_line, "ask", lambda *_: b'{"accounts":"\xff"}\n')
    ended = CliRunner().invoke(command_line.ctl, [str(tmp_path), "show"])
    assert isinstance(ended.exception, NotRunning)
    assert "same version" in str(ended.exception)

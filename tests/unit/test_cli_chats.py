"""What `batchrun chats` refuses, leaves out and warns of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from batchrunner.chats import Conversation
from batchrunner.cli import chats as module
from batchrunner.errors import AccountError, UsageError
from batchrunner.platform.control import ControlPlane, RefusedError
from batchrunner.platform.conversations import Loaded, Saved

KEPT, DELETED = Conversation("conv_1"), Conversation("conv_2")
NOBODY = cast("ControlPlane", None)


def get(conversation_id: str) -> None:
    assert module.get_command.callback is not None
    module.get_command.callback(conversation_id, base_url=None, account=None, config=None, as_json=False)


def test_an_empty_id_is_none() -> None:
    with pytest.raises(UsageError, match="an id is not empty"):
        get("")


@pytest.mark.parametrize(("status", "expected"), [(404, UsageError), (403, RefusedError)])
def test_only_a_404_says_that_there_is_no_such_chat(
    monkeypatch: pytest.MonkeyPatch, status: int, expected: type[Exception]
) -> None:
    """All else that a server refuses is said as it says it."""

    def refuse(*_: Any) -> None:
        raise RefusedError("no.", status, None)

    monkeypatch.setattr(module, "account_of", lambda _given: None)
    monkeypatch.setattr(module, "ask", refuse)
    with pytest.raises(expected):
        get("conv_1")


async def everything(monkeypatch: pytest.MonkeyPatch, found: list[Loaded | Conversation]) -> list[Loaded]:
    async def listed(_control: ControlPlane) -> Saved:
        return Saved((KEPT, DELETED), complete=True)

    async def each(*_: Any) -> AsyncGenerator[Loaded | Conversation, None]:
        for one in found:
            yield one

    monkeypatch.setattr(module, "list_conversations", listed)
    monkeypatch.setattr(module, "load_all", each)
    return (await module._everything(NOBODY))[1]


async def test_a_chat_that_was_deleted_meanwhile_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = Loaded(KEPT, b"{}")
    assert await everything(monkeypatch, [loaded, DELETED]) == [loaded]
    assert "warning: saved chat conv_2 was deleted meanwhile" in capsys.readouterr().err


async def test_more_than_anybody_has_typed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 3)
    with pytest.raises(AccountError, match="get them one by one"):
        await everything(monkeypatch, [Loaded(KEPT, b"{}"), Loaded(KEPT, b"{}")])


def test_a_list_that_is_not_whole_is_said_to_be_none() -> None:
    """After what there is of it was shown."""
    with pytest.raises(AccountError, match="these are not all"):
        module._refuse_unless_complete(Saved((), complete=False))
    module._refuse_unless_complete(Saved((), complete=True))

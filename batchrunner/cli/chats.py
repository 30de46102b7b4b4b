"""`batchrun chats`: the conversations that an account has saved in the playground, to look at, to keep, and to run again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from batchrunner.chats import CAP, Conversation, job_lines
from batchrunner.cli.control_plane import account_of, account_options, ask
from batchrunner.cli.output import print_json, print_text, say
from batchrunner.cli.tables import aligned
from batchrunner.disk import SystemDisk
from batchrunner.errors import AccountError, UsageError
from batchrunner.platform.control import ControlPlane, RefusedError
from batchrunner.platform.conversations import Loaded, Saved, list_conversations, load, load_all
from batchrunner.wording import counted

#: of all conversations together, in memory until they are written
MOST_BYTES = 256 << 20
_LONGEST_TITLE = 60


@click.group(no_args_is_help=False, short_help="Conversations saved in the playground: list, get, export.")
def chats() -> None:
    """Read the conversations that the account has saved in the playground, and make jobs of them."""


@chats.command(name="list", short_help="List the saved conversations.")
@account_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_command(**given: Any) -> None:
    """List the saved conversations, as the server orders them."""
    account = account_of(given)
    saved = ask(account, list_conversations)
    if given["as_json"]:
        shown = [
            {name: getattr(one, name) for name in ("id", "title", "model", "created_at", "updated_at", "message_count")}
            for one in saved.conversations
        ]
        print_json(
            msgspec.json.encode(
                {"server": account.base_url, "count": len(shown), "cap": CAP, "complete": saved.complete, "conversations": shown}
            )
        )
    else:
        rows = [("id", "model", "updated", "title", "messages"), *map(_row, saved.conversations)]
        print_text("\n".join(aligned(rows, left=4)) + "\n")
        say(_of_the_cap(len(saved.conversations)))
    _refuse_unless_complete(saved)


@chats.command(name="get", short_help="Show one of them with all that was said.")
@click.argument("conversation_id", metavar="ID")
@account_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: the conversation as the server has it.")
def get_command(conversation_id: str, **given: Any) -> None:
    """Show the conversation ID with its full history."""
    if not conversation_id:
        raise UsageError("an id is not empty; `batchrun chats list` lists them.")

    async def question(control: ControlPlane) -> Loaded:
        return await load(control, conversation_id)

    try:
        found = ask(account_of(given), question)
    except RefusedError as refused:
        if refused.status != 404:
            raise
        raise UsageError(f"{conversation_id}: there is no such saved chat; `batchrun chats list` lists them.") from None
    if given["as_json"]:
        print_json(found.line)
        return
    chat = found.conversation
    head = [chat.title or chat.id, " · ".join(text for text in (chat.id, chat.model, chat.updated_at) if text)]
    print_text("\n\n".join(["\n".join(head), *(f"{message.role}:\n{message.text}" for message in chat.messages)]) + "\n")


@chats.command(name="export", short_help="Export all of them as JSON Lines, or as jobs.")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write this file, whole or not at all.  [default: stdout]"
)
@click.option("--as-jobs", is_flag=True, help="Make a job file of them: each prompt with the history before it.")
@click.option("--model", metavar="MODEL", help="With --as-jobs: the model of all jobs.  [default: each conversation's own]")
@account_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about what was written; needs --output.")
def export_command(**given: Any) -> None:
    """Export every saved conversation with its full history: a JSON line each, as the server has it.

    With --as-jobs, lines that `batchrun submit` runs: for each user message that was answered, or is the last, a request with
    all that was said up to it. Its custom_id is the conversation's id and the number of the turn, so that the same
    conversations make the same jobs, and answers of two models can be held against each other.
    """
    if given["model"] is not None and not given["as_jobs"]:
        raise UsageError("--model is for jobs: add --as-jobs.")
    if given["as_json"] and given["output"] is None:
        raise UsageError("--json says what was written to a file, and stdout has the lines: add --output FILE.")
    target = None if given["output"] is None else _target(given["output"])
    saved, loaded = ask(account_of(given), _everything)
    lines = _jobs(loaded, given["model"]) if given["as_jobs"] else [chat.line for chat in loaded]
    if target is None:
        for line in lines:
            print_json(line)
    else:
        SystemDisk(target.parent).replace(target.name, (line + b"\n" for line in lines))
    noun = "job" if given["as_jobs"] else "conversation"
    if given["as_json"]:
        written = {"output": str(target), f"{noun}s": len(lines), "conversations": len(loaded), "complete": saved.complete}
        print_json(msgspec.json.encode(written))
    else:
        of = f" of {counted(len(loaded), 'conversation')}" if given["as_jobs"] else ""
        say(f"{counted(len(lines), noun)}{of} written{'' if target is None else f' to {target}'}.")
    _refuse_unless_complete(saved)


async def _everything(control: ControlPlane) -> tuple[Saved, list[Loaded]]:
    """The list, and all that is on it. Raises: AccountError where it is more than anyone has typed."""
    saved = await list_conversations(control)
    loaded: list[Loaded] = []
    size_bytes = 0
    async with contextlib.aclosing(load_all(control, saved.conversations)) as chats_one_by_one:
        async for chat in chats_one_by_one:
            if isinstance(chat, Conversation):
                say(f"warning: saved chat {chat.id} was deleted meanwhile; it is left out.")
                continue
            loaded.append(chat)
            size_bytes += len(chat.line)
            if size_bytes > MOST_BYTES:
                raise AccountError(f"the saved chats are more than {MOST_BYTES >> 20} MiB: get them one by one.")
    return saved, loaded


def _jobs(loaded: Iterable[Loaded], model: str | None) -> list[bytes]:
    """The jobs of all conversations. Raises: UsageError where one has no model."""
    lines: list[bytes] = []
    for chat in loaded:
        if model is None and chat.conversation.model is None:
            raise UsageError(f"saved chat {chat.conversation.id} names no model: give one for all with --model MODEL.")
        lines += job_lines(chat.conversation, model)
    return lines


def _target(output: str) -> Path:
    """The file to write; where a link leads. Raises: UsageError where there can be none."""
    path = Path(os.path.realpath(output))
    if not path.parent.is_dir():
        raise UsageError(f"--output {output}: there is no directory {path.parent}. Make it first.")
    if path.exists() and not path.is_file():
        raise UsageError(f"--output {output}: is no file. Leave --output out, to write to stdout.")
    return path


def _row(chat: Conversation) -> tuple[str, ...]:
    title = chat.title or ""
    short = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
    return (
        chat.id,
        chat.model or "",
        chat.updated_at or "",
        short,
        "" if chat.message_count is None else f"{chat.message_count:,}",
    )


def _of_the_cap(number: int) -> str:
    """How many of those that an account may have."""
    full = " The account can save no more: delete some in the playground." if number >= CAP else ""
    return f"{number} of {CAP} saved chats.{full}"


def _refuse_unless_complete(saved: Saved) -> None:
    if not saved.complete:
        raise AccountError("the server has more saved chats, and gives them in no way that is known: these are not all.")

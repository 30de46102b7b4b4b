"""How `--help` lists things: options under headings, commands with what people need first."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Sectioned(click.Command):
    """A command whose options stand under headings. `sections`: the name of the first option of each, and its heading.

    An option belongs to the heading that was last when it was declared, so that a new one has its place without being named.
    """

    def __init__(self, *args: Any, sections: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each heading with its options."""
        found: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for option in self.get_params(ctx):
            heading = self._sections.get(option.name or "", heading)
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):  # arguments stand in the usage line
                found.setdefault(heading, []).append(record)
        for heading, records in found.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class OnDemand(click.Group):
    """A group that imports the one command that is called, and lists all in the order in which they were given.

    `places`: the module and the name of each command in it, by what it is called.
    """

    def __init__(self, *args: Any, places: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's calling convention
        """The names of the commands."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's calling convention
        """The command of that name."""
        if cmd_name not in self._places:
            return None
        module, name = self._places[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

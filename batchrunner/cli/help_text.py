"""How `--help` lists things: options under headings, commands with what people need first."""

from __future__ import annotations

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


class InOrder(click.Group):
    """A group that lists its commands as they were added, and not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's calling convention
        """The names of the commands."""
        return list(self.commands)

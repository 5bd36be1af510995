"""The commands ``pgrunbook undo-data``: list what migrations destroyed and was captured, and purge it."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from pgrunbook.app import terminal

app = typer.Typer(no_args_is_help=True, help="What migrations destroyed, captured so that it can be reverted.")


@app.command("list")
def list_(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the undo data: of which migration, what and how much, since when and until when."""
    from pgrunbook import undo_data
    from pgrunbook.database.connection import connect
    from pgrunbook.procedures import undo_data_views

    chosen = terminal.chosen(target, "undo-data list")
    with terminal.looking(chosen), connect(chosen, purpose="lists what is kept") as conn:
        found = undo_data.list_entries(conn)
        table = undo_data_views.table(conn, [] if as_json else found)
    if as_json:
        sys.stdout.write(json.dumps([dict(undo_data_views.facts(kept)) for kept in found], indent=2) + "\n")
    else:
        sys.stdout.write(f"{table!r}\n")


@app.command()
def purge(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    older_than: Annotated[
        int | None, typer.Option(metavar="DAYS", min=1, max=3650, help="Purge what is older than that.")
    ] = None,
    number: Annotated[list[int], typer.Option("--id", help="Purge the item of this number; may be repeated.")] = [],  # noqa: B006
    everything: Annotated[bool, typer.Option("--all", help="Purge all undo data.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Purge also what is still needed.")] = False,
) -> None:
    """Purge undo data that nobody needs any more, or that is named; a recorded run of the procedure purge.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused because it is still needed.
    """
    from pgrunbook.runner import runbook as books

    name = terminal.chosen(target, "undo-data purge").name
    given = {
        "older_than_days": str(older_than or ""),
        "ids": ",".join(map(str, number)),
        "everything": "true" if everything else "",
        "force": "true" if force else "",
    }
    made, code = books.run("purge", name, {key: text for key, text in given.items() if text})
    terminal.end(made, code)

"""The command ``pgrunbook drift``: whether a database is what its history says; fit for a nightly run."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.app import terminal

if TYPE_CHECKING:
    from pgrunbook.rehearse.drift import Drift

NOT_COMPARED, DIFFERS = 1, 3
_CHARS = 100


def drift(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    against: Annotated[
        str,
        typer.Option(help="history: what was applied, replayed; validated: the last validating run; or a target."),
    ] = "history",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name what differs between a database and its history, what was validated last, or another target.

    Exit codes: 0 nothing differs, 1 it could not be compared, 2 wrong use, 3 something differs.
    """
    from pgrunbook.database.connection import connect
    from pgrunbook.rehearse import drift as drifts
    from pgrunbook.session import naming

    chosen = terminal.chosen(target, "drift")
    other = naming.target(against) if against not in ("history", "validated") else None
    with terminal.looking(chosen, code=NOT_COMPARED), connect(chosen, purpose="looks for drift") as conn:
        if other is not None:
            found = drifts.against_target(chosen, conn, other)
        elif against == "history":
            found = drifts.against_history(chosen, conn)
        else:
            found = drifts.against_validated(chosen, conn)
    _write(found, as_json=as_json)
    if found.differs:
        sys.exit(DIFFERS)


def _write(found: Drift, *, as_json: bool) -> None:
    from pgrunbook.display.show import Table, visible
    from pgrunbook.record import door

    if as_json:
        sys.stdout.write(door.masked_json(found.model_dump_json(indent=1)) + "\n")
        return
    rows = [(one.kind, one.name, one.change, _short(one.expected), _short(one.found)) for one in found.objects]
    table = Table(
        ["object", "name", "change", "expected", "found"], rows,
        title=f"{found.target} against {found.expected}", empty="No drift.",
    )  # fmt: skip
    told = "".join(f"Not compared: {visible(one)}\n" for one in found.passed_over)
    sys.stdout.write(door.masked(f"{table!r}\n{told}"))


def _short(definition: str) -> str:
    return textwrap.shorten(definition, _CHARS, placeholder=" ...")

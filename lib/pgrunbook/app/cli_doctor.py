"""The command ``pgrunbook doctor``: what is wrong with a database, and what to do; read only."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from pgrunbook.app import terminal

NOT_LOOKED, FOUND = 1, 3


def doctor(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name what is wrong: who is stuck, history conflicts, leftovers of crashed changes, missing statistics.

    What it names is done by a recorded run of troubleshoot, in which a person chooses it. Exit codes: 0 nothing found,
    1 it could not look, 2 wrong use, 3 something was found.
    """
    import json
    from dataclasses import asdict

    from pgrunbook.database import vitals
    from pgrunbook.database.connection import connect
    from pgrunbook.procedures import diagnosis, monitor_views
    from pgrunbook.record import door, executed_copy
    from pgrunbook.record import run as records
    from pgrunbook.seal import copies

    chosen = terminal.chosen(target, "doctor")
    sys.stderr.write("".join(f"{why}\n" for why in executed_copy.refresh_broken_off(chosen.name)))
    sys.stderr.write(copies.told(records.folders()))
    with terminal.looking(chosen, code=NOT_LOOKED), connect(chosen, purpose="doctor") as conn:
        seen = vitals.look(conn)
        found = diagnosis.diagnose(chosen, conn, seen)
    if as_json:
        listed = json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=1)
        sys.stdout.write(door.masked_json(listed).rstrip() + "\n")
    else:
        told = [(one.section.upper(), f"{one.what}: {one.why}", one.todo) for one in found]
        parts = [monitor_views.told(told, shutil.get_terminal_size().columns) or "Nothing is wrong."]
        parts += [repr(monitor_views.tree(seen.heads))] if seen.heads else []
        sessions = diagnosis.in_the_way(seen)
        parts += [repr(diagnosis.sessions(sessions))] if sessions else []
        sys.stdout.write("\n\n".join(parts) + "\n")
        if found:
            run = f"pgrunbook run troubleshoot --target {chosen.name}"
            sys.stdout.write(
                f"\nTo act: {run} -p end_session=KEY -p how=terminate, or -p 'remove=KEY', -p 'analyze=TABLE'\n"
            )
    if found:
        sys.exit(FOUND)

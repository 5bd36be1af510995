"""The command ``pgrunbook monitor``: what a server does right now, the most urgent first."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrunbook.errors import WrongInput

if TYPE_CHECKING:
    from pgrunbook.database.vitals import Vitals


def monitor(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each look.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    last: Annotated[float, typer.Option("--for", min=0, help="Stop after so many seconds; 0: at Ctrl-C.")] = 0.0,
) -> None:
    """Show who blocks whom and what to do, old transactions, commands at work, lag, connections; read only."""
    from pgrunbook.config import targets
    from pgrunbook.database import vitals
    from pgrunbook.database.connection import connect

    if not target:
        raise WrongInput(
            "a target must be named",
            detail="targets.toml declares the targets.",
            hint="For example: pgrunbook monitor --target demo",
        )
    chosen, ends_at = targets.load(target), time.monotonic() + last
    live = _live() if not (once or as_json) and sys.stdout.isatty() else None
    try:
        with connect(chosen, purpose="monitors") as conn:
            if live:
                live.start()
            while True:
                seen = vitals.look(conn)
                if live:
                    live.update(_drawn(seen, chosen.name), refresh=True)
                else:
                    sys.stdout.write(_json(seen) if as_json else _text(seen, chosen.name))
                    sys.stdout.flush()
                if once or (last and time.monotonic() + interval > ends_at):
                    return
                time.sleep(interval)
    except KeyboardInterrupt:
        return
    finally:
        if live:
            live.stop()


def _live() -> Any:
    from rich.live import Live

    return Live(auto_refresh=False, screen=False)


def _drawn(seen: Vitals, name: str) -> Any:
    from rich.text import Text

    return Text(_text(seen, name), no_wrap=True, overflow="ellipsis")


def _text(seen: Vitals, name: str) -> str:
    from pgrunbook.database import vitals
    from pgrunbook.procedures import monitor_views

    found = [(monitor_views.WORDS[one.urgency].upper(), f"{one.what}: {one.detail}", one.todo)
             for one in vitals.concerns(seen)]  # fmt: skip
    head = (
        monitor_views.told(found, shutil.get_terminal_size().columns) or "Nothing is urgent: nobody waits for a lock."
    )
    parts = [f"{name}, {seen.at:%Y-%m-%d %H:%M:%S}Z\n{head}", *map(repr, monitor_views.below(seen))]
    return "\n\n".join(parts) + "\n\n"


def _json(seen: Vitals) -> str:
    import json
    from dataclasses import asdict

    from pgrunbook.database import vitals
    from pgrunbook.record import door

    told = {**seen.numbers(), "concerns": [{**asdict(one), "urgency": one.urgency.name.lower()}
                                           for one in vitals.concerns(seen)]}  # fmt: skip
    return json.dumps(json.loads(door.masked_json(json.dumps(told))), ensure_ascii=False) + "\n"

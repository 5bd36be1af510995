"""The command ``pgrunbook monitor``: what a server does right now, the most urgent first."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrunbook.app import terminal

if TYPE_CHECKING:
    from pgrunbook.app.metrics import Metrics
    from pgrunbook.database.vitals import Vitals

MOST_EVENTS = 5


def monitor(
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Look once; thresholds are told, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each look.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    last: Annotated[float, typer.Option("--for", min=0, help="Stop after so many seconds; 0: at Ctrl-C.")] = 0.0,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Serve /metrics for Prometheus there.")] = 0,
    metrics_address: Annotated[str, typer.Option(help="The address to serve it on.")] = "127.0.0.1",
) -> None:
    """Show who blocks whom and what to do, old transactions, commands at work, lag, connections; obey thresholds."""
    chosen = terminal.chosen(target, "monitor")
    metrics = _metrics(chosen.name, metrics_port, metrics_address)
    try:
        with terminal.looking(chosen, again=f"start it again: pgrunbook monitor --target {target}"):
            _monitor(chosen, metrics, once=once, as_json=as_json, interval=interval, last=last)
    except KeyboardInterrupt:
        return
    finally:
        if metrics:
            metrics.close()


def _monitor(chosen: Any, metrics: Metrics | None, *, once: bool, as_json: bool, interval: float, last: float) -> None:
    from pgrunbook.database.connection import connect
    from pgrunbook.session.watch import ServerWatch

    events: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    watch = ServerWatch(chosen, lambda event, **facts: events.append({"event": event, **facts}), acts=not once)
    live = _live() if not (once or as_json) and sys.stdout.isatty() else None
    try:
        with connect(chosen, purpose="monitors") as conn:
            if live:
                live.start()
            due = time.monotonic()
            ends_at = due + last
            while True:
                seen = watch.look(conn)
                told = [*(told if live else []), *_taken(events)][-MOST_EVENTS:]  # on a terminal they stay
                if metrics:
                    metrics.set(seen)
                if live:
                    live.update(_drawn(seen, chosen.name, told), refresh=True)
                else:
                    sys.stdout.write(_json(seen, told) if as_json else _text(seen, chosen.name, told))
                    sys.stdout.flush()
                due = max(due + interval, time.monotonic())
                if once or (last and due > ends_at):
                    return
                time.sleep(max(0.0, due - time.monotonic()))
    finally:
        if live:
            live.stop()
        watch.close()
        sys.stderr.write("".join(f"{_event(one)}\n" for one in _taken(events)))


def _taken(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the events, to which the webhook's thread adds meanwhile; concerns are told by each look."""
    taken = []
    while events:
        taken.append(events.pop(0))
    return [one for one in taken if one["event"] != "concern"]


def _metrics(target: str, port: int, address: str) -> Metrics | None:
    if not port:
        return None
    from pgrunbook.app.metrics import Metrics

    return Metrics(target, port, address)


def _live() -> Any:
    from rich.live import Live

    return Live(auto_refresh=False, screen=False)


def _drawn(seen: Vitals, name: str, events: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    return Text(_text(seen, name, events), no_wrap=True, overflow="ellipsis")


def _text(seen: Vitals, name: str, events: list[dict[str, Any]]) -> str:
    from pgrunbook.database import vitals
    from pgrunbook.procedures import monitor_views

    found = [(monitor_views.WORDS[one.urgency].upper(), f"{one.what}: {one.detail}", one.todo)
             for one in vitals.concerns(seen)]  # fmt: skip
    head = (
        monitor_views.told(found, shutil.get_terminal_size().columns) or "Nothing is urgent: nobody waits for a lock."
    )
    parts = [f"{name}, {seen.at:%Y-%m-%d %H:%M:%S}Z\n{head}", *map(repr, monitor_views.below(seen))]
    parts += ["\n".join(map(_event, events))] if events else []
    return "\n\n".join(parts) + "\n\n"


def _event(one: dict[str, Any]) -> str:
    from pgrunbook.display.show import visible
    from pgrunbook.record import door

    facts = ", ".join(f"{name} {value}" for name, value in one.items() if name != "event")
    return visible(door.masked(f"{one['event']}: {facts}"))


def _json(seen: Vitals, events: list[dict[str, Any]]) -> str:
    import json
    from dataclasses import asdict

    from pgrunbook.database import vitals
    from pgrunbook.record import door

    found = [{**asdict(one), "urgency": one.urgency.name.lower()} for one in vitals.concerns(seen)]
    told = {**seen.numbers(), "concerns": found, "events": events, "runs": asdict(seen.own)}
    return json.dumps(json.loads(door.masked_json(json.dumps(told, default=str))), ensure_ascii=False) + "\n"

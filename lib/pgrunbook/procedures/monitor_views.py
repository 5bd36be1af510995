"""How a sample of a server is shown: what is urgent, who blocks whom, what is at work; in a terminal and a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pgrunbook.database import vitals
from pgrunbook.database.lock_tree import Node
from pgrunbook.database.own_work import OwnWork
from pgrunbook.database.vitals import Concern, Urgency, Vitals
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, PLAIN, QUIET, WARN, Cell, Stack, Table, visible
from pgrunbook.display.units import human
from pgrunbook.record import door

TONES = {Urgency.NOW: BAD, Urgency.SOON: WARN, Urgency.KNOW: QUIET}
WORDS = {Urgency.NOW: "now", Urgency.SOON: "soon", Urgency.KNOW: "to know"}
QUERY_CHARS = 60
# What is drawn of the samples: one picture each, with its unit.
DRAWN = {
    "waiting": "sessions that wait for a lock", "longest_wait_s": "the longest wait, s",
    "longest_idle_s": "the longest idle transaction, s", "connections": "client connections",
    "lag_bytes": "the standby furthest behind, bytes", "batch_rows_per_s": "rows a second of our batches",
}  # fmt: skip
INDENT, BELOW = "\u00a0" * 3, "\u2514\u00a0"  # a page keeps these spaces


def screen(seen: Vitals) -> Stack:
    """Return all of a look on one screen, the most urgent first."""
    return Stack([urgent(vitals.concerns(seen)), *below(seen)])


def below(seen: Vitals) -> list[Table]:
    """Return what stands below what is urgent: the tree of those who wait, what is at work, how the server stands."""
    parts = [tree(seen.heads)] if seen.heads else []
    parts += [runs(seen.own)] if seen.own.loops else []
    parts += [at_work(seen)] if seen.commands else []
    return [*parts, numbers(seen), *([migrations(seen)] if seen.own.migrations else [])]


def told(found: Sequence[tuple[str, str, str]], width: int) -> str:
    """Return what is wrong for a terminal: a mark, what it is, and below it what to do; nothing is cut off."""
    indent = " " * (max((len(mark) for mark, _, _ in found), default=0) + 2)
    lines = []
    for mark, what, todo in found:
        first, *rest = textwrap.wrap(visible(door.masked(what)), max(40, width - len(indent))) or [""]
        then = textwrap.wrap(visible(f"-> {todo}"), max(40, width - len(indent)), subsequent_indent="   ")
        lines += [f"{mark:<{len(indent)}}{first}", *(f"{indent}{line}" for line in (*rest, *then))]
    return "\n".join(lines)


def urgent(found: Sequence[Concern]) -> Table:
    """Return what a person should know, the most urgent first, each with the one thing to do."""
    rows = [
        (Cell(WORDS[one.urgency], TONES[one.urgency]), one.what, door.masked(one.detail), one.todo) for one in found
    ]
    return Table(["", "what", "found", "what to do"], rows, empty="Nothing is urgent: nobody waits for a lock.")


def tree(heads: Sequence[Node]) -> Table:
    """Return the tree of those who wait, each below whom it waits for."""
    rows = [row for head in heads for row in _branch(head)]
    headings = ["session", "state", "open for", "waits for", "waited", "blocks", "query"]
    return Table(headings, rows, title="Who blocks whom", empty="Nobody waits for a lock.")


def _branch(head: Node) -> Iterator[tuple[object, ...]]:
    for depth, node in head.walk():
        one = node.session
        mark = " (see above)" if node.is_told else " (a deadlock)" if node.is_cycle else ""
        waits = f"{node.waits.mode} on {node.waits.object}" if node.waits else ""
        yield (
            Cell(f"{INDENT * (depth - 1)}{BELOW if depth else ''}{one}{mark}", BAD if depth == 0 else PLAIN),
            "hidden" if one.is_hidden else one.state,
            seconds(one.xact_age_s),
            waits,
            seconds(node.waits.waited_s) if node.waits else "",
            f"{node.blocks}" + (f" by {node.holds}" if node.holds else "") if node.blocks else "",
            "" if one.is_hidden else query(one.query),
        )


def at_work(seen: Vitals) -> Table:
    """Return the commands whose progress the server reports."""
    sessions = {session.pid: session for session in seen.sessions}
    rows = [
        (str(sessions.get(one["pid"], one["pid"])), one["command"], one["object"], one["phase"], _done(one))
        for one in seen.commands
    ]
    return Table(["session", "command", "of", "phase", "done"], rows, title="At work", empty="No command at work.")


def runs(own: OwnWork) -> Table:
    """Return the loops of batches that are not at their end: how far, how fast, and how long it will take."""
    rows = []
    for one in own.loops:
        if own.order is not None:
            pace = Cell(f"asked to {own.order.command} by {own.order.asked_by}: {own.order.reason}", WARN)
        elif one.is_quiet:
            pace = Cell(f"no batch for {seconds(one.quiet_s)}: pgrunbook runs tells whether it is at work", WARN)
        else:
            pace = Cell(f"{one.rows_per_s:,.0f} rows/s" + (f", {seconds(one.left_s)} left" if one.left_s else ""))
        way = "" if one.direction == "up" else ", going down"
        done = f"{one.rows:,} rows in {counted(one.batches, 'batch', 'batches')}, {seconds(one.age_s)}"
        rows.append((one.run_id, f"{one.migration}, step {one.step}{way}", done, pace))
    return Table(["run", "of", "done", "pace"], rows, title="Batches of pgrunbook")


def migrations(seen: Vitals) -> Table:
    """Return the last migrations that runs have applied or taken back."""
    rows = [
        (one.migration, "applied" if one.direction == "up" else Cell("taken back", WARN),
         f"{seconds(max(0.0, (seen.at - one.ended_at).total_seconds()))} ago", one.run_id)
        for one in seen.own.migrations
    ]  # fmt: skip
    return Table(["migration", "", "when", "run"], rows, title="Last migrations")


def numbers(seen: Vitals) -> Table:
    """Return how the server stands: connections, lag, slots, archive, the tables with the most dead rows."""
    rows: list[tuple[object, ...]] = []
    if seen.connections:
        rows.append(("connections", f"{seen.connections['used']} of {seen.connections['most']}"))
    for one in seen.standbys:
        lag = "hidden" if one["lag_bytes"] is None else f"{human(one['lag_bytes'])}, {one['lag_s'] or 0:.1f} s behind"
        rows.append((f"standby {one['name']}", f"{one['state']}, {lag}"))
    for one in seen.slots:
        kept = human(one["kept_bytes"] or 0)
        rows.append((f"slot {one['name']}", f"{'read' if one['active'] else 'not read'}, keeps {kept} of WAL"))
    if seen.receiver:
        lag_s = seen.receiver["lag_s"] or 0
        rows.append(("this standby", f"{human(seen.receiver['lag_bytes'] or 0)}, {lag_s:.0f} s behind"))
    if seen.archiver.get("archive_mode") not in (None, "off"):
        rows.append(
            ("archive", "failing" if seen.archiver["failing"] else f"up to {seen.archiver['last_archived_wal']}")
        )
    for table in [one for one in seen.tables if one["dead"]][:5]:
        parts = f" in {table['parts']} partitions" if table["parts"] > 1 else ""
        rows.append(
            (table["name"], f"{table['dead']:,} dead rows, {table['live']:,} live{parts}, {human(table['bytes'])}")
        )
    return Table(["what", "now"], rows, title=f"Numbers, read in {seen.took_ms:.0f} ms")


def over_time(samples: Sequence[Mapping[str, Any]]) -> Table:
    """Return how the server stood beside a run: each number that was ever above zero, at the first look and at most."""
    rows = []
    for name, told in DRAWN.items():
        most = max(samples, key=lambda sample: sample.get(name) or 0)
        if most.get(name):
            rows.append((told, f"{samples[0].get(name) or 0:,.10g}", f"{most[name]:,.10g}", f"{most['at'][11:19]}Z"))
    title = f"The server meanwhile, in {counted(len(samples), 'look')}"
    return Table(["what", "at first", "at most", "when"], rows, title=title, empty="Nothing waited, idled or lagged.")


def _done(one: Mapping[str, Any]) -> str:
    if one["unit"] == "bytes":
        return human(one["done"]) + (f" of {human(one['total'])}" if one["total"] else "")
    of = f" of {one['total']:,} {one['unit']} ({100 * one['done'] / one['total']:.0f} %)" if one["total"] else ""
    return f"{one['done']:,}{of}"


def query(text: str) -> str:
    """Return the beginning of a query in one line, without secrets."""
    return door.masked(" ".join(text.split()))[:QUERY_CHARS]


def seconds(value: float | None) -> str:
    """Return a time as a person reads it, "" for none."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"

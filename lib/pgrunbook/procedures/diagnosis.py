"""What is wrong with a database, by section, the most urgent first; troubleshoot and ``pgrunbook doctor`` show it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg

from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import index_health, leftovers, locks, own_publications, queries, step_log, vitals
from pgrunbook.database.connection import Connection
from pgrunbook.database.leftovers import Remnant
from pgrunbook.database.lock_tree import ServerSession
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.database.vitals import Urgency, Vitals
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.errors import Refused, RunbookError
from pgrunbook.history import repair
from pgrunbook.history.repair import HistoryRepair
from pgrunbook.procedures import monitor_views, slow_queries, unfinished_changes
from pgrunbook.record import door
from pgrunbook.rehearse import drift

DEARER = 2.0  # times the cost before
Section = Literal["stuck", "history", "left-behind", "slow"]


@dataclass(frozen=True)
class Symptom:
    """Something wrong: in which section of troubleshoot, what it is, why it matters, and what to do."""

    section: Section
    what: str
    why: str
    todo: str
    is_urgent: bool = False


def diagnose(target: Target, conn: Connection, seen: Vitals) -> list[Symptom]:
    """Return all that is wrong, section by section; a section that cannot be looked at says why, and others go on.

    Raises psycopg's errors where the connection is lost.
    """
    found = list(_stuck(seen))
    looks: tuple[tuple[Section, Callable[[], Iterator[Symptom]]], ...] = (
        ("stuck", lambda: _publications(conn)),
        ("history", lambda: _half_done(target, conn)),
        ("history", lambda: _history(target, conn)),
        ("left-behind", lambda: _unfinished(target, conn)),
        ("left-behind", lambda: _leftovers(leftovers.remnants(conn))),
        ("slow", lambda: _slow(target, conn)),
    )
    for section, look in looks:
        try:
            found += look()
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST or conn.closed:
                raise
            what, why = f"section {section} could not be looked at", said(exc)
            found.append(Symptom(section, what, why, "see section stuck, then look again"))
        except RunbookError as exc:
            found.append(Symptom(section, exc.message, exc.detail, exc.hint))
    return found


def table(found: Sequence[Symptom]) -> Table:
    """Return the findings as a table, the most urgent first within the sections."""
    rows = [
        (one.section, Cell(door.masked(one.what), BAD if one.is_urgent else WARN), door.masked(one.why), one.todo)
        for one in found
    ]
    return Table(["section", "what", "why it matters", "what to do"], rows, empty="Nothing is wrong.")


def sessions(found: Sequence[ServerSession]) -> Table:
    """Return sessions that stand in the way, with the key by which one is chosen, and what it would lose."""
    rows = [
        (
            one.key, str(one), "hidden" if one.is_hidden else one.state, monitor_views.seconds(one.xact_age_s),
            _loses(one), "" if one.is_hidden else monitor_views.query(one.query),
        )
        for one in found
    ]  # fmt: skip
    headings = ["key", "session", "state", "open for", "what it would lose", "query"]
    return Table(headings, rows, title="Whom a person may choose, the gentlest way first: wait, cancel, terminate",
                 empty="Nobody stands in the way.")  # fmt: skip


def remnants(found: Sequence[Remnant]) -> Table:
    """Return leftovers with the key by which one is chosen, and what removes it."""
    rows = [
        (
            one.key, one.where, one.why, Cell(one.loses, QUIET if one.loses == "nothing" else WARN),
            one.busy or one.statement or "nothing of ours: see why",
        )
        for one in found
    ]  # fmt: skip
    return Table(["key", "of", "why", "what goes with it", "what removes it"], rows, empty="Nothing is left behind.")


def repairs(conn: Connection, target: Target, found: Sequence[HistoryRepair]) -> Table:
    """Return repairs of the history with the key by which one is chosen, its SQL, and whether it mends it.

    Locks: as ``repair.why_not``.
    """
    rows = []
    for one in found:
        why_not = repair.why_not(conn, target, one)
        mends = Cell(f"no: {why_not}", BAD) if why_not else Cell("yes: it was tried, and aborted", GOOD)
        rows.append((one.key, repair.shown(conn, one), mends, one.costs))
    headings = ["key", "SQL", "mends the history", "what it does not do"]
    return Table(headings, rows, title="Repairs, each tried in a transaction that was aborted")


def in_the_way(seen: Vitals) -> list[ServerSession]:
    """Return the sessions that block others or keep a transaction open, those that block most first."""
    heads = [head.session for head in seen.heads]
    idle = [one for one in seen.sessions if one.state.startswith("idle in transaction") or one.gid]
    idle.sort(key=lambda one: -(one.xact_age_s or 0.0))
    return list(dict.fromkeys([*heads, *idle]))


def _loses(one: ServerSession) -> str:
    if one.gid:
        return "what it has written, if it is rolled back; its coordinator knows whether it was to be committed"
    if one.is_hidden:
        return "not known: what it does is hidden"
    if one.state == "idle":
        return "nothing"
    return "what it has written in this transaction" if one.has_written else "nothing that is written: it has only read"


def _stuck(seen: Vitals) -> Iterator[Symptom]:
    for one in vitals.concerns(seen):
        if one.urgency is not Urgency.KNOW or one.what == "not seen":
            yield Symptom("stuck", one.what, one.detail, one.todo, is_urgent=one.urgency is Urgency.NOW)


def _publications(conn: Connection) -> Iterator[Symptom]:
    if found := own_publications.stopped_by(conn, own_publications.OURS):
        slots = own_publications.readers(conn)
        what = f"{listed(found)} sends schema pgrunbook, too; slots that are read: {listed(slots)}"
        yield Symptom("stuck", what, own_publications.STOPS, own_publications.way_out(conn, found), is_urgent=True)


def _half_done(target: Target, conn: Connection) -> Iterator[Symptom]:
    at_work = locks.run_in_progress(conn, able=True)  # then it is no wonder that something is half done
    for direction in ("up", "down") if not at_work else ():
        for begun in step_log.unfinished(conn, direction):
            what = f"{begun.migration} is half {'applied' if direction == 'up' else 'taken back'}"
            todo = f"pgrunbook run --resume {begun.run_id}, or pgrunbook run rollback --target {target.name}"
            yield Symptom("history", what, "the schema is between two versions", todo, is_urgent=True)


def _history(target: Target, conn: Connection) -> Iterator[Symptom]:
    if target.migrations is None:
        return
    try:
        history = histories.read(conn, target)
    except RunbookError as exc:
        yield Symptom("history", exc.message, exc.detail, exc.hint)
        return
    chosen_by = {one.migration: shlex.quote(f"repair={one.key}") for one in repair.repairs(history)}
    mends = {name: f"troubleshoot, cell history: -p {chosen}" for name, chosen in chosen_by.items()}
    for entry in history.problems():
        what = f"{entry.name} is {entry.state.replace('_', ' ')}"
        yield Symptom("history", what, entry.note, mends.get(entry.name, "as it says: no row of the history mends it"))


def _unfinished(target: Target, conn: Connection) -> Iterator[Symptom]:
    try:
        found = unfinished_changes.read(conn, target.name)
    except Refused:
        return  # somebody else's schema has the name of ours: section history says so
    for one in found:
        yield Symptom("left-behind", one.what, one.why, one.todo)


def _leftovers(found: Sequence[Remnant]) -> Iterator[Symptom]:
    for one in found:
        if not one.busy:
            yield Symptom("left-behind", one.key, one.why, one.statement or "see section left-behind")


def _slow(target: Target, conn: Connection) -> Iterator[Symptom]:
    known = drift.last_validated(target)
    for index in index_health.lost(conn, known.schema) if known else ():
        why = f"run {known.run_id if known else ''} has found it; a migration since may have dropped it on purpose"
        todo = (index.definition or "").replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
        yield Symptom("slow", f"index {index.index_name} of {index.relation} is gone", why, todo)
    for query in slow_queries.compared(target, conn):
        if query.now and query.before and query.has_other_plan and query.now.cost > DEARER * query.before.cost:
            what = f'query "{query.name}" has another plan than before the last change'
            why = f"the planner expects it to cost {query.now.cost:,.0f}, before {query.before.cost:,.0f}"
            yield Symptom(
                "slow", what, why, "ANALYZE its tables; cell slow shows both plans, cell explain-queries times it"
            )
    found = queries.rows(conn, "query_plans", "without_statistics")
    missing = [str(row["name"]) for row in found if not row["is_small"]]
    for name in missing[:20]:
        yield Symptom("slow", f"{name} has no statistics", "the planner guesses its rows", f"ANALYZE {name}")
    if len(missing) > 20:
        more = counted(len(missing) - 20, "table")
        yield Symptom("slow", f"{more} more without statistics", "the planner guesses their rows", "ANALYZE")
    for name, indexes in index_health.without_statistics(conn).items():
        if name not in missing:
            what = f"{listed(indexes)} of {name} has no statistics of its expressions"
            yield Symptom("slow", what, "the planner guesses how many rows they find", f"ANALYZE {name}")
    for one in index_health.bloated(conn):
        what = f"index {one.name} takes {human(one.bytes)}, and needs some {human(one.needed_estimate)}"
        todo = f"REINDEX INDEX CONCURRENTLY {one.name}: takes as much space again for a while, and blocks nobody"
        yield Symptom("slow", what, "each query reads more pages, and each write", todo)

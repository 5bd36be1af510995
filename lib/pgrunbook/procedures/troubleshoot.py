"""Troubleshoot: from a symptom to what helps. The steps of notebooks/troubleshoot.ipynb, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbook import history as histories
from pgrunbook.database import index_health, leftovers, locks, query_plans, vitals
from pgrunbook.database.connection import connect
from pgrunbook.display import progress
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, Banner, Card, Cell, Stack, Table
from pgrunbook.errors import NOTHING_CHANGED, RunbookError, StatementFailed, WrongInput
from pgrunbook.execute import removal, session_end
from pgrunbook.history import repair
from pgrunbook.procedures import diagnosis, monitor_views, shared_steps, slow_queries
from pgrunbook.session import once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Troubleshoot
from pgrunbook.session.session import Session

LOCK_TIMEOUT_MS = 2_000
# What the events of this run's journal say that it has done.
DID = {
    "session-ended": "{how} {session}: {became}", "repaired": "repaired the history ({key})",
    "removed": "removed {key}", "reindexed": "REINDEX INDEX CONCURRENTLY {index}",
}  # fmt: skip


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    here = heres.begin("troubleshoot", Troubleshoot, given)
    here.facts["done"] = _done_before(here)
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable."""
    return here.meet_the_target()


@heres.step
def what_is_wrong(here: Session) -> Table:
    """Show all that is wrong, the most urgent first, each with its section and the one thing to do."""
    seen = here.facts["seen"] = vitals.look(here.conn)
    found = here.facts["found"] = diagnosis.diagnose(here.target, here.conn, seen)
    here.journal("diagnosed", found=[[one.section, one.what] for one in found])
    return here.keep_table("what-is-wrong", diagnosis.table(found))


@heres.step
def stuck(here: Session) -> Stack:
    """Show who blocks whom, and each session in the way with what it would lose and the key that chooses it."""
    seen = vitals.look(here.conn)
    return Stack([monitor_views.tree(seen.heads), diagnosis.sessions(diagnosis.in_the_way(seen))])


@heres.step
@once.once()
def end_session(here: Session) -> Card:
    """Cancel or terminate the session that a person has chosen, and no other one; record who did it.

    Raises WrongInput where it is gone, Refused for what nobody should end, StatementFailed where the server refuses it.
    """
    key, how = here.parameters.end_session, here.parameters.how
    if not key:
        return Card("End a session", [("chosen", "none: end_session names nobody")])
    if _meant_before(here, "session-end-meant", key) and not session_end.is_there(here.conn, key):
        return Card("End a session", [("chosen", key), ("became", Cell("gone: this run meant to end it before", GOOD))])
    chosen = session_end.chosen(here.conn, key)
    session_end.refuse(chosen, how)
    here.at_work()
    facts = {"key": key, "how": how, "session": str(chosen), "by": here.run.operator}
    here.journal("session-end-meant", **facts, state=chosen.state, query=monitor_views.query(chosen.query))
    with _telling_what_is_done(here):
        became = session_end.end(here.conn, chosen, how)
    here.journal("session-ended", **facts, became=became)
    here.facts["done"].append(f"{how} {chosen}: {became}")
    return Card("End a session", [("session", str(chosen)), ("how", how), ("by", here.run.operator),
                                  ("became", Cell(became, GOOD))])  # fmt: skip


@heres.step
def history(here: Session) -> Stack:
    """Show what does not fit between folder and history table, and each repair as SQL, tried in an aborted transaction.

    Locks: ShareRowExclusiveLock on the history table, for a moment; readers go on.
    """
    if here.target.migrations is None:
        return Stack([Table([], [], empty="The target names no migrations folder.")])
    headings = ["migration", "state", "how it is settled"]
    try:
        found = histories.read(here.conn, here.target)
    except RunbookError as exc:
        rows = [("-", Cell(exc.message, BAD), f"{exc.detail} {exc.hint}")]
        return Stack([here.keep_table("history", Table(headings, rows))])
    rows = [(entry.name, Cell(entry.state.replace("_", " "), BAD), entry.note) for entry in found.problems()]
    empty = f"Folder and {found.qualified_table} fit together."
    table = here.keep_table("history", Table(headings, rows, empty=empty))
    offered = diagnosis.repairs(here.conn, here.target, repair.repairs(found))
    return Stack([table, here.keep_table("repairs", offered)] if offered.rows else [table])


@heres.step
@once.once()
def repair_history(here: Session) -> Table:
    """Do the repairs of the history that a person has chosen, each in one transaction, with a copy of the rows before.

    Raises WrongInput for one that is none, Broken for one that would not mend it, Blocked, TargetBusy, StatementFailed.
    Locks: ShareRowExclusiveLock on the history table.
    """
    keys = here.parameters.repair
    if not keys:
        return Table([], [], empty="None chosen: repair names nothing.")
    here.refuse_replica()
    here.at_work()
    rows = []
    with connect(here.target, purpose=f"troubleshoot {here.run.run_id}") as conn:
        locks.wait_for_others(conn, here.target)
        for key in keys:
            if _meant_before(here, "repair-meant", key) and not repair.is_offered(conn, here.target, key):
                rows.append(
                    (key, Cell("offered no more: this run meant to do it before", GOOD), "see pgrunbook.history_copy")
                )
                continue
            here.journal("repair-meant", key=key, by=here.run.operator)
            with _telling_what_is_done(here):
                done = repair.carry_out(conn, here.target, key, run_id=here.run.run_id)
            here.journal("repaired", key=key, sql=repair.shown(conn, done))
            here.facts["done"].append(f"repaired the history ({key})")
            rows.append((key, Cell("done", GOOD), "pgrunbook.history_copy has its rows from before"))
    return here.keep_table("repaired", Table(["repair", "", "way back"], rows))


@heres.step
def left_behind(here: Session) -> Table:
    """Show what crashed changes left behind, ours and others', with the key that chooses each, and what removes it."""
    return here.keep_table("left-behind", diagnosis.remnants(leftovers.remnants(here.conn)))


@heres.step
@once.once()
def remove_leftovers(here: Session) -> Table:
    """Remove the leftovers that a person has chosen, one statement each, after a look whether it is still one.

    Raises WrongInput for one that is gone, Refused for one that somebody works on, StatementFailed.
    """
    keys = here.parameters.remove
    if not keys:
        return Table([], [], empty="None chosen: remove names nothing.")
    there = {one.key for one in leftovers.remnants(here.conn)}
    before = [key for key in keys if key not in there and _meant_before(here, "removal-meant", key)]
    chosen = [removal.chosen(here.conn, key) for key in keys if key not in before]
    if any(one.kind != "replication slot" for one in chosen):  # that may be of the replica itself
        here.refuse_replica()
    here.at_work()
    rows: list[tuple[object, ...]] = [
        (key, "", Cell("gone: this run meant to remove it before", GOOD)) for key in before
    ]
    with connect(here.target, purpose=f"troubleshoot {here.run.run_id}") as conn:
        for one in chosen:
            here.journal("removal-meant", key=one.key, statement=one.statement, by=here.run.operator)
            with _telling_what_is_done(here), progress.doing(f"removing {one.key}"):
                removal.remove(conn, one)
            here.journal("removed", key=one.key)
            here.facts["done"].append(f"removed {one.key}")
            rows.append((one.key, one.statement, Cell("done", GOOD)))
    return here.keep_table("removed", Table(["leftover", "statement", ""], rows))


@heres.step
def slow(here: Session) -> Stack:
    """Show what the planner does not know, indexes that are gone or bloated, dead rows, and queries with their plans.

    Queries are planned, not executed. Locks: AccessShareLock on the tables of a critical query, while it is planned.
    """
    rows = [(one.what, one.why, one.todo) for one in here.facts["found"] if one.section == "slow"]
    dead = [one for one in vitals.concerns(here.facts["seen"]) if one.what == "dead rows"]
    rows += [(one.detail, one.todo, "VACUUM of its table, when the oldest transaction has ended") for one in dead]
    found = Table(["what", "why it matters", "what to do"], rows, empty="Nothing found.")
    heavy, why = slow_queries.heavy(here.conn)
    queries = slow_queries.table(slow_queries.compared(here.target, here.conn), heavy, why)
    return Stack([here.keep_table("slow", found), here.keep_table("queries", queries)])


@heres.step
@once.once()
def explain_queries(here: Session) -> Table:
    """EXPLAIN the queries that a person has chosen; those of ``explain_analyze`` are executed once, and aborted.

    Raises WrongInput for a text that is not one statement.
    Locks: those of each query while it runs, with a lock timeout of 2 s; what it writes is locked until the abort.
    """
    parameters = here.parameters
    asked = [(one, False) for one in parameters.explain] + [(one, True) for one in parameters.explain_analyze]
    if not asked:
        return Table([], [], empty="None chosen: explain and explain_analyze name nothing.")
    here.at_work()
    for name, execute in asked:
        here.journal("explain-meant", query=monitor_views.query(name), executes=execute, by=here.run.operator)
    with connect(here.target, purpose=f"troubleshoot {here.run.run_id}") as conn:
        table = slow_queries.explained(here.target, conn, asked, parameters.explain_timeout_s)
    return here.keep_table("explained", table)


@heres.step
@once.once()
def analyze_tables(here: Session) -> Table:
    """ANALYZE the tables that a person has chosen: it reads a sample of each, and blocks no reader or writer.

    Raises WrongInput for a table that is not there, StatementFailed behind the others where the server made none of a
    table. Locks: ShareUpdateExclusiveLock, with a lock timeout of 2 s.
    """
    names = here.parameters.analyze
    if not names:
        return Table([], [], empty="None chosen: analyze names nothing.")
    known = [here.conn.execute("SELECT pg_catalog.to_regclass(%s)::text", [name]).fetchone() for name in names]
    unknown = [name for name, found in zip(names, known, strict=True) if found in (None, (None,))]
    if unknown:
        raise WrongInput(f"there is no table {listed(unknown)}", hint="Spell it as the table above does.")
    here.refuse_replica()
    here.at_work()
    chosen = [str(name) for (name,) in filter(None, known)]
    for name in chosen:
        here.journal("analyze-meant", table=name, by=here.run.operator)
    with connect(here.target, purpose=f"troubleshoot {here.run.run_id}") as conn:
        refused = query_plans.analyze(conn, chosen, lock_timeout_ms=LOCK_TIMEOUT_MS)
    done = [name for name in chosen if name not in refused]
    here.journal("analyzed", tables=done, refused=refused, by=here.run.operator)
    here.facts["done"] += [f"ANALYZE {name}" for name in done]
    rows = [(name, Cell(f"no: {refused[name]}", BAD) if name in refused else Cell("done", GOOD)) for name in chosen]
    table = here.keep_table("analyzed", Table(["table", ""], rows))
    if refused:
        here.show(table)
        with _telling_what_is_done(here):
            raise StatementFailed(
                f"ANALYZE made no statistics of {listed(list(refused))}",
                detail="; ".join(f"{name}: {why}" for name, why in refused.items()),
                state=NOTHING_CHANGED,
                hint="Where the server passes it over, run as the owner of the table; where it is locked, wait.",
            )
    return table


@heres.step
@once.once()
def reindex_indexes(here: Session) -> Table:
    """Build the indexes that a person has chosen anew, CONCURRENTLY: each is there twice meanwhile.

    Raises WrongInput for one that is not there, StatementFailed. Locks: ShareUpdateExclusiveLock on their tables.
    """
    if not here.parameters.reindex:
        return Table([], [], empty="None chosen: reindex names nothing.")
    chosen = [index_health.chosen(here.conn, name) for name in here.parameters.reindex]
    here.refuse_replica()
    here.at_work()
    rows = []
    with connect(here.target, purpose=f"troubleshoot {here.run.run_id}") as conn:
        for name in chosen:
            here.journal("reindex-meant", index=name, by=here.run.operator)
            with _telling_what_is_done(here), progress.doing(f"REINDEX INDEX CONCURRENTLY {name}"):
                index_health.rebuild(conn, name)
            here.journal("reindexed", index=name)
            here.facts["done"].append(f"REINDEX INDEX CONCURRENTLY {name}")
            rows.append((name, Cell("done", GOOD)))
    return Table(["index", ""], rows)


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was done, what is still wrong, and what to do first."""
    done: list[str] = here.facts["done"]
    left = diagnosis.diagnose(here.target, here.conn, vitals.look(here.conn)) if done else here.facts["found"]
    urgent = next((one for one in left if one.is_urgent), next(iter(left), None))
    state = f"Done: {'; '.join(done)}." if done else "Nothing changed in the database: it was only looked at."
    facts = [("still wrong", Cell(counted(len(left), "thing"), BAD if left else QUIET))]
    return here.verdict(state, facts, then=urgent.todo if urgent else "nothing: nothing is wrong")


def _done_before(here: Session) -> list[str]:
    """Return what this run has done before, in another kernel."""
    told = shared_steps.events(here, "troubleshoot")
    done = [DID[e["event"]].format_map(e) for e in told if e["event"] in DID]
    return [*done, *(f"ANALYZE {name}" for e in told if e["event"] == "analyzed" for name in e["tables"])]


@contextmanager
def _telling_what_is_done(here: Session) -> Iterator[None]:
    """Let an error in the body say what this run has done before it."""
    try:
        yield
    except RunbookError as exc:
        if done := here.facts["done"]:
            state = "Nothing else changed in the database." if exc.state == NOTHING_CHANGED else exc.state
            exc.state = f"Done before: {'; '.join(done)}. {state}"
        raise


def _meant_before(here: Session, event: str, key: str) -> bool:
    """Tell whether an earlier try of this run wrote down that it was about to do this."""
    return any(e["event"] == event and e.get("key") == key for e in shared_steps.events(here, "troubleshoot"))

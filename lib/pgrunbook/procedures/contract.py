"""Contract: drop the columns that live beside others since a rename or a change of type.

The steps of notebooks/contract.ipynb, in order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from pgrunbook.database import locks, shadows
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.shadows import Shadow
from pgrunbook.database.sqlstate import said
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.errors import Interrupted, Refused, RunbookError, StatementFailed, Unreachable, WrongInput
from pgrunbook.execute import contract, permit
from pgrunbook.procedures import column_uses, shared_steps
from pgrunbook.record.run import again
from pgrunbook.session import acceptance, checks, once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Contract
from pgrunbook.session.session import Session
from pgrunbook.sql.tree import quoted

_AFTER = {
    "rename": "code that uses the old name fails; a rollback renames the column back, and then the new name fails",
    "type change": "code finds the new type only, as it does now; no rollback leads back to the old type: "
    "values are in the new column, and a migration of its own changes their type",
}


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("contract", Contract, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable."""
    return here.meet_the_target()


@checks.check
def what_is_still_double(here: Session) -> Table:
    """Show the columns that live beside others: since when, by which migration, and what is different without them.

    Raises WrongInput where ``accept`` names none of them.
    """
    found = shadows.read(here.conn)
    here.facts["found"] = found
    here.subject = frozenset(map(contract.subject, found))
    _refuse_unknown(here, found)
    subjects = {one.label: contract.subject(one) for one in found}
    here.journal(
        acceptance.COLUMNS_SHOWN, digests={name: acceptance.digest_of(subject) for name, subject in subjects.items()}
    )
    accepted = acceptance.accepted_columns(here.run, subjects, here.parameters.accept)
    here.facts["accepted"] = accepted
    rows = [
        (
            Cell("goes", WARN) if one.label in accepted else Cell("waits for a person", QUIET),
            one.label,
            one.beside,
            f"{one.kind} by {one.migration}",
            f"{one.made_at:%Y-%m-%d %H:%M} UTC" if one.made_at else "",
            Cell("once it is dropped", under=_after(here.conn, one)),
        )
        for one in found
    ]
    headings = ["", "column", "lives beside", "since the", "at", "then"]
    return here.keep_table("still-double", Table(headings, rows, empty="No column lives beside another."))


@checks.check
def who_uses_it(here: Session) -> Table:
    """Show who still uses these columns: counted statements, and what depends on them, which keeps them from going."""
    found: list[Shadow] = here.facts["found"]
    here.subject = frozenset(map(contract.subject, found))
    rows = [(one.label, *use) for one in found for use in column_uses.uses(here.conn, one.table, one.shadow_name)]
    return here.keep_table("who-uses-it", Table(["column", "what", "uses it", "calls"], rows, empty="Nobody."))


@checks.check
def do_they_agree(here: Session) -> Table:
    """Read every row of both names of a renamed column, and see that they hold the same.

    Raises Refused for a column that goes and whose rows differ, or whose trigger is switched off.
    """
    found: list[Shadow] = here.facts["found"]
    here.subject = frozenset(map(contract.subject, found))
    rows, differ = [], []
    here.facts["proven"] = {}
    for one in found:
        began = time.monotonic()
        try:
            here.facts["proven"][one.label] = contract.prove(here.conn, one)
            state = Cell("yes", GOOD) if one.kind == "rename" else _of_led(here.conn, one)
        except psycopg.DatabaseError as exc:
            state = Cell("no", BAD, under=said(exc))
            differ += [(one, said(exc))] if one.label in here.facts["accepted"] else []
        rows.append((one.label, one.beside, state, f"{(time.monotonic() - began) * 1000:,.0f}"))
    table = Table(["column", "and", "agree", "ms"], rows, empty="No column lives beside another.")
    if differ:
        here.show(table)
        raise Refused(
            f"cannot drop {listed([one.label for one, _ in differ])}: rows differ",
            detail="; ".join(why for _, why in differ),
            hint="Somebody has switched the trigger off, and written one name only. Decide which value each row keeps, "
            "set both names to it, let the trigger fire again (ENABLE ALWAYS), and run this again.",
        )
    return here.keep_table("do-they-agree", table)


@heres.step
@once.once()
def drop_it(here: Session) -> Table:
    """Drop the accepted columns under the run lock; each goes with its trigger and its entry in one transaction.

    Raises Blocked, Refused, Interrupted, StatementFailed and Unreachable, each with what is dropped now.
    """
    checks.passed(here, "contract", "drop-it")
    here.at_work()
    going = [one for one in here.facts["found"] if one.label in here.facts["accepted"]]
    if here.facts["found"] and not going:
        raise _not_accepted(here)
    rows: list[tuple[object, ...]] = []
    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        _settle(here, conn)
        permitted = permit.of_contract(here, going, conn)
        try:
            for one in going:
                began = time.monotonic()
                here.journal("contract-meant", column=one.label, beside=one.beside, migration=one.migration)
                contract.drop(conn, here.target, one, permitted, proven=here.facts["proven"].get(one.label))
                here.journal("contracted", column=one.label, beside=one.beside, migration=one.migration)
                rows.append((one.label, one.beside, Cell("dropped", GOOD), f"{(time.monotonic() - began) * 1000:,.0f}"))
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            here.show(Table(["column", "lives on as", "state", "ms"], rows, empty="Nothing was dropped."))
            raise _explained(here, conn, exc) from (None if isinstance(exc, KeyboardInterrupt) else exc)
    table = Table(["column", "lives on as", "state", "ms"], rows, empty="Nothing was to be dropped.")
    return here.keep_table("drop-it", table)


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was dropped, and what still lives beside another."""
    with connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn:
        left = shadows.read(conn)
    gone = [str(event["column"]) for event in shared_steps.events(here, "contract") if event["event"] == "contracted"]
    done = f"{counted(len(gone), 'column is', 'columns are')} dropped" if gone else "Nothing was dropped"
    rest = f"{counted(len(left), 'column waits', 'columns wait')} for contract" if left else "no column waits"
    facts = [
        ("dropped", listed(gone)),
        ("still waiting", listed([one.label for one in left]) or "nothing"),
    ]
    then = f"pgrunbook run validate --target {here.target.name}" if not left else _command(here, left)
    return here.verdict(f"{done}; {rest}.", facts, then=then, is_open=bool(left))


def _of_led(conn: Connection, one: Shadow) -> Cell:
    """Say why a column that follows another is not compared with it."""
    told = "not asked: the other column leads"
    if contract.is_left_behind(conn, one):
        return Cell(told, WARN, under=f"its trigger was switched off meanwhile: what came then is in {one.beside} only")
    return Cell(told, QUIET)


def _refuse_unknown(here: Session, found: Sequence[Shadow]) -> None:
    gone = {event["column"] for event in shared_steps.events(here, "contract") if event["event"] == "contracted"}
    known = {one.label for one in found} | gone | {acceptance.EVERY_COLUMN}
    unknown = [name for name in here.parameters.accept if name not in known]
    if unknown:
        raise WrongInput(
            f"no column {listed(unknown)} waits for contract",
            detail=f"These wait: {listed([one.label for one in found]) or 'none'}.",
            hint="Name it as here: schema.table.column.",
        )


def _after(conn: Connection, one: Shadow) -> str:
    """Return what is different once a column is dropped."""
    sent = contract.sending(conn, one) if one.kind == "rename" else []
    if not sent:
        return _AFTER[one.kind]
    renamed = f"ALTER TABLE {one.table_sql} RENAME COLUMN {quoted(one.shadow_name)} TO {quoted(one.column_name)}"
    return (
        f"{_AFTER[one.kind]}; {listed([each.sql for each in sent])} sends the new name from then on: a subscriber stops"
        f" at the next row, loses nothing, and goes on after {renamed} there"
    )


def _not_accepted(here: Session) -> Refused:
    found: list[Shadow] = here.facts["found"]
    return Refused(
        f"nobody has accepted that {listed([one.label for one in found])} {'goes' if len(found) == 1 else 'go'}",
        detail="What is dropped is gone for the code that still uses it: who-uses-it shows what is known of that.",
        hint=f"pgrunbook accept {here.run.run_id} {found[0].label}; then pgrunbook run --resume {here.run.run_id}. "
        f"Or {_command(here, found)}",
    )


def _command(here: Session, found: Sequence[Shadow]) -> str:
    names = ",".join(one.label for one in found)
    return f"pgrunbook run contract --target {here.target.name} -p accept={names}"


def _settle(here: Session, conn: Connection) -> None:
    """Complete the journal from the database: what it does not hold any more was dropped before the interruption."""
    events = shared_steps.events(here, "contract")
    done = {event["column"] for event in events if event["event"] == "contracted"}
    waiting = {one.label for one in shadows.read(conn)}
    for event in events:
        if event["event"] == "contract-meant" and event["column"] not in done | waiting:
            about = {name: event[name] for name in ("column", "beside", "migration")}
            here.journal("contracted", **about, told_by="the database")
            done.add(event["column"])


def _explained(here: Session, conn: Connection, exc: BaseException) -> RunbookError:
    """Return the error for what ended the work, with what is dropped and what waits now."""
    state = _state_now(here)
    here.journal("contract-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, state=state)
    resume = f"{again()}. It goes on with what is left."
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    if isinstance(exc, KeyboardInterrupt):
        return Interrupted(
            "stopped while columns were dropped",
            detail="Somebody stopped this run; what was running in the server was cancelled.",
            state=state, hint=resume[0].upper() + resume[1:],
        )  # fmt: skip
    if conn.closed:
        hint = f"When the server answers again, {resume}"
        return Unreachable("lost the connection while columns were dropped", detail=str(exc), state=state, hint=hint)
    detail = exc.diag.message_detail or "" if isinstance(exc, psycopg.Error) else ""
    why = said(exc) if isinstance(exc, psycopg.Error) else str(exc)
    return StatementFailed(
        f"could not drop a column: {why}", detail=" ".join(detail.split()), state=state,
        hint=f"Change or drop what depends on it first, then {resume}",
    )  # fmt: skip


def _state_now(here: Session) -> str:
    """Return which columns are dropped and which wait, as the database itself says."""
    try:
        with connect(here.target, purpose="asks what waits for contract") as conn:
            waiting = {one.label for one in shadows.read(conn)}
    except (psycopg.Error, RunbookError):
        return "Not known, the server does not answer: each column is either dropped as a whole, or unchanged."
    names = [one.label for one in here.facts["found"]]
    gone, left = ([n for n in names if n not in waiting], [n for n in names if n in waiting])
    return f"Dropped: {listed(gone)}; still there, unchanged: {listed(left)}."

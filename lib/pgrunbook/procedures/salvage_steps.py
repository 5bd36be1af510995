"""The steps of notebook restore that salvage old rows: look, try it on a branch, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import psycopg

from pgrunbook.database import checksums, locks, sqlstate
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Card, Cell, Table
from pgrunbook.errors import NOTHING_CHANGED, RunbookError
from pgrunbook.execute import permit
from pgrunbook.execute import salvage as execution
from pgrunbook.online import salvage, salvage_plan, salvage_rows, salvage_undo
from pgrunbook.online.salvage import SalvageBatch
from pgrunbook.online.salvage_plan import SalvageChoice, SalvagedTable
from pgrunbook.online.salvage_rows import SalvageCounts
from pgrunbook.procedures import shared_steps
from pgrunbook.record import run as runs
from pgrunbook.record.table_file import table_file
from pgrunbook.rehearse import salvage as rehearsal
from pgrunbook.session import checks
from pgrunbook.session.session import Session

NOTHING = "Nothing is salvaged: salvage names no table."
UNDO_FILE = "take-back-salvage.sql"
LEFT_FILE = "not-salvaged.csv"


@dataclass(frozen=True)
class Salvage:
    """What was chosen, the tables in their order, and how many rows of each are to come back."""

    choice: SalvageChoice
    tables: list[SalvagedTable]
    counts: Mapping[str, SalvageCounts]

    @property
    def subject(self) -> str:
        """What its checks are about: the choice, and the tables as they are."""
        text = json.dumps([asdict(self.choice), [[one.label, one.columns, one.condition] for one in self.tables]])
        return f"salvage {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def look(here: Session) -> Table:
    """Show what would come back from the restored server; see ``salvage_plan.plan`` and ``salvage_rows.look``."""
    given = here.parameters
    choice = SalvageChoice(given.salvage, given.salvage_where, given.salvage_rows, given.salvage_triggers)
    if not choice.tables:
        here.subject = frozenset()
        return Table([], [], empty=NOTHING)
    with _old(here) as old:
        tables = salvage_plan.plan(old, here.conn, choice)
        counts = salvage_rows.look(old, here.conn, tables, choice, where_ms=here.target.statement_timeout_ms)
        emptied = [(child, checksums.difference(old, here.conn, child, shared_columns=True).missing)
                   for child in salvage_plan.cascaded(old, here.conn, tables)]  # fmt: skip
    found = here.facts["salvage"] = Salvage(choice, tables, counts)
    here.subject = frozenset({found.subject})
    triggers = _triggers(here.conn, found)
    here.journal("salvage-chosen", subject=found.subject, rows=choice.rows, triggers=triggers,
                 tables=[{"table": one.label, "where": one.condition, "told": one.told,
                          "missing": counts[one.label].missing, "changed": counts[one.label].changed}
                         for one in tables])  # fmt: skip
    headings = ["", "table", "rows chosen", "missing", "changed", "what becomes of them", "triggers", "columns"]
    rows = [_row(one, found, triggers) for one in tables]
    rows += [_proposed(child, missing, tables) for child, missing in emptied if missing]
    return here.keep_table("what-to-salvage", Table(headings, rows))


def rehearse(here: Session) -> Card:
    """Salvage on a branch of today; see ``rehearse.salvage.with_rows``."""
    if not here.parameters.salvage:
        return Card("Tried", [("salvaged", NOTHING)])
    found: Salvage = here.facts["salvage"]
    here.subject = frozenset({found.subject})
    if not here.parameters.with_data:
        here.journal("salvage-not-tried", subject=found.subject)
        return Card("Tried", [("tried", Cell("no: with_data is false", WARN))], tone=WARN)
    with _old(here) as old:
        how, took_s, became = rehearsal.with_rows(
            old, here.target, found.tables, found.choice, here.run.run_id,
            most_bytes=here.parameters.most_mb * 2**20,
        )  # fmt: skip
    here.journal("salvage-tried", subject=found.subject, how=how, took_s=round(took_s, 3), became=became)
    facts = [(label, _states(states)) for label, states in became.items()]
    return Card("Tried on a branch of today", [("branch", how), *facts, ("took", f"{took_s:.2f} s")], tone=GOOD)


def write(here: Session) -> Table:
    """Write the rows under the run lock; each batch is noted in the journal, and what was left out in a file."""
    if not here.parameters.salvage:
        return Table([], [], empty=NOTHING)
    checks.passed(here, "restore", "salvage-rows")
    found: Salvage = here.facts["salvage"]
    here.refuse_replica()
    here.at_work()

    def note(batch: SalvageBatch) -> None:
        here.journal("salvage-batch", table=batch.table, rows=batch.rows, left=batch.left)

    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
        _old(here) as old,
    ):
        permitted = permit.of_salvage(here, found.subject, conn)
        here.journal("salvage-started", subject=found.subject)
        here.run.keep(UNDO_FILE, salvage_undo.text(conn, found.tables, here.run.run_id, UNDO_FILE))
        try:
            size = sum(one.bytes for one in found.counts.values())
            execution.write(old, conn, here.target, found.tables, found.choice, permitted, found.subject,
                            staged_bytes=size, on_batch=note)  # fmt: skip
        except (psycopg.Error, RunbookError) as exc:
            raise _explained(here, found, exc) from exc
        became = salvage.became(conn, found.tables, here.run.run_id)
        _keep_left(here, conn, found)
    here.journal("salvaged", subject=found.subject, became=became)
    headings = ["table", "came back", "overwritten", "left out", "why"]
    return here.keep_table("salvage-rows", Table(headings, [_ended(label, states) for label, states in became.items()]))


def ended(here: Session) -> str:
    """Return what this run has salvaged, as a sentence; "" where it has salvaged nothing."""
    told = [e for e in shared_steps.events(here, "restore") if e["event"] == "salvaged"]
    if not told:
        return ""
    states = told[-1]["became"]
    back, over, left = (_sum(states, kinds) for kinds in (("inserted",), ("updated",), tuple(salvage.LEFT)))
    rest = f", {counted(left, 'row')} left out ({LEFT_FILE})" if left else ""
    return f"{counted(back, 'row')} of {listed(list(states))} came back, {counted(over, 'row')} overwritten{rest}."


def _old(here: Session) -> Connection:
    return connect(here.facts["restored_target"], purpose="salvages")


def _triggers(conn: Connection, found: Salvage) -> str:
    if salvage_plan.is_silent(conn, found.tables, found.choice):
        return "silent; keys are checked"
    return "fire" if found.choice.triggers == "fire" else "there are none"


def _row(one: SalvagedTable, found: Salvage, triggers: str) -> tuple[object, ...]:
    counts = found.counts[one.label]
    overwrites = found.choice.rows == "changed" and counts.changed
    becomes = ["missing rows are inserted"] + (["changed rows are overwritten"] if overwrites else [])
    return (
        one.place,
        one.label,
        one.condition or "all",
        Cell(f"{counts.missing:,}", GOOD if counts.missing else QUIET, under="\n".join(counts.samples), fold="rows"),
        Cell(f"{counts.changed:,}", WARN if overwrites else QUIET),
        "; ".join([*becomes, "new rows stay", *(["in one transaction: a circle"] if one.is_circular else [])]),
        triggers,
        Cell("; ".join(one.told) or "as they were", WARN if one.told else QUIET),
    )


def _proposed(child: TableName, missing: int, tables: Sequence[SalvagedTable]) -> tuple[object, ...]:
    """Return the row of a table that is not chosen, whose rows go with those of a chosen one."""
    names = ",".join([*(one.label for one in tables), f"{child.schema}.{child.name}"])
    advice = f"not chosen; ON DELETE CASCADE takes its rows along: -p salvage={names}"
    return "", f"{child.schema}.{child.name}", "none", Cell(f"{missing:,}", WARN), "", Cell(advice, WARN), "", ""


def _ended(label: str, states: Mapping[str, int]) -> tuple[object, ...]:
    left = {state: rows for state, rows in states.items() if state in salvage.LEFT}
    why = "; ".join(f"{rows:,}: {salvage.LEFT[state]}" for state, rows in left.items())
    count = Cell(f"{sum(left.values()):,}", BAD if left else QUIET)
    return label, f"{states.get('inserted', 0):,}", f"{states.get('updated', 0):,}", count, why


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {state}" for state, rows in states.items()) or "nothing to do"


def _sum(states: Mapping[str, Mapping[str, int]], kinds: tuple[str, ...]) -> int:
    return sum(rows for one in states.values() for state, rows in one.items() if state in kinds)


def _keep_left(here: Session, conn: Connection, found: Salvage) -> None:
    with table_file(here.run.folder / LEFT_FILE, ["table", "key", "why"]) as write_row:
        for one in found.tables:
            for row in salvage.left_out(conn, one, here.run.run_id):
                write_row(row)


def _explained(here: Session, found: Salvage, exc: psycopg.Error | RunbookError) -> RunbookError:
    """Return the error that ended the salvage, with what is back in the database now."""
    state = _state_now(here, found)
    here.journal("salvage-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, state=state)
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    return sqlstate.explained(exc, here.target.name, state=state, again=runs.again())


def _state_now(here: Session, found: Salvage) -> str:
    try:
        with connect(here.target, purpose="asks what is salvaged") as conn:
            if not salvage_rows.is_there(conn):
                return NOTHING_CHANGED
            states = salvage.became(conn, found.tables, here.run.run_id)
    except (psycopg.Error, RunbookError):
        return "Not known, the server does not answer: pgrunbook.salvaged_row says which rows are back."
    done, due = _sum(states, salvage.DONE), _sum(states, ("due",))
    return f"{counted(done, 'old row')} are back, {counted(due, 'row')} are still to come; {UNDO_FILE} takes them back."

"""The repair of a history table that does not fit its folder: shown as SQL, tried, then done in one transaction.

1. A row that is there twice: the earliest stays. A row without a time counts as the latest; of rows of one time, the
   first in the table's order stays. Rows that are equal are told apart by where they lie (ctid).
2. A row without a file is forgotten; a file that was edited becomes the one that was applied. Neither changes what the
   migration did to the schema: drift shows whether that fits.
3. Each is tried first, in a transaction that is aborted: behind it the history must read as before but for this.
4. Done, all rows from before are copied into pgrunbook.history_copy, in the same transaction.

What is out of order, or half done, no row mends: its note says what does. Used by troubleshoot.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import psycopg
from psycopg import sql

from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, locks, own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.errors import NOTHING_CHANGED, Blocked, Broken, RunbookError, StatementFailed, WrongInput
from pgrunbook.history.folder import TOOLS
from pgrunbook.history.state import PROBLEMS, AppliedMigration, Command, Entry, History, State

Kind = Literal["delete duplicates", "forget", "accept text"]
LIMITS = {"lock_timeout_ms": 2_000, "statement_timeout_ms": 30_000}
_CHECKSUMS = ("hash", "checksum")
_AS_PENDING = {State.OUT_OF_ORDER: State.PENDING}
_LATEST = datetime.max.replace(tzinfo=UTC)
_MENDS: dict[Kind, State] = {
    "delete duplicates": State.DUPLICATE, "forget": State.MISSING, "accept text": State.EDITED,
}  # fmt: skip


@dataclass(frozen=True)
class HistoryRepair:
    """A repair of the rows of one migration: each command changes one row. ``costs`` says what is not mended by it."""

    kind: Kind
    migration: str
    costs: str
    commands: tuple[Command, ...]

    @property
    def key(self) -> str:
        """What it is chosen by."""
        return f"{self.kind}: {self.migration}"


def repairs(history: History) -> list[HistoryRepair]:
    """Return the repairs of a history, in its order; [] where no row can mend it."""
    return list(_repairs(history))


def is_offered(conn: Connection, target: Target, key: str) -> bool:
    """Tell whether the history as it is now has a repair of that key. Raises as ``history.read`` does."""
    return any(one.key == key for one in repairs(histories.read(conn, target)))


def shown(conn: Connection, repair: HistoryRepair) -> str:
    """Return a repair as the SQL text that it is."""
    cursor = psycopg.ClientCursor(conn)
    return ";\n".join(cursor.mogrify(query, values) for query, values in repair.commands) + ";"


def why_not(conn: Connection, target: Target, repair: HistoryRepair) -> str:
    """Try a repair in a transaction that is aborted; return why it does not mend the history, "" where it does.

    Locks: ShareRowExclusiveLock on the history table, for a moment: readers go on.
    """
    try:
        with conn.transaction(force_rollback=True):
            connection.limit_locally(conn, **LIMITS)
            _apply(conn, target, histories.read(conn, target), repair)
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST or conn.closed:
            raise
        return said(exc)
    except RunbookError as exc:
        return exc.message
    return ""


def carry_out(conn: Connection, target: Target, key: str, *, run_id: str) -> HistoryRepair:
    """Do the repair of that key in one transaction, with a copy of all rows from before; return it.

    Raises WrongInput where there is none, Broken where the history would not read as it should behind it, Blocked and
    TargetBusy where somebody else writes the history, StatementFailed where the server refuses it.
    Locks: the executor's and the tool's advisory locks; ShareRowExclusiveLock on the history table.
    """
    step_log.create(conn)
    with locks.one_executor(conn), histories.tool_lock(conn, histories.read(conn, target)):
        try:
            with connection.transaction(conn, **LIMITS):
                history = histories.read(conn, target)
                repair = _chosen(history, key)
                _lock(conn, history)
                _copy(conn, history, run_id, key)
                _apply(conn, target, history, repair)
        except psycopg.errors.LockNotAvailable as exc:
            raise Blocked(
                f"could not lock the history table {history.qualified_table}",
                detail=said(exc),
                hint="Another migration writes it: wait for its end, then look again.",
            ) from exc
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST or conn.closed:
                raise
            raise StatementFailed(
                f"could not repair the history: {key}",
                detail=said(exc),
                state=NOTHING_CHANGED,
                hint="Correct that, or repair it as the role that owns the history table.",
            ) from exc
    return repair


def _chosen(history: History, key: str) -> HistoryRepair:
    found = {one.key: one for one in repairs(history)}
    if key not in found:
        raise WrongInput(
            f'there is no repair "{key}" of {history.qualified_table}',
            detail=f"Its repairs: {', '.join(found) or 'none'}.",
            hint="Spell it as cell history does, which shows each with its SQL.",
        )
    return found[key]


def _repairs(history: History) -> Iterator[HistoryRepair]:
    told: set[str] = set()
    for entry in history.entries:
        row = entry.applied
        if row is None:
            continue
        match entry.state:
            case State.DUPLICATE if entry.name not in told:
                told.add(entry.name)
                yield _of_duplicates(history, entry)
            case State.MISSING if entry.name not in told:
                told.add(entry.name)
                costs = "what it did to the schema stays; bring its file back from git where that is wanted"
                same = [one.applied for one in history.entries if (one.name, one.state) == (entry.name, entry.state)]
                commands = tuple(_delete(history, one) for one in same if one is not None)
                yield HistoryRepair("forget", entry.name, costs, commands)
            case State.EDITED if entry.migration is not None:
                new = TOOLS[history.kind].new_row(entry.migration, history.regime)
                changed = {name: new[name] for name in _CHECKSUMS if name in new and new[name] != row.row.get(name)}
                if changed:
                    costs = "the file is not executed again: what was added to it is not in the schema"
                    yield HistoryRepair("accept text", entry.name, costs, (_update(history, row, changed),))


def _of_duplicates(history: History, entry: Entry) -> HistoryRepair:
    """Delete all rows of a migration but the earliest."""
    same = [one.applied for one in history.entries if one.migration == entry.migration and one.applied is not None]
    place = {id(row): number for number, row in enumerate(history.rows)}
    first, *others = sorted(same, key=lambda row: (row.applied_at or _LATEST, place[id(row)]))
    since = f", of {first.applied_at:%Y-%m-%d %H:%M:%S}," if first.applied_at else ""
    costs = f"the earliest{since} stays; what it did twice to the schema and its rows stays too: look at that first"
    return HistoryRepair("delete duplicates", entry.name, costs, tuple(_delete(history, row) for row in others))


def _is_row(history: History, row: AppliedMigration) -> tuple[sql.Composed, tuple[object, ...]]:
    """Return the condition that finds exactly one row: of equal ones, the last that lies in the table."""
    key = TOOLS[history.kind].key
    same = sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) %s").format(sql.Identifier(column))
        if row.row[column] is not None
        else sql.SQL("{} IS NULL").format(sql.Identifier(column))
        for column in key
    )
    condition = sql.SQL("ctid = (SELECT ctid FROM {} WHERE {} ORDER BY ctid DESC LIMIT 1)")
    values = tuple(row.row[column] for column in key if row.row[column] is not None)
    return condition.format(history.identifier_beside_params, same), values


def _delete(history: History, row: AppliedMigration) -> Command:
    condition, values = _is_row(history, row)
    return sql.SQL("DELETE FROM {} WHERE {}").format(history.identifier_beside_params, condition), values


def _update(history: History, row: AppliedMigration, changed: dict[str, object]) -> Command:
    condition, values = _is_row(history, row)
    to = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in changed)
    statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(history.identifier_beside_params, to, condition)
    return statement, (*changed.values(), *values)


def _lock(conn: Connection, history: History) -> None:
    conn.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(history.identifier))
    histories.hold(conn, history)


def _copy(conn: Connection, history: History, run_id: str, key: str) -> None:
    conn.execute(load("history_table")["create_copy"].encode())
    own_schema.hide(conn, "history_copy")
    rows = sql.SQL("SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(h)), '[]') FROM {} AS h")
    found = conn.execute(rows.format(history.identifier)).fetchone() or ([],)
    values = {"run": run_id, "name": history.qualified_table, "repair": key, "rows": json.dumps(found[0])}
    conn.execute(load("history_table")["copy"].encode(), values)


def _apply(conn: Connection, target: Target, before: History, repair: HistoryRepair) -> None:
    """Change the rows, and prove that the history reads as before but for this. Raises Broken."""
    _lock(conn, before)
    for statement, values in repair.commands:
        if (changed := conn.execute(statement, values).rowcount) != 1:
            raise Broken(f"{repair.key} would change {changed} rows instead of 1", hint="Look again at the history.")
    after = histories.read(conn, target)
    wanted = [told for told in _told(before) if told != (repair.migration, _MENDS[repair.kind])]
    if _told(after) != wanted or _applied(before, repair) != _applied(after, repair):
        raise Broken(
            f"{repair.key} does not mend the history",
            detail="Behind it other migrations would be pending, applied or in conflict than before.",
            hint="Repair it by hand, as the note of the migration says.",
        )


def _told(history: History) -> list[tuple[str, State]]:
    """Return what is pending or in conflict, once each; whether it is in order depends on the rows beside it."""
    found = [(one.name, one.state) for one in history.entries if one.state in {*PROBLEMS, State.PENDING}]
    return list(dict.fromkeys((name, _AS_PENDING.get(state, state)) for name, state in found))


def _applied(history: History, repair: HistoryRepair) -> Sequence[str]:
    is_forgotten = repair.kind == "forget"
    return [one.name for one in history.applied() if not (is_forgotten and one.name == repair.migration)]

"""Reapplication: when a migration goes forward again, the rows and values that its rollback captured come back.

What a small table or column holds comes back in the transaction that makes it; of a large one, in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.display.prose import counted, listed
from pgrunbook.plan.step import RANGE, Batches, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.sql.tree import dotted_name
from pgrunbook.undo_data.capture_columns import VALUE, is_large
from pgrunbook.undo_data.entries import as_keep
from pgrunbook.undo_data.registry import STATES, UndoEntry, find
from pgrunbook.undo_data.revert_columns import are_inserts_watched, filling, returned, writes
from pgrunbook.undo_data.row_notes import GONE, are_at_work
from pgrunbook.undo_data.silence import fires, may_silence
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, Row, as_text, rows, table

# So many rows that a migration itself inserts are compared with captured ones.
_MOST_SEEDS = 10_000
SAYS = "What {} held before the rollback is reapplied."


@dataclass(frozen=True)
class Reapplication:
    """The steps that reapply an entry; ``left`` is the sentence that says what of it stays captured, "" for nothing."""

    steps: tuple[SafeStep, ...] = ()
    left: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all that is captured comes back."""
        return not self.left

    def silent(self) -> Reapplication:
        """Return the same, while triggers of the application are silent."""
        steps = []
        for step in self.steps:
            if step.batches or step.sql.startswith(("UPDATE ", "INSERT ")):
                batches = replace(step.batches, fires_triggers=False) if step.batches else None
                step = replace(step, fires_triggers=False, batches=batches)  # noqa: PLW2901
            steps.append(step)
        return replace(self, steps=tuple(steps))


def to_reapply(conn: Connection, migrations: Sequence[str]) -> list[UndoEntry]:
    """Return the entries of columns and tables that the rollback of these migrations dropped.

    What was dropped last comes first: other tables may refer to it. Of what was captured several times, the newest
    values are the last that are written, and the newest rows the first: both win.
    """
    found = [
        one
        for one in find(conn, states=["kept"])
        if one.direction == "down" and one.kind in ("column", "table") and one.migration in migrations
    ]
    newest = {_about(one): max(other.id for other in found if _about(other) == _about(one)) for one in found}
    return sorted(found, key=lambda one: (-newest[_about(one)], one.id if one.kind == "column" else -one.id))


def still_captured(conn: Connection, migrations: Sequence[str]) -> list[tuple[UndoEntry, int]]:
    """Return the entries of applied migrations that were not reapplied, or not as a whole, with what each holds.

    Of a column that is the number of values that are not NULL. Locks: AccessShareLock on what is captured.
    """
    waiting = to_reapply(conn, migrations)
    ids = {one.id for one in waiting}
    counts = []
    for one in waiting:
        if one.part_of in ids:
            continue  # its rows are counted with its parent's
        column = sql.SQL(" WHERE {} IS DISTINCT FROM NULL").format(sql.Identifier(VALUE))
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {}{}").format(
            one.side, column if one.kind == "column" else sql.SQL("")
        )
        counts.append((one, int(str((conn.execute(query).fetchone() or (0,))[0]))))
    return counts


def reapply(branch: Connection, conn: Connection, entry: UndoEntry, *, batch_rows: int) -> Reapplication:
    """Return what reapplies an entry to its column or table, as it is on ``branch`` now.

    ``conn`` leads to the database that holds the undo data.
    """
    if entry.kind == "table" and _is_partition(conn, entry):
        return Reapplication()  # its parent's rows include its own
    there = rows(branch, "oid_of", schema=entry.table.schema, name=entry.table.name)
    if not there:
        return _left(entry, f"table {dotted_name(*entry.table)} does not exist")
    found = table(branch, there[0]["oid"])
    whole = (
        _column(branch, conn, found, entry, batch_rows)
        if entry.kind == "column"
        else _rows(branch, conn, found, entry, batch_rows)
    )
    # The rollback has dropped it without firing a trigger.
    return whole.silent() if fires(branch, [entry.table]) and may_silence(conn) else whole


def captured_from(conn: Connection, entry: UndoEntry) -> str:
    """Return the fingerprint of the file by whose rollback an entry was captured, "" where that is not known."""
    found = rows(conn, "captured_from", run_id=entry.run_id, migration=entry.migration)
    return str(found[0]["file_sha256"]) if len(found) == 1 else ""


def _about(entry: UndoEntry) -> tuple[object, ...]:
    return entry.kind, entry.table, entry.columns


def _left(entry: UndoEntry, because: str) -> Reapplication:
    says = f"What {_told(entry)} held before the rollback stays captured as {dotted_name(*entry.there)}: {because}."
    return Reapplication(left=says)


def _told(entry: UndoEntry) -> str:
    return dotted_name(*entry.table, *(entry.columns if entry.kind == "column" else ()))


def _column(
    branch: Connection, conn: Connection, found: CapturedTable, entry: UndoEntry, batch_rows: int
) -> Reapplication:
    (name,) = entry.columns
    column = found.columns.get(name)
    value = _columns(conn, entry)[VALUE]
    if column is None:
        return _left(entry, f"column {name} does not exist")
    if column.is_generated:
        return _left(entry, f"column {name} is generated")
    if found.keyed(entry.key) is None and not are_inserts_watched(conn, as_keep(entry)):
        return _left(entry, f"{dotted_name(*entry.table)} has no unique index on {', '.join(entry.key)} now")
    keys = "" if as_keep(entry).is_own_key else _changed_since(conn, entry)
    if as_keep(entry).is_own_key or keys:
        waiting = still_captured(conn, [entry.migration])
        is_empty = all(not values for other, values in waiting if other.id == entry.id)
        because = (
            f"the key got other values since ({keys})" if keys else f"column {name} is the key by which rows are found"
        )
        return Reapplication() if is_empty else _left(entry, because)
    if not _is_taken(conn, value, column):
        return _left(entry, f"column {name} has type {column.type} now, and the values are {value.type}")
    there = rows(conn, "oid_of", schema=entry.table.schema, name=entry.table.name)
    if there and GONE in _columns(conn, entry) and not are_at_work(conn, entry.kept_as, there[0]["oid"], entry.key):
        return _left(entry, "nobody knows which rows are those of then: the table was made anew, or triggers were off")
    fits = _fits([(value, column)], lambda _: sql.Identifier("k", VALUE))
    rows_ = batch_rows if is_large(branch, found, conn, batch_rows) else None
    filled = filling(
        branch, conn, found, as_keep(entry), column, fits, says=SAYS.format(_told(entry)), batch_rows=rows_
    )
    before, after = _around_numbers(branch, found, column)
    again = returned(conn, there[0]["oid"], entry.table, name) if there else ()
    steps = (*again, *before, *filled, *after)
    unfit = _unfit(conn, entry, "k", fits)
    because = f"{counted(unfit, 'value')} of {_told(entry)} {'does' if unfit == 1 else 'do'} not fit {column.type}"
    return _given(entry, steps, [entry.kept_as], because if unfit else "")


def _changed_since(conn: Connection, entry: UndoEntry) -> str:
    """Return the column of its key that a rollback has given its old type, and other values, behind the capture."""
    later = [one for one in find(conn, states=STATES) if one.id > entry.id and one.direction == entry.direction]
    keys = [one for one in later if one.table == entry.table and as_keep(one).is_own_key]
    return next((one.columns[0] for one in keys if one.columns[0] in entry.key), "")


def _around_numbers(
    branch: Connection, found: CapturedTable, column: CapturedColumn
) -> tuple[tuple[SafeStep, ...], tuple[SafeStep, ...]]:
    """Return the steps around the values of a numbered column: no statement may give an ALWAYS identity other ones."""
    (default,) = rows(branch, "default_of", oid=found.oid, column=column.name)
    if not default["is_identity"] and "nextval(" not in (default["default_value"] or ""):
        return (), ()
    advance = _advance(branch, found)
    if not column.is_identity_always:
        return (), (advance,)
    generated = [
        SafeStep(
            text(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET GENERATED {}").format(
                    found.name.identifier(), sql.Identifier(column.name), sql.SQL(when)
                )
            ),
            says,
            own_transaction=False,
        )
        for when, says in (
            ("BY DEFAULT", f"{column.name} takes the numbers that its rows had."),
            ("ALWAYS", f"{column.name} is always generated again."),
        )
    ]
    return (generated[0],), (advance, generated[1])


def _rows(
    branch: Connection, conn: Connection, found: CapturedTable, entry: UndoEntry, batch_rows: int
) -> Reapplication:
    """The parked table is read in batches by its own key, if it has one; rows of its partitions are included."""
    relation = Facts(conn).named(entry.there)
    if relation is None:
        return _left(entry, "the parked table does not exist any more")
    old = table(conn, relation.oid)
    parts = [one.kept_as for one in find(conn, states=["kept"], ids=[entry.id]) if _is_partition(conn, one)]
    shared = [c for c in found.plain if c.name in old.columns and _is_taken(conn, old.columns[c.name], c)]
    without = [c.name for c in old.plain if c.name not in {one.name for one in shared}]
    missing = [name for name in without if _holds_values(conn, entry, name)]
    if not shared:
        return _left(
            entry, f"table {dotted_name(*entry.table)} has none of its columns {listed(without)} with their types"
        )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shared)
    values = sql.SQL(", ").join(column.reverted(sql.Identifier("t", column.name)) for column in shared)
    fits = _fits([(old.columns[c.name], c) for c in shared], lambda name: sql.Identifier("t", name))
    statement = text(
        sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS t WHERE {} AND {} ON CONFLICT DO NOTHING"
        ).format(found.name.identifier(), names, values, old.name.identifier(), sql.SQL(RANGE), fits)
    )
    says = SAYS.format(_told(entry))
    if old.key and Facts(conn).has_rows_beyond(relation, batch_rows):
        whole = _loop(old, statement, old.key, says, batch_rows)
    else:
        whole = SafeStep(statement.replace(RANGE, "true", 1), says, own_transaction=False, quick=False)
    unfit = _unfit(conn, entry, "t", fits)
    because = [f"its table has no column {listed(missing)} that takes its values"] if missing else []
    because += [f"{counted(unfit, 'row')} of it {'does' if unfit == 1 else 'do'} not fit its columns"] if unfit else []
    beaten = _beaten(branch, conn, found, old, shared)
    if beaten:
        because.append(
            f"{counted(beaten, 'row')} of it {'has' if beaten == 1 else 'have'} the key of a row that the migration"
            " itself inserts with other values now"
        )
    return _given(entry, (whole, _advance(conn, found)), [entry.kept_as, *parts], ", and ".join(because))


def _beaten(
    branch: Connection, conn: Connection, found: CapturedTable, old: CapturedTable, shared: Sequence[CapturedColumn]
) -> int:
    """Return how many captured rows do not come back because the migration's own row has their key.

    Looked at are the first rows of the table on the branch, which holds what the migration inserts.
    """
    key = [column.name for column in shared if column.name in found.key]
    if not key or len(key) < len(found.key):
        return 0
    of_key, of_row = _texts(key), _texts(sorted(column.name for column in shared))
    query = sql.SQL("SELECT {}, {} FROM {} AS t LIMIT {}").format(
        of_key, of_row, found.source, sql.Literal(_MOST_SEEDS)
    )
    seeds = {str(name): values for name, values in branch.execute(query).fetchall()}
    same = sql.SQL("SELECT {}, {} FROM {} AS t WHERE {} = ANY (%s)").format(of_key, of_row, old.source, of_key)
    captured = conn.execute(same, [list(seeds)]).fetchall() if seeds else []
    return sum(seeds[str(name)] != values for name, values in captured)


def _texts(names: Sequence[str]) -> sql.Composable:
    values = [as_text(sql.Identifier("t", name)) for name in names]
    return sql.SQL("CAST(ARRAY[{}] AS pg_catalog.text)").format(sql.SQL(", ").join(values))


def _loop(of: CapturedTable, statement: str, key: tuple[str, ...], says: str, batch_rows: int) -> SafeStep:
    loop = Batches(
        schema=of.name.schema, table=of.name.name, alias="t", statement=statement, key=key,
        key_types=tuple(each.type for each in of.named(key)), rows=batch_rows,
    )  # fmt: skip
    return SafeStep(loop.statement, says, quick=False, batches=loop)


def _advance(conn: Connection, found: CapturedTable) -> SafeStep:
    (query,) = rows(conn, "advancing", table=found.name.identifier().as_string(None))
    return SafeStep(query["sql"], "Its sequences continue after these rows.", own_transaction=False)


def _given(entry: UndoEntry, steps: tuple[SafeStep, ...], names: Sequence[str], because: str) -> Reapplication:
    """Return the steps; where something of it is left, the entry stays as it is."""
    if because:
        return replace(_left(entry, because), steps=steps)
    whole = writes(steps)
    return Reapplication(tuple(replace(step, gives_back=tuple(names)) if step is whole else step for step in steps))


def _is_taken(conn: Connection, old: CapturedColumn, new: CapturedColumn) -> bool:
    """Tell whether a column takes all values: of its own type, of one with an implicit cast, or what is text for it.

    Values of a type of the application are captured as text.
    """
    if old.is_of_application or new.is_of_application:
        return old.type == new.type or (new.is_of_application and old.catalog_type == "pg_catalog.text")
    if old.catalog_type == new.catalog_type:
        return True
    (found,) = rows(conn, "implicit_cast", old=old.catalog_type, new=new.catalog_type)
    return bool(found["is_there"])


def _fits(pairs: Iterable[tuple[CapturedColumn, CapturedColumn]], row: Row) -> sql.Composable:
    """Return the condition that columns take the captured values as they are, neither cut nor rounded."""
    found = [
        sql.SQL("({0} IS NULL OR {0} OPERATOR(pg_catalog.=) CAST(CAST({0} AS {1}) AS {2}))").format(
            row(old.name), sql.SQL(new.type), sql.SQL(old.catalog_type)
        )
        for old, new in pairs
        if old.type != new.type and not (old.is_of_application or new.is_of_application)
    ]
    return sql.SQL(" AND ").join(found) if found else sql.SQL("true")


def _unfit(conn: Connection, entry: UndoEntry, alias: str, fits: sql.Composable) -> int:
    """Return how many captured rows do not fit. Locks: AccessShareLock on what is captured."""
    query = "SELECT pg_catalog.count(*) FROM {} AS {} WHERE NOT ({})"
    found = conn.execute(sql.SQL(query).format(entry.side, sql.Identifier(alias), fits)).fetchone()
    return int(str(found[0])) if found else 0


def _holds_values(conn: Connection, entry: UndoEntry, column: str) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE {} IS DISTINCT FROM NULL)")
    return conn.execute(query.format(entry.side, sql.Identifier("t", column))).fetchone() == (True,)


def _is_partition(conn: Connection, entry: UndoEntry) -> bool:
    relation = Facts(conn).named(entry.there)
    return relation is not None and relation.is_partition


def _columns(conn: Connection, entry: UndoEntry) -> dict[str, CapturedColumn]:
    (found,) = rows(conn, "oid_of", schema=SCHEMA, name=entry.kept_as)
    return table(conn, found["oid"]).columns

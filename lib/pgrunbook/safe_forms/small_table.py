"""Changes of type of small tables: as they are written, because the rewrite takes moments, behind a look at the size.

A column beside the other would stay until contract, for a handful of rows. Tables that are tied to the columns by a
foreign key are read under the lock too, so they have to be small as well. What was small when it was planned is looked
at again right before, under the lock: a table that has grown meanwhile is not rewritten.
"""

from __future__ import annotations

from pglast import ast, enums
from psycopg import sql

from pgrunbook.database import column_dependents
from pgrunbook.database.queries import load
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import trigger_code, type_cost, type_parts
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import text
from pgrunbook.sql.own_code import do

A, K = enums.AlterTableType, enums.ConstrType
# A rewrite of so much took 60 ms of processor time (rows of 1 kB, two indexes, PostgreSQL 18).
MOST_ROWS, MOST_BYTES = 10_000, 10 * 1024**2
_BESIDE = (
    A.AT_AlterColumnType, A.AT_ColumnDefault, A.AT_SetNotNull, A.AT_DropNotNull, A.AT_DropConstraint,
    A.AT_SetStatistics, A.AT_DropIdentity, A.AT_DropExpression,
)  # fmt: skip
_OWN_ROWS = (K.CONSTR_CHECK, K.CONSTR_PRIMARY, K.CONSTR_UNIQUE)
_STILL_SMALL = """
DECLARE
    found text;
BEGIN
    SELECT s.told INTO found
    FROM (VALUES {sizes}) AS s (told, rows, bytes)
    WHERE s.rows > {most_rows} OR s.bytes > {most_bytes};
    IF found IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table %s has grown since this was planned, and would be rewritten under a lock', found),
            HINT = 'Plan it again: a large table is changed beside the traffic.';
    END IF;
END
"""


def as_written(case: Case) -> Expansion | None:
    """ALTER COLUMN ... TYPE that rewrites a small table -> itself, where the table is still small then.

    Where publications name the columns, PostgreSQL refuses it: the table is out of them for the moment. So it is where
    nothing is written anew or read, also of a large table. None for any other statement.
    """
    table = changed_table(case)
    if table is None:
        return None
    names = list(dict.fromkeys(cmd.name for cmd in _changes(case)))
    same_as = type_parts.accepted(case, table, names)
    cost = type_cost.of(case, table)
    if same_as and not cost.rewrites and not cost.reads:
        says = "PostgreSQL refuses it while publications name the column: it is done in a transaction that takes the"
        says += " table out of them and puts it back, with the same columns and rows."
        return Expansion(case.statement, "", says, (_step(same_as, "As it is written."),), same_as=same_as)
    if not is_small(case, table) or not cost.rewrites:
        return None
    columns = ", ".join(names)
    says = f"The new type of {columns} rewrites {table.label}, which has at most {_most(case):,} rows and 10 MB: that"
    says += " takes moments. Before it, the size is looked at again, and a table that has grown is not rewritten."
    lock = f"LOCK TABLE {table.sql} IN ACCESS EXCLUSIVE MODE"
    guard = _guard([table, *_tied(case, table)])
    written = f"{same_as or case.statement.sql};\n{trigger_code.compiled_anew(table)}"
    step = _step(f"{lock};\n{guard};\n{written}", "As it is written, where the table is still small.")
    return Expansion(case.statement, "", says, (step,), same_as=same_as)


def _step(statements: str, says: str) -> SafeStep:
    return SafeStep(statements, says, Policy.TOGETHER, own_transaction=False, quick=False)


def accepted(case: Case) -> str:
    """Return what comes to the same as a change of type that PostgreSQL refuses, "" for any other statement."""
    table = changed_table(case)
    return "" if table is None else type_parts.accepted(case, table, [cmd.name for cmd in _changes(case)])


def changed_table(case: Case) -> Relation | None:
    """Return the table of a statement that changes types and does nothing which rows of other tables need."""
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE or not _changes(case):
        return None
    table = case.facts.relation(node.relation)
    if table is None or table.kind not in "rp" or table.is_temporary:
        return None
    return table if all(map(_is_of_own_rows, node.cmds)) else None


def is_small(case: Case, table: Relation) -> bool:
    """Tell whether a table, and those that are tied to its changed columns by a foreign key, are small."""
    tables = [table, *_tied(case, table)]
    return all(not case.facts.has_rows_beyond(one, _most(case)) and _bytes(case, one) <= MOST_BYTES for one in tables)


def _most(case: Case) -> int:
    return min(case.batch_rows, MOST_ROWS)


def _changes(case: Case) -> list[ast.AlterTableCmd]:
    return [cmd for cmd in case.node.cmds if cmd.subtype == A.AT_AlterColumnType]


def _is_of_own_rows(cmd: ast.AlterTableCmd) -> bool:
    if cmd.subtype == A.AT_AddColumn:
        return all(part.contype != K.CONSTR_FOREIGN for part in cmd.def_.constraints or ())
    return cmd.subtype in _BESIDE or (cmd.subtype == A.AT_AddConstraint and cmd.def_.contype in _OWN_ROWS)


def _tied(case: Case, table: Relation) -> list[Relation]:
    """Return the other tables that refer to the changed columns, or to which these refer."""
    columns, found = case.facts.columns(table), set()
    for cmd in _changes(case):
        if cmd.name in columns:
            for one in column_dependents.read(case.facts.conn, table, columns[cmd.name]).constraints:
                found |= {
                    (one.schema, one.table),
                    (one.partner_schema or table.schema, one.partner_table or table.name),
                }
    others = sorted(found - {(table.schema, table.name)})
    return [there for one in others if (there := case.facts.named(one)) is not None]


def _bytes(case: Case, table: Relation) -> int:
    asked = case.facts.rows_conn.execute(_size(table)).fetchone()
    return int(str(asked[0])) if asked is not None else 0


def _size(table: Relation) -> str:
    return text(sql.SQL(load("relations")["table_bytes"].replace("%%", "%")).format(table=sql.Literal(table.sql)))


def _guard(tables: list[Relation]) -> str:
    counted = load("relations")["rows_up_to"]
    sizes = [
        sql.SQL("({}, ({}), ({}))").format(
            sql.Literal(one.label),
            sql.SQL(counted).format(table=one.identifier, limit=sql.Literal(MOST_ROWS + 1)),
            sql.SQL(_size(one)),
        )
        for one in tables
    ]
    block = sql.SQL(_STILL_SMALL).format(
        sizes=sql.SQL(", ").join(sizes), most_rows=sql.Literal(MOST_ROWS), most_bytes=sql.Literal(MOST_BYTES)
    )
    return text(do(block))

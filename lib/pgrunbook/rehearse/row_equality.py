"""The equality of rows after the plain SQL and after the safe plan, on two databases that began alike; for prepare.

Values that differ between two runs of the same SQL (now()) cannot be compared: their columns are left out, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, enums

from pgrunbook.database import checksums, queries, shadows
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection, at_once
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation, columns_of
from pgrunbook.database.sequences import next_number
from pgrunbook.display.prose import counted
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.do_branches import unfolded
from pgrunbook.sql.serial import is_numbered
from pgrunbook.sql.time_texts import is_moment
from pgrunbook.sql.tree import column_names, functions_in, trees, walk

A, Kind, MergeDoes = enums.AlterTableType, enums.ObjectType, enums.CmdType


@dataclass
class VolatileValues:
    """Values that differ between two runs (now(), random()), or depend on what ran before in the same database.

    ``columns`` names them by table, None where it is unknown which. With ``elsewhere`` something was executed whose
    text does not show what it writes (a trigger, a function, a DO block): then no other table is known to be stable.
    """

    columns: dict[TableName, set[str] | None] = field(default_factory=dict)
    elsewhere: bool = False

    def of(self, table: TableName) -> set[str] | None:
        """Return the volatile columns of a table, None where its rows can only be counted."""
        return self.columns.get(table, None if self.elsewhere else set())


@dataclass(frozen=True)
class Equality:
    """The result of a comparison: which tables, how they differ, and what was left out as it differs by nature."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    passed_over: tuple[str, ...]


def compare(plain: Connection, safe: Connection, tables: Sequence[TableName], volatile: VolatileValues) -> Equality:
    """Compare the rows of tables on two databases.

    Where the volatile columns of a table are unknown and its rows differ, only their number is compared. What lives
    beside until contract is left out. Locks: AccessShareLock on each table.
    """
    beside = shadows.columns(safe)
    one, other = at_once((plain, safe), lambda conn: checksums.checksums(conn, tables, without=beside))
    apart = [table for table in tables if one[table] != other[table]]
    differences, passed_over = [], []
    for table in apart:
        columns = volatile.of(table)
        if columns is None:
            passed_over.append(f"rows of {table}: counted only, as what writes them may write other values each time")
            equal = one[table].rows == other[table].rows
        else:
            without = columns | beside.get(table, set())
            equal = bool(columns) and _sums(plain, table, without) == _sums(safe, table, without)
            passed_over += [f"values of {table}.{column}: they differ each time" for column in sorted(columns)]
        if not equal:
            differences.append(_difference(plain, safe, table, one[table], other[table]))
    return Equality(tuple(map(str, tables)), tuple(differences), tuple(passed_over))


def sequences_behind(plain: Connection, safe: Connection) -> list[str]:
    """Return the sequences that are behind after the plan: their next value is used already.

    A sequence that is ahead is no difference: aborted attempts take numbers, too.
    """
    wanted, found = _sequences(plain), _sequences(safe)
    return [
        f"sequence {name} gives {found[name][0]} next after the plan, {number} after the plain SQL"
        for name, (number, increment) in wanted.items()
        if name in found and (found[name][0] - number) * increment < 0
    ]


def _sequences(conn: Connection) -> dict[str, tuple[int, int]]:
    return {
        row["name"]: (next_number(conn, row["name"], row["last_value"], row["increment_by"]), row["increment_by"])
        for row in queries.rows(conn, "row_equality", "sequences")
    }


def named(conn: Connection, labels: Iterable[str]) -> list[TableName]:
    """Return the tables that hold rows among these names, which are spelt as in SQL, in their order."""
    return [TableName(**row) for row in queries.rows(conn, "row_equality", "tables", labels=list(labels))]


def volatile_values(
    statements: Iterable[str],
    differs: Iterable[Declared],
    before: Connection,
    after: Connection,
    *,
    updated: Collection[str] = (),
) -> VolatileValues:
    """Return the values that differ each time the statements run.

    Each statement is judged twice: on a database where none has run yet, and on one where all have. ``differs`` are
    the declared differences of safe forms; ``updated`` are tables that traffic updates meanwhile, named as in SQL.
    """
    release = VolatileRelease(statements, differs, updated=updated)
    release.judge(before)
    release.judge(after)
    return release.values(after)


class VolatileRelease:
    """Statements whose volatile values are judged, on databases before and after them; as :func:`volatile_values`.

    With ``numbers`` those of sequences are volatile, too: where the statements run again in the same database.
    """

    def __init__(
        self,
        statements: Iterable[str],
        differs: Iterable[Declared],
        *,
        updated: Collection[str] = (),
        numbers: bool = False,
    ) -> None:
        self._nodes = [node for sql in statements for each in trees(sql) for node in walk(unfolded(each))]
        self._declared = {declared.object for declared in differs if declared.kind == "values"}
        self._updated, self._numbers = updated, numbers
        self._found = VolatileValues()

    def judge(self, conn: Connection) -> None:
        """Note what is volatile as the database is now."""
        judge = _Judge(Facts(conn), self._found, self._nodes, self._declared, all_numbers=self._numbers)
        for node in self._nodes:
            judge.note(node)
        for name in self._updated:
            judge.note_triggers(parsed(f"TABLE {name}").fromClause[0])

    def values(self, conn: Connection) -> VolatileValues:
        """Return what was found, by the names that columns have in a database after the statements."""
        there = Facts(conn)
        for table, columns in self._found.columns.items():
            relation = there.relation(ast.RangeVar(schemaname=table.schema, relname=table.name))
            if columns and relation is not None:
                columns.intersection_update(there.columns(relation))  # some were renamed, or dropped
        return self._found


class _Judge:
    """Judges statements on one database, and adds to ``found`` the volatile columns, by their names at the end."""

    def __init__(
        self, facts: Facts, found: VolatileValues, nodes: Sequence[Any], declared: set[str], *, all_numbers: bool
    ) -> None:
        self.facts, self.found, self.declared, self.all_numbers = facts, found, declared, all_numbers
        renames = [node for node in nodes if isinstance(node, ast.RenameStmt) and node.relation is not None]
        self.tables = {n.relation.relname: n.newname for n in renames if n.renameType == Kind.OBJECT_TABLE}
        # A trigger that a statement creates and a later one drops is there neither before nor after all of them.
        self.with_triggers = {node.relation.relname for node in nodes if isinstance(node, ast.CreateTrigStmt)}
        self.names = {n.subname: n.newname for n in renames if n.renameType == Kind.OBJECT_COLUMN}

    def note(self, node: Any) -> None:
        """Note the columns that a statement, or a part of one, makes volatile."""
        match node:
            case ast.UpdateStmt() | ast.InsertStmt() | ast.MergeStmt():
                self._add(node.relation, lambda table: self._of_write(table, node))
                self.note_triggers(node.relation)
            case ast.CreateStmt() if moments := _with_moments(node.tableElts or ()):
                self._add(node.relation, lambda _: moments)
            case ast.DeleteStmt():
                self.found.elsewhere |= bool(self._triggered(node.relation))
            case ast.TruncateStmt():
                self.found.elsewhere |= any(self._triggered(relation) for relation in node.relations)
            case ast.AlterTableStmt():
                self._add(node.relation, lambda _: self._of_alter(node))
            case ast.CreateTableAsStmt(into=into, query=query, objtype=Kind.OBJECT_TABLE):
                self._add(into.rel, lambda table: self._of_query(table, (), query))
            case ast.SelectStmt(intoClause=ast.IntoClause() as into):
                self._add(into.rel, lambda table: self._of_query(table, (), node))
            case ast.CreateTableAsStmt(into=ast.IntoClause(rel=relation)) | ast.RefreshMatViewStmt(relation=relation):
                self._add(relation, lambda _: None)
            case ast.DoStmt() | ast.CallStmt():
                self.found.elsewhere = True
            case ast.FuncCall():
                self.found.elsewhere |= self._may_write(node)

    def note_triggers(self, relation: Any) -> None:
        """Note that triggers may change the row, and rows of other tables."""
        for table in self._triggered(relation):
            self.found.columns[self._name(table)] = None
            self.found.elsewhere = True

    def _add(self, relation: Any, columns_of: Callable[[Relation], set[str] | None]) -> None:
        for table in self._family(relation):
            known, columns = self.found.columns.setdefault(self._name(table), set()), columns_of(table)
            if known is None or columns is None:
                self.found.columns[self._name(table)] = None
            else:
                known |= columns | {self.names[name] for name in columns if name in self.names}
                known |= self._generated(table, known)

    def _family(self, relation: Any) -> list[Relation]:
        """Return the table of a name, by its new name where it was renamed, with its partitions."""
        table = self.facts.relation(relation)
        for _ in self.tables if table is None else ():
            relation = ast.RangeVar(
                schemaname=relation.schemaname, relname=self.tables.get(relation.relname, relation.relname)
            )
            table = table or self.facts.relation(relation)
        return [] if table is None else [table, *self.facts.partitions(table)]

    def _name(self, table: Relation) -> TableName:
        name = table.name
        for _ in self.tables:
            name = self.tables.get(name, name)
        return TableName(table.schema, name)

    def _triggered(self, relation: Any) -> list[Relation]:
        return [
            table
            for table in self._family(relation)
            if table.name in self.with_triggers or self.facts.rows("row_triggers", oid=table.oid)
        ]

    def _may_write(self, call: Any) -> bool:
        """Tell whether a function is a user's and may change rows."""
        rows = self.facts.rows("functions", names=[call.funcname[-1].sval])
        return any(row["is_volatile"] and not row["is_builtin"] for row in rows)

    # -- the columns of one table that a statement makes volatile

    def _of_write(self, table: Relation, node: Any) -> set[str]:
        tainted = self._tainted(node)
        match node:
            case ast.UpdateStmt():
                return self._of_targets(table, node.targetList, tainted)
            case ast.InsertStmt():
                given = tuple(target.name for target in node.cols or ())
                conflict = node.onConflictClause
                again = self._of_targets(table, conflict.targetList or (), tainted) if conflict else set()
                return again | self._of_query(table, given, node.selectStmt, tainted)
        found: set[str] = set()
        for clause in node.mergeWhenClauses:
            if clause.commandType == MergeDoes.CMD_UPDATE:
                found |= self._of_targets(table, clause.targetList, tainted)
            elif clause.commandType == MergeDoes.CMD_INSERT:
                given = tuple(target.name for target in clause.targetList or ())
                found |= self._of_values(table, given, [clause.values or ()], tainted)
        return found

    def _of_targets(self, table: Relation, targets: Iterable[Any], tainted: set[str]) -> set[str]:
        defaults = self._defaults(table, numbers=True)
        return {
            target.name
            for target in targets
            if self._is_volatile(target.val, tainted, numbers=True)
            or (isinstance(target.val, ast.SetToDefault) and target.name in defaults)
        }

    def _of_query(
        self, table: Relation, given: tuple[str, ...], query: Any, tainted: set[str] | None = None
    ) -> set[str]:
        """Return the volatile columns that a query fills: by position where it is known, else all of them."""
        tainted = self._tainted(query) if tainted is None else tainted
        if query is None:
            return self._defaults(table)
        if query.valuesLists:
            return self._of_values(table, given, query.valuesLists, tainted)
        targets = [target.val for target in query.targetList or ()]
        numbers = query.fromClause is not None or query.op != enums.SetOperation.SETOP_NONE
        is_plain = query.op == enums.SetOperation.SETOP_NONE and not query.withClause
        if is_plain and not any(isinstance(part, ast.A_Star) for part in walk(tuple(targets))):
            return self._of_values(table, given, [targets], tainted, numbers=numbers)
        filled = (
            set(given or self.facts.columns(table)) if self._is_volatile(query, tainted, numbers=numbers) else set()
        )
        return filled | self._of_values(table, given, [], tainted, numbers=numbers)

    def _of_values(
        self,
        table: Relation,
        given: tuple[str, ...],
        rows: Iterable[Sequence[Any]],
        tainted: set[str],
        *,
        numbers: bool = False,
    ) -> set[str]:
        columns, defaults = given or tuple(self.facts.columns(table)), self._defaults(table, numbers=numbers)
        found = defaults - set(given) if given else set()
        for row in rows:
            found |= defaults & set(columns[len(row) :])
            for column, value in zip(columns, row, strict=False):
                if self._is_volatile(value, tainted, numbers=numbers) or (
                    isinstance(value, ast.SetToDefault) and column in defaults
                ):
                    found.add(column)
        return found

    def _of_alter(self, node: Any) -> set[str]:
        found = set()
        for cmd in node.cmds:
            if cmd.subtype == A.AT_AddColumn:
                name = cmd.def_.colname
                if name in self.declared or is_numbered(cmd.def_) or self._is_volatile(cmd.def_.constraints, set()):
                    found.add(name)
            elif self._is_changed(node, cmd):
                found.add(cmd.name)
        return found

    def _is_changed(self, node: Any, cmd: Any) -> bool:
        """Tell whether a subcommand makes values of its column volatile, or those that it gets later."""
        if cmd.subtype == A.AT_ColumnDefault:
            return any(map(_is_moment, walk(cmd.def_)))
        return cmd.subtype == A.AT_AlterColumnType and self._is_volatile(cmd.def_.raw_default, self._tainted(node))

    def _defaults(self, table: Relation, *, numbers: bool = False) -> set[str]:
        """Return the columns with a volatile default; with ``numbers`` identity columns, too."""
        numbers, found = numbers or self.all_numbers, columns_of(self.facts.conn, [table.oid])[table.oid].values()
        return {
            each.name
            for each in found
            if (each.expression and self._is_volatile(_value(each.expression), set(), numbers=numbers))
            or (numbers and each.identity)
        }

    def _generated(self, table: Relation, volatile: set[str]) -> set[str]:
        """Return the columns that are generated from volatile ones."""
        found = columns_of(self.facts.conn, [table.oid])[table.oid].values()
        return {each.name for each in found if each.expression and volatile & {*column_names(_value(each.expression))}}

    def _tainted(self, node: Any) -> set[str]:
        """Return the columns that are known to be volatile, of the tables that a statement names."""
        found: set[str] = set()
        for part in walk(node):
            for table in self._family(part) if isinstance(part, ast.RangeVar) else ():
                columns = self.found.columns.get(self._name(table), set())
                found |= set(self.facts.columns(table)) if columns is None else columns
        return found

    def _is_volatile(self, node: Any, tainted: set[str], *, numbers: bool = False) -> bool:
        """Tell whether an expression calls a function that is not immutable, or reads a volatile column.

        Sequences give the same numbers on both databases, so they are not volatile. With ``numbers`` they are: rows
        are numbered in the order in which a table is read, and that differs.
        """
        numbers = numbers or self.all_numbers
        parts = list(walk(node))
        if any(isinstance(part, ast.SQLValueFunction) or _is_moment(part) for part in parts) or tainted.intersection(
            column_names(node)
        ):
            return True
        if tainted and any(isinstance(part, ast.A_Star) for part in parts):
            return True
        called = set(functions_in(node)) - (set() if numbers else {"nextval"})
        known: Mapping[str, bool] = {
            str(row["name"]): bool(row["is_immutable"])
            for row in (self.facts.rows("functions", names=sorted(called)) if called else ())
        }
        return not all(known.get(name, False) for name in called)


def _value(text: str) -> Any:
    return parsed(f"SELECT {text}")


def _is_moment(node: Any) -> bool:
    """Tell whether a constant is a word for a moment, which becomes a time when the statement is read."""
    value = node.val if isinstance(node, ast.A_Const) and not node.isnull else None
    return isinstance(value, ast.String) and is_moment(value.sval)


def _with_moments(columns: Sequence[Any]) -> set[str]:
    """Return the columns of a new table whose default is a moment: the one when it was created."""
    defined = (column for column in columns if isinstance(column, ast.ColumnDef))
    return {column.colname for column in defined if any(map(_is_moment, walk(column.constraints or ())))}


def _sums(conn: Connection, table: TableName, without: set[str]) -> TableSum:
    return checksums.checksums(conn, [table], without={table: without})[table]


def _difference(plain: Connection, safe: Connection, table: TableName, one: TableSum, other: TableSum) -> str:
    apart = checksums.difference(plain, safe, table, shared_columns=True)
    keys = ", ".join(sample.key for sample in apart.samples[:3])
    return (
        f"{table}: {counted(one.rows, 'row')} after the plain SQL, {other.rows:,} after the plan; "
        f"{apart.missing:,} missing, {apart.changed:,} other, {apart.new:,} new ({keys})"
    )

"""What a statement converts by the session's TimeZone: casts that are written, and those to a column's type.

Types are followed through columns, constants, casts and the functions of times. What has no type here is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pglast import ast, enums

from pgrunbook.database.catalog import Catalog
from pgrunbook.effects.time_zone import INSTANT, LITERAL, LOCAL, depends
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.time_texts import names_zone
from pgrunbook.sql.tree import constraint_kind, relation, subcommand, text, type_word

V, X = enums.SQLValueFunctionOp, enums.A_Expr_Kind
_NOWS = ("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp")
_VALUES = {
    V.SVFOP_CURRENT_TIMESTAMP: INSTANT, V.SVFOP_CURRENT_TIMESTAMP_N: INSTANT, V.SVFOP_CURRENT_DATE: "date",
    V.SVFOP_LOCALTIMESTAMP: "timestamp", V.SVFOP_LOCALTIMESTAMP_N: "timestamp", V.SVFOP_CURRENT_TIME: "timetz",
    V.SVFOP_CURRENT_TIME_N: "timetz", V.SVFOP_LOCALTIME: "time", V.SVFOP_LOCALTIME_N: "time",
}  # fmt: skip
_RETURNS = {
    "to_date": "date", "make_date": "date", "make_timestamp": "timestamp", "make_time": "time", "to_char": "text",
    "concat": "text", "format": "text", "extract": "numeric", "date_part": "float8", "make_timestamptz": INSTANT,
    "date_trunc": INSTANT, "to_timestamp": INSTANT, **dict.fromkeys(_NOWS, INSTANT),
}  # fmt: skip
_COMPARED = ("=", "<>", "!=", "<", "<=", ">", ">=")
FIELDS = "a day and an hour"
_ZONED_PATTERNS = ("TZ", "OF")
Columns = Mapping[str, str]


class ZoneUse(NamedTuple):
    """A value that is converted by the session's TimeZone: as it is written, and between which types."""

    value: str
    old: str
    new: str


class Types(Protocol):
    """What is known of the types in a database: each by its internal name, below its domains."""

    def columns(self, name: ast.RangeVar) -> Columns:
        """Return the types of a relation's columns, in their order; {} where it is not known."""

    def base(self, name: ast.TypeName) -> str:
        """Return the type that a name means; an array's begins with "_"."""


@dataclass(frozen=True)
class CatalogTypes:
    """The types that a catalog knows."""

    catalog: Catalog

    def columns(self, name: ast.RangeVar) -> Columns:
        """Return the types of a relation's columns."""
        return {column.name: column.base for column in self.catalog.find(relation(name)).columns.values()}

    def base(self, name: ast.TypeName) -> str:
        """Return the type that a name means."""
        return kind_of(type_word(name), self.catalog).base


def uses(node: Any, types: Types) -> list[ZoneUse]:
    """Return what a statement converts by the session's TimeZone, each once, in order; of constants the first."""
    reading = _Reading(types)
    match node:
        case ast.AlterTableStmt():
            for cmd in node.cmds:
                reading.altered(types.columns(node.relation), cmd)
        case ast.CreateStmt():
            for definition in node.tableElts or ():
                if isinstance(definition, ast.ColumnDef):
                    reading.default(definition, types.base(definition.typeName))
        case ast.InsertStmt() | ast.UpdateStmt() | ast.DeleteStmt() | ast.MergeStmt():
            reading.statement(node)
        case ast.CreateTableAsStmt():
            reading.query(node.query, ())
    return list(dict.fromkeys(reading.found))


@dataclass
class _Reading:
    """Follows types through expressions; ``scope`` has the columns of relations by their aliases, innermost first."""

    types: Types
    scope: list[tuple[str, Columns]] = field(default_factory=list)
    found: list[ZoneUse] = field(default_factory=list)

    # -- statements

    def altered(self, columns: Columns, cmd: Any) -> None:
        """Read a subcommand of ALTER TABLE."""
        match subcommand(cmd):
            case "AlterColumnType":
                self.scope = [("", columns)]
                using, old = cmd.def_.raw_default, columns.get(cmd.name)
                value = using if using is not None else ast.ColumnRef(fields=(ast.String(sval=cmd.name),))
                self.becomes(value, old if using is None else self.type_of(using), self.types.base(cmd.def_.typeName))
            case "AddColumn":
                self.default(cmd.def_, self.types.base(cmd.def_.typeName))
            case "ColumnDefault" if cmd.def_ is not None and cmd.name in columns:
                self.becomes(cmd.def_, self.type_of(cmd.def_), columns[cmd.name])

    def default(self, definition: Any, type_: str) -> None:
        """Read the default of a new column."""
        for constraint in definition.constraints or ():
            if constraint_kind(constraint) == "DEFAULT":
                self.becomes(constraint.raw_expr, self.type_of(constraint.raw_expr), type_)

    def statement(self, node: Any) -> None:
        """Read an INSERT, UPDATE, DELETE or MERGE."""
        columns = self.types.columns(node.relation)
        before = list(self.scope)
        alias = node.relation.alias.aliasname if node.relation.alias else node.relation.relname
        for cte in node.withClause.ctes if node.withClause else ():
            self.query(cte.ctequery, ())
        if isinstance(node, ast.InsertStmt):
            named = [target.name for target in node.cols or ()] or list(columns)
            self.query(node.selectStmt, [columns.get(name, "") for name in named])
            conflict = node.onConflictClause
            self.scope = [(alias, columns), ("excluded", columns), *before]
            self.assigned((conflict.targetList if conflict else None) or (), columns)
        else:
            self.scope = [(alias, columns), *self._sources(node), *before]
            self.assigned(getattr(node, "targetList", None) or (), columns)
            self.each(getattr(node, "whereClause", None), getattr(node, "joinCondition", None))
            for when in getattr(node, "mergeWhenClauses", None) or ():
                self._when(when, columns)
        self.scope = before

    def _when(self, when: Any, columns: Columns) -> None:
        self.each(when.condition)
        if when.values:
            named = [target.name for target in when.targetList or ()] or list(columns)
            for name, value in zip(named, when.values, strict=False):
                self.becomes(value, self.type_of(value), columns.get(name, ""))
        else:
            self.assigned(when.targetList or (), columns)

    def assigned(self, targets: Iterable[Any], columns: Columns) -> None:
        """Read what UPDATE assigns."""
        for target in targets:
            if isinstance(target.val, ast.MultiAssignRef):
                row, place = target.val.source, target.val.colno - 1
                if isinstance(row, ast.RowExpr):
                    value = row.args[place]
                    self.becomes(value, self.type_of(value), columns.get(target.name, ""))
            else:
                self.becomes(target.val, self.type_of(target.val), columns.get(target.name, ""))

    def query(self, node: Any, wanted: Iterable[str]) -> None:
        """Read a query whose columns become values of types; "" is a type that is not known."""
        wanted = list(wanted)
        if isinstance(node, ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt):
            self.statement(node)
        if not isinstance(node, ast.SelectStmt):
            return
        before = list(self.scope)
        for part in (node.larg, node.rarg):
            self.query(part, wanted)
        for row in node.valuesLists or ():
            for place, value in enumerate(row):
                self.becomes(value, self.type_of(value), wanted[place] if place < len(wanted) else "")
        self.scope = [*self._sources(node), *before]
        for place, target in enumerate(node.targetList or ()):
            type_ = wanted[place] if place < len(wanted) else ""
            old = self.type_of(target.val) if type_ else self.settles(target.val, self.type_of(target.val))
            self.becomes(target.val, old, type_)
        self.each(node.whereClause, node.havingClause)
        self.scope = before

    def _sources(self, node: Any) -> Iterator[tuple[str, Columns]]:
        sources = [getattr(node, "fromClause", None), getattr(node, "usingClause", None)]
        sources.append(getattr(node, "sourceRelation", None))
        for name in _relations(tuple(filter(None, sources))):
            yield (name.alias.aliasname if name.alias else name.relname), self.types.columns(name)

    # -- expressions

    def each(self, *nodes: Any) -> None:
        """Read expressions whose values become nothing else."""
        for node in nodes:
            self.settles(node, self.type_of(node))

    def settles(self, node: Any, old: str | None) -> str | None:
        """Note that a value is used as it is, and return its type: an instant of the session is one from now on."""
        if old != LOCAL:
            return old
        self.becomes(node, old, INSTANT)
        return INSTANT

    def becomes(self, node: Any, old: str | None, new: str) -> None:
        """Note that a value of one type becomes one of another type."""
        if not old or not new or not depends(old, new):
            return
        if old == LITERAL and (names_zone(node.val.sval) or any(use[1:] == (old, new) for use in self.found)):
            return  # a file may hold thousands of rows: the first is told for all
        self.found.append(ZoneUse(text(node), "date" if old == LOCAL else old, new))

    def type_of(self, node: Any) -> str | None:
        """Return the type of an expression, None where it is not known; what it converts inside is noted."""
        match node:
            case ast.A_Const():
                return LITERAL if isinstance(node.val, ast.String) else None
            case ast.ColumnRef():
                return self._column(node)
            case ast.TypeCast():
                return self._cast(node)
            case ast.SQLValueFunction():
                return _VALUES.get(node.op)
            case ast.FuncCall():
                return self._call(node, [self.type_of(arg) for arg in node.args or ()])
            case ast.A_Expr():
                return self._operated(node)
            case ast.SubLink():
                self.each(node.testexpr)
                self.query(node.subselect, ())
                return None
            case ast.CoalesceExpr() | ast.MinMaxExpr():
                return self._common(node.args)
            case ast.CaseExpr():
                self.each(node.arg, *(when.expr for when in node.args))
                return self._common([*(when.result for when in node.args), *filter(None, [node.defresult])])
        self._below(node)
        return None

    def _cast(self, node: Any) -> str:
        old, new = self.type_of(node.arg), self.types.base(node.typeName)
        if new == INSTANT and old in (LOCAL, "timestamp", "date"):
            return LOCAL  # its next cast may take it back
        self.becomes(node.arg, old, new)
        return new

    def _below(self, node: Any) -> None:
        if isinstance(node, tuple):
            self.each(*node)
        elif isinstance(node, ast.Node):
            self.each(*(getattr(node, slot) for slot in node))

    def _column(self, node: Any) -> str | None:
        words = [part.sval for part in node.fields if isinstance(part, ast.String)]
        if len(words) < len(node.fields):
            return None
        there = [columns for alias, columns in self.scope if len(words) == 1 or alias == words[-2]]
        return next((columns[words[-1]] for columns in there if words[-1] in columns), None)

    def _common(self, nodes: Iterable[Any]) -> str | None:
        typed = [(node, self.settles(node, self.type_of(node))) for node in nodes]
        known = [type_ for _, type_ in typed if type_ not in (None, LITERAL)]
        wanted = (INSTANT if INSTANT in known else known[0]) if known else None
        for node, old in typed:
            self.becomes(node, old, wanted or "")
        return wanted or (LITERAL if typed and len(typed) == 1 and typed[0][1] == LITERAL else None)

    def _call(self, node: Any, args: list[str | None]) -> str | None:
        name: str = node.funcname[-1].sval
        given: Any = node.args
        match name, args:
            case "to_char", ["local timestamptz", _]:
                return "text"
            case "date_trunc", [_, "date" | "local timestamptz"]:
                return LOCAL
        args = [self.settles(value, old) for value, old in zip(given or (), args, strict=True)]
        match name, args:
            case "timezone", [_, old]:
                return self._at_time_zone(given[1], old)
            case "date_trunc", [_, old]:
                self._fields(node, old)
                return None if old == LITERAL else old
            case "min" | "max", [old] if old != LITERAL:
                return old
            case "to_timestamp", [_, _] if not any(word in text(given[1]).upper() for word in _ZONED_PATTERNS):
                self.found.append(ZoneUse(text(node), "date", INSTANT))
            case "make_timestamptz", _ if len(args) == _MAKE_WITHOUT_ZONE:
                self.found.append(ZoneUse(text(node), "date", INSTANT))
            case "extract" | "date_part", [_, old] if "epoch" not in text(given[0]).lower():
                self._fields(node, old)
            case "to_char", [old, _]:
                self._fields(node, old)
        return _RETURNS.get(name)

    def _fields(self, node: Any, old: str | None) -> None:
        if old == INSTANT:
            self.found.append(ZoneUse(text(node), INSTANT, FIELDS))

    def _at_time_zone(self, value: Any, old: str | None) -> str | None:
        if old in ("timestamp", "timetz"):
            return INSTANT if old == "timestamp" else old
        if old == "time":
            self.becomes(value, old, "timetz")
            return "timetz"
        if old in ("date", LITERAL):  # of the two functions the server takes that for timestamptz
            self.becomes(value, old, INSTANT)
        return None if old is None else "timestamp"

    def _operated(self, node: Any) -> str | None:
        left, right = (self.settles(part, self.type_of(part)) for part in (node.lexpr, node.rexpr))
        sign = node.name[-1].sval if node.name else ""
        if sign in _COMPARED and node.kind in (X.AEXPR_OP, X.AEXPR_DISTINCT, X.AEXPR_NOT_DISTINCT):
            wanted = INSTANT if INSTANT in (left, right) else ""
            self.becomes(node.lexpr, left, wanted)
            self.becomes(node.rexpr, right, wanted)
            return "bool"
        if sign == "||":
            for value, old in ((node.lexpr, left), (node.rexpr, right)):
                self.becomes(value, old, "text" if old in (INSTANT, "tstzrange") else "")
            return "text"
        if sign in ("+", "-") and left == "date" and right in ("time", "interval"):
            return "timestamp"
        if sign in ("+", "-") and left in (INSTANT, "timestamp") and right not in (INSTANT, "timestamp", LITERAL):
            return left
        return None


_MAKE_WITHOUT_ZONE = 6


def _relations(node: Any) -> Iterator[ast.RangeVar]:
    """Yield the relations that FROM names, without those in its subqueries."""
    match node:
        case ast.RangeVar():
            yield node
        case ast.JoinExpr():
            yield from _relations(node.larg)
            yield from _relations(node.rarg)
        case tuple():
            for part in node:
                yield from _relations(part)

"""Values that a DO block puts together before it executes something: of variables, loops over lists, and texts.

A variable stands for the expression that it was given, which reads catalogs only. Used by :mod:`do_branches`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pglast import ast, enums

from pgrunbook.sql.deparse import mapped
from pgrunbook.sql.do_guard import is_of_catalog
from pgrunbook.sql.tree import column_names, quoted, trees, walk

MOST_TURNS = 1_000
MOST_PARTS = 1_000  # v := v || v doubles the expression of v each time
# Types whose values are the same in a variable as in an expression that is cast to them.
_TYPES = {"text", "int4", "int8", "bool", "name", "oid", "regclass", "regtype"}
# What a query may call that a block asks: nothing that does anything else.
_READS = {
    "count", "min", "max", "bool_or", "bool_and", "to_regclass", "to_regtype", "to_regproc", "to_regnamespace", "lower",
    "upper", "format_type", "pg_get_constraintdef", "pg_get_indexdef", "pg_get_expr", "current_schema",
    "current_database", "quote_ident", "quote_literal", "format", "concat", "unnest",
}  # fmt: skip
# What the server counts, or what is another thing on a branch.
_COUNTED = ("pg_stat", "pg_locks", "pg_settings", "pg_prepared", "pg_replication", "pg_database", "pg_tablespace")
_ESTIMATES = frozenset({
    "reltuples", "relpages", "relallvisible", "relfrozenxid", "relminmxid", "last_value", "ordinal_position", "xmin",
})  # fmt: skip
_TAKING = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_FORMAT = re.compile(r"%(.?)", re.DOTALL)
_ASSIGNMENT = re.compile(r"\s*(?P<name>\w+)\s*:?=\s*(?P<value>.*)", re.DOTALL)
_FOUND = "found"
_OUTERMOST = "inline_code_block"  # the label that PL/pgSQL gives a DO block
_NAME_BYTES = 64


class UnknownValueError(Exception):
    """A part of a block whose effect cannot be told before; its text says why, as a clause."""


# What the server answers to a query of its catalogs: for each row its columns, by name, as expressions.
Ask = Callable[[Any], Sequence[Mapping[str, Any]]]
_ROWS_READ = "it loops over rows"


class DoValues:
    """The variables of a block by their names, each with the expression that it has now; FOUND is one of them.

    A record has one for each of its fields, under both names. ``labels`` are those of blocks and loops.
    """

    def __init__(self, datums: Sequence[Any], ask: Ask | None = None, labels: Iterable[str] = ()) -> None:
        """Read the declarations. Raises UnknownValueError for a type whose values may change when they are assigned."""
        self._ask, self._labels = ask, {*labels, _OUTERMOST}
        self._records: set[str] = set()
        self._values: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        # What was read as PostgreSQL's own: the names in it are to be resolved before it is believed.
        self.trusted: list[Any] = []
        # Names that were read as those of variables; where the server takes columns first, they may be these.
        self.named: set[str] = set()
        self._names = [next(iter(datum.values())).get("refname", "") for datum in datums]
        for kind, datum in (next(iter(datum.items())) for datum in datums):
            if "lineno" in datum and kind != "PLpgSQL_row":
                self._declare(kind, datum)

    def _declare(self, kind: str, datum: Any) -> None:
        name, given = datum["refname"], datum.get("default_val")
        if kind == "PLpgSQL_rec" and given is None:
            self._records.add(name)
            return
        type_ = datum.get("datatype", {}).get("PLpgSQL_type", {}).get("typname", "").removeprefix("pg_catalog.")
        again = name in self._types and (given is not None or self._types[name] != type_)
        if kind != "PLpgSQL_var" or type_ not in _TYPES or again:
            raise UnknownValueError(f"nobody can tell the values of its variable {name}")
        self._types[name] = type_
        if given is not None:
            self.assign(name, self.value(given))

    def assign(self, name: str, value: Any) -> None:
        """Give a variable an expression; what it calls and reads has to be the catalog's."""
        _refuse_large(value)
        if name not in self._types or not is_read_only(value):
            raise UnknownValueError(f"the value of {name} does not come from the catalogs alone")
        self._values[name] = ast.TypeCast(arg=value, typeName=_type(self._types[name]))
        self.trusted.append(self._values[name])

    def ask(self, query: str) -> None:
        """Note the query that says what FOUND is now."""
        (node,) = trees(query)
        node = self.replaced(node)
        _refuse_large(node)
        if not is_read_only(node):
            raise UnknownValueError("it asks more than the catalogs, or calls what may do more (PERFORM)")
        self._values[_FOUND] = ast.SubLink(subLinkType=enums.SubLinkType.EXISTS_SUBLINK, subselect=node)
        self.trusted.append(node)

    def forget_found(self) -> None:
        """Note that nobody knows what FOUND is now."""
        self._values.pop(_FOUND, None)

    def select_into(self, query: str, target: Any) -> None:
        """Give a variable the first row of a query, which says what FOUND is, too."""
        fields = target.get("PLpgSQL_row", {}).get("fields", ())
        (node,) = trees(query)
        if not isinstance(node, ast.SelectStmt) or len(fields) != 1 or len(node.targetList or ()) != 1:
            raise UnknownValueError("it takes several values, or those of a statement that writes, into variables")
        node = self.replaced(node)
        if node.limitCount is None:
            node.limitCount, node.limitOption = _number(1), enums.LimitOption.LIMIT_OPTION_COUNT
        self.assign(fields[0]["name"], ast.SubLink(subLinkType=enums.SubLinkType.EXPR_SUBLINK, subselect=node))
        self._values[_FOUND] = ast.SubLink(subLinkType=enums.SubLinkType.EXISTS_SUBLINK, subselect=node)

    def expression(self, given: Any) -> Any:
        """Return the SELECT of an expression of the parser of PL/pgSQL, with the values of variables."""
        (node,) = trees(f"SELECT {given['PLpgSQL_expr']['query']}")
        return self.replaced(node)

    def value(self, given: Any) -> Any:
        """Return such an expression itself."""
        node = self.expression(given)
        if node.fromClause or len(node.targetList) != 1:
            raise UnknownValueError("it takes a value from rows")
        return node.targetList[0].val

    def set(self, given: Any) -> None:
        """Execute an assignment."""
        found = _ASSIGNMENT.fullmatch(given["PLpgSQL_expr"]["query"])
        if found is None:
            raise UnknownValueError("it assigns a part of a variable")
        self.assign(found["name"].lower(), self.value({"PLpgSQL_expr": {"query": found["value"]}}))

    def replaced(self, node: Any) -> Any:
        """Return a tree with values in the place of variables."""

        def change(part: Any) -> Any:
            if not isinstance(part, ast.ColumnRef):
                return part
            name = self._variable(part)
            if name and name not in self._values:
                raise UnknownValueError(f"nobody can tell the value of {name}")
            self.named |= {name} if name else set()
            return self._values[name] if name else part

        return mapped(node, change)

    def filled(self, node: Any) -> Any:
        """Return a statement that changes rows with constants in the place of variables."""
        if not isinstance(node, _TAKING):
            self.refuse_variables(node)
            return node
        used = list(self._used(node))
        for name in used:
            if name not in self._values or constant(self._values[name]) is None:
                raise UnknownValueError(f"a statement of it takes the value of {name}, which nobody can tell")
        return self.replaced(node) if used else node

    def using(self, node: Any, given: Sequence[Any]) -> Any:
        """Return a statement of EXECUTE with constants in the place of the parameters that USING gives."""
        values = [self.value(each) for each in given]
        if any(constant(value) is None for value in values):
            raise UnknownValueError("it executes a text with values that nobody can tell (USING)")
        self.trusted += values
        typed = dict(enumerate(map(_typed, values), 1))

        def change(part: Any) -> Any:
            if not isinstance(part, ast.ParamRef):
                return part
            if part.number not in typed:
                raise UnknownValueError(f"a text that it executes takes ${part.number}, which USING does not give")
            return typed[part.number]

        return mapped(node, change) if any(isinstance(part, ast.ParamRef) for part in walk(node)) else node

    def _used(self, node: Any) -> Iterator[str]:
        for part in walk(node):
            if isinstance(part, ast.ColumnRef) and (name := self._variable(part)):
                yield name

    def _variable(self, part: ast.ColumnRef) -> str:
        """Return the name of the variable that a name may mean, also behind a label; "" for that of a column."""
        first = getattr(part.fields[0], "sval", "")
        if first == _FOUND or first in self._types.keys() | self._records | self._labels:
            return ".".join(getattr(field, "sval", "*") for field in part.fields)
        return ""

    def refuse_variables(self, node: Any) -> None:
        """Raise UnknownValueError where a statement names a variable, which it does not take."""
        for name in self._used(node):
            raise UnknownValueError(f"a statement of it takes the value of {name}, which nobody can tell")

    def turns(self, word: str, loop: Any) -> Iterator[None]:
        """Give the variable of a loop its values in turn. Raises UnknownValueError where these are not constant."""
        if word == "PLpgSQL_stmt_fors" and (rows := self._catalog_rows(loop)) is not None:
            yield from self._turns_of(rows)
        else:
            name, values = self._numbers(loop) if word == "PLpgSQL_stmt_fori" else self._list(word, loop)
            yield from self._turns_of([{name: value} for value in values])
        self.forget_found()

    def _turns_of(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        if len(rows) > MOST_TURNS:
            raise UnknownValueError(f"it loops more than {MOST_TURNS:,} times")
        for row in rows:
            for name, value in row.items():
                if "." in name:
                    self._values[name] = value
                else:
                    self.assign(name, value)
            yield
        for name in rows[0] if rows else ():
            self._values.pop(name, None)

    def _catalog_rows(self, loop: Any) -> Sequence[Mapping[str, Any]] | None:
        """Return the variables of each turn of a loop over catalogs, None for a loop over a list of constants."""
        fields = loop["var"].get("PLpgSQL_row", {}).get("fields", ())
        (node,) = trees(loop["query"]["PLpgSQL_expr"]["query"])
        node = self.replaced(node)
        if fields and _rows(node) is not None:
            return None
        if not isinstance(node, ast.SelectStmt) or not is_read_only(node) or not _is_lasting(node):
            raise UnknownValueError(_ROWS_READ)
        self.trusted.append(node)
        if self._ask is None:
            raise UnknownValueError("it loops over rows of the catalogs")
        record = loop["var"].get("PLpgSQL_rec", {}).get("refname")
        rows = [{name: row[name] for name in row if name not in _ESTIMATES} for row in self._ask(node)]
        if record is not None:
            return [{f"{record}.{name}": value for name, value in row.items()} for row in rows]
        names = [field["name"] for field in fields]
        if any(len(row) != len(names) for row in rows):
            raise UnknownValueError("it loops over rows with more columns than variables, or fewer")
        return [dict(zip(names, row.values(), strict=True)) for row in rows]

    def _numbers(self, loop: Any) -> tuple[str, Sequence[Any]]:
        ends = [constant(self.value(loop[end])) for end in ("lower", "upper")]
        if {"step", "reverse"} & {*loop} or not all(end is not None and end.isdecimal() for end in ends):
            raise UnknownValueError("it loops over numbers that are not constant, backwards, or by steps")
        first, last = (int(end or 0) for end in ends)
        numbers = range(first, min(last, first + MOST_TURNS) + 1)
        return loop["var"]["PLpgSQL_var"]["refname"], [_number(number) for number in numbers]

    def _list(self, word: str, loop: Any) -> tuple[str, Sequence[Any]]:
        if word == "PLpgSQL_stmt_foreach_a":
            name, found = self._names[loop["varno"]], None if loop.get("slice") else _elements(self.value(loop["expr"]))
        else:
            fields = loop["var"].get("PLpgSQL_row", {}).get("fields", ())
            (node,) = trees(loop["query"]["PLpgSQL_expr"]["query"])
            node = self.replaced(node)
            self.trusted.append(node)
            name, found = fields[0]["name"] if len(fields) == 1 else "", _rows(node)
        if found is None or any(constant(one) is None for one in found):
            raise UnknownValueError("it loops over a list that is not constant")
        return name, found


def _refuse_large(value: Any) -> None:
    """Raise UnknownValueError for a value that is put together of too many parts to be followed."""
    if next(islice(walk(value), MOST_PARTS, None), None) is not None:
        raise UnknownValueError(f"a value of it is put together of more than {MOST_PARTS:,} parts")


def is_read_only(node: Any) -> bool:
    """Tell whether an expression or a query reads catalogs only, and calls nothing that does anything else."""
    writes = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.LockingClause, ast.IntoClause)
    return not any(
        isinstance(part, writes)
        or not is_of_catalog(part)
        or (isinstance(part, ast.FuncCall) and part.funcname[-1].sval not in _READS)
        for part in walk(node)
    )


def _is_lasting(query: Any) -> bool:
    """Tell whether a query of catalogs answers the same on a branch: it reads nothing that the server counts."""
    read = {part.relname for part in walk(query) if isinstance(part, ast.RangeVar)}
    return not any(name.startswith(_COUNTED) for name in read) and not {*column_names(query)} & _ESTIMATES


def cast(value: object, type_: str) -> Any:
    """Return a constant of a type."""
    given = _number(value) if isinstance(value, int) else ast.A_Const(isnull=False, val=ast.String(sval=str(value)))
    return ast.TypeCast(arg=given, typeName=_type(type_))


def _type(name: str) -> Any:
    return ast.TypeName(names=(ast.String(sval=name),), setof=False, pct_type=False, typemod=-1)


def _typed(value: Any) -> Any:
    """Return a constant with the type that a parameter of USING has."""
    is_text = isinstance(value, ast.A_Const) and isinstance(value.val, ast.String)
    return cast(value.val.sval, "text") if is_text else value


def constant(node: Any) -> str | None:
    """Return the text of a constant, or of what is put together of constants; None for what is computed otherwise."""
    match node:
        case ast.A_Const(val=ast.String(sval=value)) | ast.A_Const(val=ast.Float(fval=value)):
            return str(value)
        case ast.A_Const(val=ast.Integer(ival=value)):
            return str(value)
        case ast.TypeCast(arg=arg, typeName=ast.TypeName(names=names, typmods=None, arrayBounds=None)):
            return _cast(constant(arg), names[-1].sval)
        case ast.A_Expr(lexpr=left, rexpr=right, name=(ast.String(sval="||"),)) if left is not None:
            return _joined([left, right])
        case ast.FuncCall(funcname=names, args=args) if args and is_of_catalog(node):
            return _called(names[-1].sval, args)
    return None


def _cast(value: str | None, type_: str) -> str | None:
    if value is None or type_ == "text":
        return value
    is_same = (type_ in ("int4", "int8") and value.isdecimal() and value == str(int(value))) or (
        type_ == "name" and len(value.encode()) < _NAME_BYTES
    )
    return value if is_same else None


def _joined(nodes: Sequence[Any]) -> str | None:
    parts = [constant(node) for node in nodes]
    return None if None in parts else "".join(part or "" for part in parts)


def _called(function: str, args: Sequence[Any]) -> str | None:
    values = [value for value in map(constant, args) if value is not None]
    if len(values) < len(args):
        return None
    match function, values:
        case "quote_ident", [value]:
            return quoted(value)
        case "quote_literal", [value]:
            return _literal(value)
        case "concat", _:
            return "".join(values)
        case "format", [pattern, *given]:
            return _formatted(pattern, given)
    return None


def _formatted(pattern: str, given: Sequence[str]) -> str | None:
    written: dict[str, Callable[[str], str]] = {"s": str, "I": quoted, "L": _literal}
    signs = [sign for sign in _FORMAT.findall(pattern) if sign != "%"]
    if not {*signs} <= {*written} or len(signs) > len(given):
        return None
    values = iter(given)
    return _FORMAT.sub(lambda found: "%" if found[1] == "%" else written[found[1]](next(values)), pattern)


def _literal(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'" if "\\" not in value else "E'" + doubled.replace("\\", "\\\\") + "'"


def _rows(query: Any) -> Sequence[Any] | None:
    """Return the values of SELECT unnest(ARRAY[...]), also behind FROM, and of VALUES with one column."""
    kept = (
        "whereClause",
        "sortClause",
        "limitCount",
        "limitOffset",
        "distinctClause",
        "withClause",
        "larg",
        "groupClause",
    )
    if not isinstance(query, ast.SelectStmt) or any(getattr(query, slot) for slot in kept):
        return None
    match query:
        case ast.SelectStmt(valuesLists=lists) if lists:
            return [one[0] for one in lists] if {len(one) for one in lists} == {1} else None
        case ast.SelectStmt(fromClause=None, targetList=(ast.ResTarget(val=ast.FuncCall() as call),)):
            return _unnested(call)
        case ast.SelectStmt(
            fromClause=(ast.RangeFunction(ordinality=False, functions=((ast.FuncCall() as call, _),)),),
            targetList=(ast.ResTarget(val=ast.ColumnRef()),),
        ):
            return _unnested(call)
    return None


def _unnested(call: Any) -> Sequence[Any] | None:
    is_unnest = call.funcname[-1].sval == "unnest" and is_of_catalog(call) and len(call.args or ()) == 1
    return _elements(call.args[0]) if is_unnest else None


def _elements(node: Any) -> Sequence[Any] | None:
    node = node.arg if isinstance(node, ast.TypeCast) and node.typeName.names[-1].sval in _TYPES else node
    return node.elements or () if isinstance(node, ast.A_ArrayExpr) else None


def _number(value: int) -> Any:
    return ast.A_Const(isnull=False, val=ast.Integer(ival=value))

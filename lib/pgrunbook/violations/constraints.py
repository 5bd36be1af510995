"""The demands of constraints and unique indexes on rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast

from pgrunbook.database.queries import load
from pgrunbook.effects.table_after import primary_key
from pgrunbook.errors import WrongInput
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import columns_in, constraint_kind, quoted, strings
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.world import JudgedTable, UnclearError, World, columns_below

_NO_VALUE = ("row holds NULL", "rows hold NULL")
_OTHER = "o"
_EQUAL = (ast.String(sval="="),)


def constraint(world: World, table: JudgedTable, node: Any, *, only: bool = False) -> Iterator[RowDemand]:
    """Yield the demands of a new constraint; none for one that is NOT VALID or NOT ENFORCED."""
    if table.now.kind == "f":
        return  # the rows of a foreign table are not read
    kind, what = constraint_kind(node), _named(table, node)
    if kind in ("CHECK", "FOREIGN", "NOTNULL") and node.skip_validation:
        return
    if kind == "CHECK":
        yield demand(what, table, lambda: check(world, table, what, node.raw_expr, only=only or node.is_no_inherit))
    elif kind == "FOREIGN":
        yield demand(what, table, lambda: _foreign_key(world, table, what, node))
    elif kind == "NOTNULL":
        (name,) = strings(node.keys)
        yield not_null(world, table, name, only=only or node.is_no_inherit)
    elif kind in ("UNIQUE", "PRIMARY"):
        yield from _key(world, table, node, what, kind)
    elif kind == "EXCLUSION":
        pairs = tuple((element, operator) for element, operator in node.exclusions)
        yield demand(what, table, lambda: _apart(world, table, what, pairs, node.where_clause))


def index(world: World, table: JudgedTable, node: Any) -> Iterator[RowDemand]:
    """Yield the demands of CREATE UNIQUE INDEX; none for other indexes, or ON ONLY a partitioned table."""
    own = table.now.kind == "p" and not node.relation.inh
    if node.unique and not own:
        what = f"unique index{' ' + identifier(node.idxname) if node.idxname else ''} of {table.label}"
        pairs = tuple((element, _EQUAL) for element in node.indexParams)
        yield demand(
            what, table, lambda: _apart(world, table, what, pairs, node.whereClause, nulls=node.nulls_not_distinct)
        )


def not_null(world: World, table: JudgedTable, name: str, *, only: bool = False) -> RowDemand:
    """Return the demand of NOT NULL: a restored column lacks values that were not captured, others are queried."""
    what = f"NOT NULL of {table.label}.{quoted(name)}"

    def wanted() -> RowDemand:
        column = table.column(name)
        if column.missing is not None:
            words = ("row has no captured value", "rows have no captured value")
            where = "false" if column.never_null else column.missing()
            return row_demand(table, what, where, [], only=only, words=words)
        if column.never_null:
            return RowDemand(what, table.sql, count=lambda: 0)
        value = world.sql(table, _column(name))
        where = f"{value} IS NOT DISTINCT FROM NULL"
        return row_demand(table, what, where, [name], only=only, words=_NO_VALUE)

    return demand(what, table, wanted)


def check(world: World, table: JudgedTable, what: str, node: Any, *, only: bool = False) -> RowDemand:
    """Return the demand of a condition: it is false for no row."""
    return row_demand(table, what, f"{world.sql(table, node)} IS FALSE", sorted(columns_in(node)), only=only)


def demand(what: str, table: JudgedTable, build: Any) -> RowDemand:
    """Return the demand that ``build`` makes, or one that says why it is unknown."""
    try:
        return build()  # type: ignore[no-any-return]
    except UnclearError as reason:
        return RowDemand(what, table.sql, unclear=str(reason))
    except WrongInput as reason:
        return RowDemand(what, table.sql, unclear=f"unknown: it cannot be written as a query ({reason.detail})")


def row_demand(
    table: JudgedTable, what: str, where: str, names: Sequence[str], *, only: bool = False, **more: Any
) -> RowDemand:
    """Return a demand on a table's rows, whose samples show these columns."""
    columns = [table.columns[name] for name in names if name in table.columns]
    today = dict.fromkeys(each for column in columns for each in columns_below(column.node))
    return RowDemand(
        what,
        table.sql,
        table.key,
        table.source(only=only),
        where,
        tuple((each, f"t.{identifier(each)}") for each in today if each not in table.key),
        as_today=all(column.today for column in columns),
        **more,
    )


def from_today(world: World, table: JudgedTable, definition: str, name: str) -> Iterator[RowDemand]:
    """Yield the demands of a constraint that exists today, in today's names."""
    if table.was is None:
        return
    node = _constraint(definition, name)
    for each in columns_in(node.raw_expr) | set(strings(node.fk_attrs) + strings(node.keys)):
        if each in table.types and all(column.today != each for column in table.columns.values()):
            because = f"unknown: {table.label} no longer has column {quoted(each)} as it is today"
            yield RowDemand(_named(table, node), table.sql, unclear=because)
            return
    columns = {column.today: column for column in table.columns.values() if column.today}
    yield from constraint(world, replace(table, columns=columns), node)


def defined(world: World, table: JudgedTable, definition: str, name: str) -> Iterator[RowDemand]:
    """Yield the demands of a constraint that the way back adds without looking at the rows."""
    yield from constraint(world, table, _constraint(definition, name))


def _constraint(definition: str, name: str) -> Any:
    return parsed(f"ALTER TABLE t ADD CONSTRAINT {quoted(name)} {definition.removesuffix(' NOT VALID')}").cmds[0].def_


def _named(table: JudgedTable, node: Any) -> str:
    word = {"FOREIGN": "FOREIGN KEY", "PRIMARY": "PRIMARY KEY", "EXCLUSION": "EXCLUDE"}
    kind = constraint_kind(node)
    if node.conname:
        return f"constraint {identifier(node.conname)} of {table.label}"
    return f"{word.get(kind, kind)} constraint of {table.label}"


def _column(name: str) -> Any:
    return ast.ColumnRef(fields=(ast.String(sval=name),), location=-1)


def _key(world: World, table: JudgedTable, node: Any, what: str, kind: str) -> Iterator[RowDemand]:
    """Yield the demands of UNIQUE and PRIMARY KEY; one that adopts an index demands only NOT NULL."""
    names = strings(node.keys)
    if node.indexname:
        names = next((index.keys for index in table.now.indexes if index.name == node.indexname), ())
    if kind == "PRIMARY":
        for each in names:
            if not table.is_not_null(each):
                yield not_null(world, table, each)
    if node.indexname:
        return
    overlap = (ast.String(sval="&&"),)
    pairs = tuple(
        (ast.IndexElem(name=each), overlap if node.without_overlaps and each == names[-1] else _EQUAL) for each in names
    )
    yield demand(what, table, lambda: _apart(world, table, what, pairs, None, nulls=node.nulls_not_distinct))


def _apart(
    world: World, table: JudgedTable, what: str, pairs: Sequence[tuple[Any, Any]], where: Any, *, nulls: bool = False
) -> RowDemand:
    """Return the demand that no two rows conflict by these operators; ``nulls`` counts NULLs as equal."""
    mine, others = ([_element(world, table, element, alias) for element, _ in pairs] for alias in ("t", _OTHER))
    if nulls:  # records with NULLs in the same place are equal, and are hash-joined as fast as values
        alike = [f"CAST(ROW({', '.join(mine)}) AS record) = CAST(ROW({', '.join(others)}) AS record)"]
    else:
        operators = [".".join([*map(quoted, strings(o)[:-1]), strings(o)[-1]]) for _, o in pairs]
        alike = [f"{a} OPERATOR({o}) {b}" if "." in o else f"{a} {o} {b}"
                 for a, o, b in zip(mine, operators, others, strict=True)]  # fmt: skip
    if where is not None:
        alike.append(world.sql(table, where, _OTHER))
    alike.append(f"({_OTHER}.tableoid, {_OTHER}.ctid) <> (t.tableoid, t.ctid)")
    exists = f"EXISTS (SELECT FROM {table.source(only=True, alias=_OTHER)} WHERE {' AND '.join(alike)})"
    if where is not None:
        exists = f"{world.sql(table, where)} AND {exists}"
    names = [each for element, _ in pairs for each in ([element.name] if element.name else columns_in(element.expr))]
    return row_demand(
        table,
        what,
        exists,
        names,
        only=True,
        words=("row conflicts with another row", "rows conflict with one another"),
    )


def _element(world: World, table: JudgedTable, element: Any, alias: str) -> str:
    value = world.sql(table, element.expr or _column(element.name), alias)
    if element.collation:
        value = f"({value} COLLATE {'.'.join(map(quoted, strings(element.collation)))})"
    return value


def _foreign_key(world: World, table: JudgedTable, what: str, node: Any) -> RowDemand:
    """Return the demand that each row references a row; MATCH FULL also refuses a key that is partly NULL."""
    parent = world.table(node.pktable)
    names = strings(node.fk_attrs)
    targets = strings(node.pk_attrs) or primary_key(parent.now)
    if len(targets) != len(names):
        raise UnclearError(f"unknown until {parent.label} has its primary key")
    mine = [world.sql(table, _column(each)) for each in names]
    theirs = [world.sql(parent, _column(each), _OTHER) for each in targets]
    found = _refers(parent, mine, theirs, period=bool(node.fk_with_period))
    given = " AND ".join(f"{value} IS NOT NULL" for value in mine)
    where = f"{given} AND NOT {found}"
    if node.fk_matchtype == "f" and len(names) > 1:
        some = " OR ".join(f"{value} IS NOT NULL" for value in mine)
        where = f"({where}) OR (({some}) AND NOT ({given}))"
    words = ("row references no row", "rows reference no row")
    return row_demand(
        table, what, where, names, only=True, words=(f"{words[0]} of {parent.label}", f"{words[1]} of {parent.label}")
    )


def _refers(parent: JudgedTable, mine: list[str], theirs: list[str], *, period: bool) -> str:
    source = parent.source(only=True, alias=_OTHER)
    alike = " AND ".join(f"{b} = {a}" for a, b in zip(mine, theirs, strict=True))
    if not period:
        return f"EXISTS (SELECT FROM {source} WHERE {alike})"
    *keys, mine_at, theirs_at = [*zip(mine[:-1], theirs[:-1], strict=True), mine[-1], theirs[-1]]
    alike = " AND ".join([*(f"{b} = {a}" for a, b in keys), f"{theirs_at} && {mine_at}"])
    covered = load("violations")["is_covered"].format(mine=mine_at, theirs=theirs_at, source=source, where=alike)
    return f"coalesce(({covered}), false)"

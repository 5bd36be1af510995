"""Reading from a database what ``database.routines`` holds: all that given statements may run, as deep as it goes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast
from psycopg.rows import namedtuple_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.routines import Fired, Routine, Routines, of_rule, within
from pgrunbook.sql.calls import named_functions, operators, touched
from pgrunbook.sql.catalog_names import CatalogNames
from pgrunbook.sql.do_branches import names_taken
from pgrunbook.sql.tree import Name, tree


def read(conn: Connection, nodes: Iterable[Any], known: Routines | None = None) -> Routines:
    """Return the routines that statements may run on this database, with those that ``known`` holds already.

    A round reads what the bodies of the round before call, until they call nothing new.
    """
    found = _Reading(conn, known or Routines())
    waiting = list(nodes)
    while waiting:
        waiting = found.read(waiting)
    return replace(found.routines, is_read=True)


def not_of_catalog(conn: Connection, taken: CatalogNames, path: Sequence[str]) -> str:
    """Return why what has one of these names may not be PostgreSQL's own, "" where it is."""
    found = _Reading(conn, Routines())
    found.others(taken)
    return found.routines.not_of_catalog(taken, path)


class _Reading:
    def __init__(self, conn: Connection, known: Routines) -> None:
        self._conn, self.routines = conn, known
        self._names: set[str] = set()
        self._operators: set[str] = set()
        self._relations: set[Name] = set()

    def read(self, nodes: list[Any]) -> list[Any]:
        """Read what some statements run; return the statements in it that were not read before."""
        every = list(nodes)
        every += [node.query for node in nodes if isinstance(node, ast.PrepareStmt)]
        for node in every:
            every += [part.node for part in within(node, self.routines) if part.node is not None]
        names = {name for node in every for name in named_functions(node)}
        signs = {sign for node in every for sign in operators(node)} - self._operators
        relations = {name for node in every for name, _ in touched(node)} - self._relations
        self._operators |= signs
        self._relations |= relations
        for node in every:
            self.others(names_taken(node))
        names |= self._fired(relations) | self._signs(signs)
        return self._named(names - self._names)

    def others(self, taken: CatalogNames) -> None:
        """Read which of these names functions and operators have that are not PostgreSQL's own."""
        if not (taken.functions or taken.operators or taken.variables):
            return
        parameters = {
            "functions": sorted(taken.functions), "operators": sorted(taken.operators),
            "has_variables": bool(taken.variables),
        }  # fmt: skip
        rows = {(row.kind, row.name) for row in self._rows("others", **parameters)}
        self.routines = replace(self.routines, others=self.routines.others | rows)

    def _fired(self, relations: set[Name]) -> set[str]:
        if not relations:
            return set()
        asked = json.dumps([{"schema": name.schema, "name": name.name} for name in relations])
        rows = [
            Fired(Name(row.relation_schema, row.relation_name), row.event, Name(row.schema, row.name))
            for row in self._rows("fired", relations=asked)
        ]
        self.routines = replace(self.routines, fired=(*self.routines.fired, *rows))
        self._ruled(asked)
        return {one.routine.name for one in rows} | {
            one.routine.name for one in self.routines.fired if one.relation.name in {n.name for n in relations}
        }

    def _ruled(self, relations: str) -> None:
        """Read the rules of relations: each is a routine that holds its actions."""
        for row in self._rows("rules", relations=relations):
            made, fired = of_rule(tree(row.sql))
            fired = [one._replace(relation=Name(row.relation_schema, row.relation_name)) for one in fired]
            named = {**self.routines.named, made.name: (made,)}
            self.routines = replace(self.routines, named=named, fired=(*self.routines.fired, *fired))

    def _signs(self, signs: set[str]) -> set[str]:
        if not signs:
            return set()
        found = dict(self.routines.operators)
        rows = self._rows("operators", names=sorted(signs))
        for row in rows:
            found[row.operator] = (*found.get(row.operator, ()), Name(row.schema, row.name))
        self.routines = replace(self.routines, operators=found)
        return {row.name for row in rows}

    def _named(self, names: set[str]) -> list[Any]:
        if not names:
            return []
        self._names |= names
        found = dict(self.routines.named)
        made = [one for name in names for one in found.get(name, ())]
        for row in self._rows("named", names=sorted(names)):
            one = Routine(row.schema, row.name, row.language, row.sql, row.fewest, row.most, row.path)
            if not any(_is_replaced(one, by) for by in made):
                found[row.called] = (*found.get(row.called, ()), one)
        self.routines = replace(self.routines, named=found)
        return [node for name in names for one in found.get(name, ()) for node, _ in one.code.nodes]

    def _rows(self, query: str, **parameters: object) -> list[Any]:
        with self._conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(load("routines")[query].encode(), parameters).fetchall()


def _is_replaced(one: Routine, by: Routine) -> bool:
    """Tell whether a statement before has made a routine of the same name, in that schema or in one not said."""
    return by.name == one.name and by.schema in ("", one.schema) and by.most == one.most

"""Gates of statements that reach further than the object they name: what falls with it, is emptied or read with it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.plan.step import Gate, Procedure
from pgrunbook.safe_forms import name_uses
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import wide_statements
from pgrunbook.sql.deparse import name
from pgrunbook.sql.dropped import ROUTINES
from pgrunbook.sql.tree import dotted, object_kind, strings

_HOW = MappingProxyType({
    "drop": "First release code that no longer uses it; then drop each object by its own name.",
    "rename": "Add the new name beside the old one, move the code, then drop the old name.",
    "rewrite": "Move one table after the other, each by a copy that is swapped in: pgrunbook run swap --target TARGET"
    " -p table=TABLE -p shape='ALTER TABLE {table} SET TABLESPACE SPACE'",
    "reindex": "Write REINDEX INDEX CONCURRENTLY, or REINDEX (CONCURRENTLY), for what has to be rebuilt.",
})  # fmt: skip


def find(case: Case) -> Gate | None:
    """Return the gate of a statement that reaches beyond what it names, None for one that does not on this database."""
    node = case.node
    if isinstance(node, ast.DropStmt):
        return _extension(case) or (_of(node) if _take_along(case) else None)
    if isinstance(node, ast.AlterDomainStmt):
        return _domain(case)
    relation = getattr(node, "relation", None)
    if isinstance(relation, ast.RangeVar) and case.facts.relation(relation) is None:
        return None
    found = _of(node)
    if found is None or found.id != "rename":
        return found
    _, old = wide_statements.renamed(node) or ("", "")
    over = case.facts.relation(relation) if isinstance(relation, ast.RangeVar) else None
    return replace(found, says=found.says + name_uses.told(case, old, over))


def _of(node: Any) -> Gate | None:
    found = wide_statements.reach(node)
    if found is None:
        return None
    by_copy = found.gate in ("rewrite", "reindex")
    procedure: Procedure = "swap" if by_copy else "expand and contract"
    return Gate(id=found.gate, says=found.says, procedure=procedure, how=_HOW[found.gate])


def _take_along(case: Case) -> bool:
    """Tell whether something hangs on what a DROP with CASCADE drops; where that cannot be asked, it counts as so."""
    node = case.node
    if not wide_statements.cascades(node):
        return False
    kind = object_kind(node.removeType)
    if kind == "EXTENSION":
        names = list(strings(node.objects))
        return bool(case.facts.rows("needs_object", kind="pg_extension", oids=_extensions(case, names)))
    if kind in ("TYPE", "DOMAIN"):
        oids = [case.facts.type_oid(name(*strings(entry.names))) for entry in node.objects]
        return bool(case.facts.rows("needs_object", kind="pg_type", oids=[oid for oid in oids if oid]))
    if kind in ROUTINES:
        names = [dotted(entry).name for entry in node.objects]
        oids = [row["oid"] for row in case.facts.rows("routine_oids", names=names)]
        return bool(case.facts.rows("needs_object", kind="pg_proc", oids=oids))
    return True


def _extensions(case: Case, names: list[str]) -> list[int]:
    return [row["oid"] for row in case.facts.rows("extension_oids", names=names)]


def _extension(case: Case) -> Gate | None:
    """Return the gate of dropping an extension that holds tables: their rows go with it, also without CASCADE."""
    if object_kind(case.node.removeType) != "EXTENSION":
        return None
    tables = case.facts.rows("extension_tables", oids=_extensions(case, list(strings(case.node.objects))))
    if not tables:
        return None
    says = f"the extension's tables are dropped with it, and their rows: {', '.join(row['name'] for row in tables)}"
    return Gate(id="drop", says=says, procedure="expand and contract", how=_HOW["drop"])


def _domain(case: Case) -> Gate | None:
    """Return the gate of a constraint on a domain that many rows have to be read for."""
    node = case.node
    adds = node.subtype == "C" and not getattr(node.def_, "skip_validation", False)
    if not adds and node.subtype not in ("O", "V"):
        return None
    type_ = case.facts.type_oid(name(*strings(node.typeName)))
    there = [case.facts.relation_of(row["oid"]) for row in case.facts.rows("domain_tables", type=type_)]
    read = [table.sql for table in there if table and case.facts.has_rows_beyond(table, case.batch_rows)]
    if not read:
        return None
    return Gate(
        id="domain-constraint",
        says=f"all rows of {', '.join(read)} are read while their writers wait",
        procedure="expand and contract",
        how="Add a CHECK to each table instead: NOT VALID first, then VALIDATE CONSTRAINT.",
    )

"""What the names in a release's statements mean: by the search_path that its files set, and what it has made itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.plan.step import Gate
from pgrunbook.sql.calls import DML
from pgrunbook.sql.deparse import name
from pgrunbook.sql.settings import Setting, path_names, settings
from pgrunbook.sql.tree import CASCADE, Name, quoted, relation, strings

_RELATIONS = (enums.ObjectType.OBJECT_TABLE, enums.ObjectType.OBJECT_VIEW, enums.ObjectType.OBJECT_MATVIEW,
              enums.ObjectType.OBJECT_INDEX)  # fmt: skip
_DROPPED = _RELATIONS[:3]
_TYPES = (enums.ObjectType.OBJECT_TYPE, enums.ObjectType.OBJECT_DOMAIN)
_ROLES = ("role", "session_authorization")
_JUDGED = (
    ast.IndexStmt, ast.ReindexStmt, ast.RefreshMatViewStmt, ast.AlterTableStmt, ast.RenameStmt, ast.TruncateStmt,
    ast.UpdateStmt, ast.DeleteStmt, ast.ClusterStmt, ast.DropStmt, ast.MergeStmt, ast.InsertStmt,
    ast.AlterObjectSchemaStmt,
)  # fmt: skip
_TEMPORARY = "pg_temp"
_HOW = "Write the names with their schemas, or set search_path to a constant."


class Names:
    """The names of one release, followed from statement to statement.

    ``applied`` as in the expander: then the session's search_path is the file's, and what was made is told by its
    age. ``path`` is the search_path to judge by, None for that of the session.
    """

    def __init__(self, facts: Facts, *, applied: bool, made: Collection[str] = ()) -> None:
        self._facts, self._applied = facts, applied
        self._before = facts.relation_oids() if applied else None
        self._types = facts.type_oids() if applied else frozenset()
        self._made_types: set[str] = set()
        self._lost = ""
        self._paths: dict[str | None, list[str]] = {}  # of a session in which nothing is applied
        self.path: str | None = None
        home = (self._schemas() or ["public"])[0]
        names = (name.rpartition(".") for name in made)
        self._made = {(schema or home, name) for schema, _, name in names}

    def are_fresh(self, node: Any) -> bool:
        """Tell whether a statement is about nothing but what this release has made."""
        type_ = type_of(node)
        if type_:
            oid = self._facts.type_oid(name(*type_))
            return type_[-1] in self._made_types if self._before is None else oid is not None and oid not in self._types
        names = about(node)
        if self._before is None:
            return bool(names) and all(self._key(relation(name)) in self._made for name in names)
        there = [self._facts.relation(name) for name in names]
        oids = [table.oid for table in there if table is not None]
        if not names or len(oids) < len(there) or not self._before.isdisjoint(oids):
            return False
        along = isinstance(node, ast.TruncateStmt) and node.behavior == CASCADE
        reached = self._facts.rows("reached_relations", oids=oids, along=along, is_dml=isinstance(node, DML))
        return self._before.isdisjoint(row["oid"] for row in reached)

    def unclear(self, node: Any) -> str:
        """Return the name in a statement of which it cannot be told what it means, "" where all are clear."""
        if not self._lost or not isinstance(node, _JUDGED):
            return ""
        bare = [name.relname for name in about(node, _RELATIONS) if not name.schemaname]
        return quoted(bare[0]) if bare else ""

    def gate(self, node: Any) -> Gate:
        """Return the gate of a statement with an unclear name."""
        says = f"it runs as written, because search_path is computed before it ({self._lost}): which "
        says += f"{self.unclear(node)} it means cannot be told"
        return Gate(id="cannot-be-told", says=says, procedure="expand and contract", how=_HOW)

    def follow(self, node: Any, inner: Iterable[Any], place: str) -> None:
        """Take note of what a statement makes, and of what it sets; ``inner`` are the statements that it runs."""
        if self._before is None:
            self._make(node)
        for setting in settings(node):
            self._set(setting, place)
        if any(setting.may_be_search_path for each in inner for setting in settings(each)):
            self._lost = place

    def end_file(self) -> None:
        """What a file has set does not reach the next one."""
        self._lost, self.path = "", None

    def _set(self, setting: Setting, place: str) -> None:
        if setting.name in _ROLES and not self._applied:  # "$user" is another one, and other schemas are open
            self._lost = place
        if not setting.may_be_search_path:
            return
        self._lost = "" if setting.is_known else place
        if not self._applied:
            self.path = setting.value if setting.is_known else None

    def _make(self, node: Any) -> None:
        match node:
            case ast.CreateStmt():
                self._add(node.relation)
            case ast.CreateTableAsStmt():
                self._add(node.into.rel)
            case ast.CreateEnumStmt() | ast.CreateRangeStmt():
                self._made_types.add(strings(node.typeName)[-1])
            case ast.CreateDomainStmt():
                self._made_types.add(strings(node.domainname)[-1])
            case ast.CompositeTypeStmt():
                self._made_types.add(node.typevar.relname)
            case ast.RenameStmt() if type_of(node):
                self._made_types.discard(type_of(node)[-1])
            case ast.RenameStmt() | ast.AlterObjectSchemaStmt() if node.relation is not None:
                self._made.discard(self._key(relation(node.relation)))

    def _add(self, node: ast.RangeVar) -> None:
        home = _TEMPORARY if node.relpersistence == "t" else node.schemaname or (self._schemas() or [""])[0]
        if home in (_TEMPORARY, "") or self._facts.named((home, node.relname)) is None:
            self._made.add((home, node.relname))

    def _key(self, name: Name) -> tuple[str, str]:
        """Return the schema that a name means, and the name: what this release has made stands with what is there."""
        if name.schema:
            return (name.schema, name.name)
        for schema in (_TEMPORARY, *self._schemas()):
            if (schema, name.name) in self._made or self._facts.named((schema, name.name)) is not None:
                return (schema, name.name)
        return ("", name.name)

    def _schemas(self) -> list[str]:
        """Return the search_path, with schemas that are not there yet where the file has set it."""
        named = path_names(self.path or "$user")
        if "$user" not in named:
            return [name for name in named if name not in ("pg_catalog", "")]
        session = self._facts.conn.search_path
        path = self._facts.conn.schemas() if self._applied or session not in self._paths else self._paths[session]
        self._paths[session] = path
        return [name for name in path if name != "pg_catalog" and not name.startswith("pg_temp")]


def type_of(node: Any) -> tuple[str, ...]:
    """Return the name of the type or domain that a statement changes, renames or drops; () for anything else."""
    match node:
        case ast.RenameStmt() if node.renameType in _TYPES:
            return strings(node.object)
        case ast.AlterObjectSchemaStmt() if node.objectType in _TYPES:
            return strings(node.object)
        case ast.AlterEnumStmt() | ast.AlterDomainStmt():
            return strings(node.typeName)
        case ast.DropStmt() if node.removeType in _TYPES and len(node.objects) == 1:
            return strings(node.objects[0].names)
    return ()


def about(node: Any, dropped: Collection[Any] = _DROPPED) -> list[ast.RangeVar]:
    """Return the relations that a statement changes, empties or drops; [] where it is about something else."""
    if isinstance(node, ast.DropStmt):
        names = [strings(entry) for entry in node.objects] if node.removeType in dropped else []
        return [ast.RangeVar(relname=parts[-1], schemaname=parts[-2] if parts[1:] else None) for parts in names]
    if isinstance(node, ast.TruncateStmt):
        return list(node.relations)
    found = getattr(node, "relation", None)
    return [found] if isinstance(found, ast.RangeVar) else []

"""Hazards of changes that running code, or later statements, cannot know: types, sequences, NULLs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.database.catalog import Table
from pgrunbook.effects.type_change import judge
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.sql.tree import CASCADE, Name, changed, dotted, object_kind, quoted, strings, subcommand, type_word

_SERIAL = (
    "CREATE TABLE orders (id serial PRIMARY KEY, total integer NOT NULL, note text);"
    "INSERT INTO orders (total) VALUES (1);"
)
_USED = (
    "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE", "FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "TYPE", "DOMAIN",
    "SCHEMA", "EXTENSION",
)  # fmt: skip
_RELIED = {
    "DropIdentity": "an INSERT without a value for it fails",
    "DropExpression": "its value is no longer computed, and a new row has none",
    "DisableTrig": "what the trigger did no longer happens, for nobody",
    "DisableTrigAll": "what its triggers did no longer happens, foreign keys included",
    "DisableTrigUser": "what its triggers did no longer happens",
    "DisableRule": "the rule no longer acts, for nobody",
}
_SIZES = ("int2", "int4", "int8")


@rule(
    "drop-not-null",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup=_SERIAL,
    bad="ALTER TABLE orders ALTER COLUMN total DROP NOT NULL;",
    good="ALTER TABLE orders ALTER COLUMN total SET DEFAULT 0;",
)
def drop_not_null(scene: Scene) -> Iterator[Note]:
    """A column that always had a value may be NULL from now on."""
    columns = [(t, c.name) for t, c in scene.altered() if subcommand(c) == "DropNotNull" and others_see(t)]
    if columns:
        table = columns[0][0]
        names = ", ".join(quoted(name) for _, name in columns)
        yield Note(
            f"Code that reads {names} of {table.label} meets a NULL that it has never seen: it fails, or counts wrong.",
            "-- first release code that reads NULL; where the column is about to be dropped, nothing is to be done",
        )


@rule(
    "json-column",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup=_SERIAL,
    bad="ALTER TABLE orders ADD COLUMN extra json;",
    good="ALTER TABLE orders ADD COLUMN extra jsonb;",
)
def json_column(scene: Scene) -> Iterator[Note]:
    """A table that is in use gets a column of type json, whose values cannot be compared."""
    added = [c for t, c in scene.altered() if subcommand(c) == "AddColumn" and others_see(t)]
    columns = [c.def_ for c in added if type_word(c.def_.typeName).name == "json"]
    if columns:
        names = ", ".join(quoted(column.colname) for column in columns)
        yield Note(
            f"Queries with SELECT DISTINCT, UNION, GROUP BY or EXCEPT over all columns fail: {names} has no equality.",
            f"{changed(scene.sql, _with_jsonb)};",
        )


def _with_jsonb(node: ast.AlterTableStmt) -> None:
    for cmd in node.cmds:
        if subcommand(cmd) == "AddColumn" and type_word(cmd.def_.typeName).name == "json":
            cmd.def_.typeName.names = (ast.String(sval="jsonb"),)


@rule(
    "sequence-stays-small",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup=_SERIAL,
    bad="ALTER TABLE orders ALTER COLUMN id TYPE bigint;",
    good="ALTER SEQUENCE orders_id_seq AS bigint;",
)
def sequence_stays(scene: Scene) -> Iterator[Note]:
    """A column gets a wider type, and the sequence behind its default stays as narrow as it was."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "AlterColumnType":
            continue
        column = table.columns.get(cmd.name)
        new = judge(column, cmd, scene.catalog).new
        if column is None or column.identity or not _is_wider(column.base, type_word(cmd.def_.typeName).name):
            continue
        own = [s for s in table.of_kind("sequence") if cmd.name in s.columns and s.type in ("", *_narrower(new))]
        for sequence in own:
            if not _is_altered(scene, sequence.name):
                yield Note(
                    f"{sequence.name} ends where {column.type} does: from there on every INSERT fails, although"
                    f" {table.label}.{quoted(cmd.name)} has room.",
                    f"ALTER SEQUENCE {sequence.name} AS {new};",
                )


def _is_wider(old: str, new: str) -> bool:
    return old in _SIZES and new in _SIZES and _SIZES.index(new) > _SIZES.index(old)


def _narrower(new: str) -> tuple[str, ...]:
    words = ("smallint", "integer", "bigint")
    return words[: words.index(new)] if new in words else words


def _is_altered(scene: Scene, sequence: str) -> bool:
    altered = (other.node.sequence for other in scene.scenes if isinstance(other.node, ast.AlterSeqStmt))
    return any(scene.table(name).label == sequence for name in altered)


@rule(
    "drop-used-object",
    Severity.WARNING,
    on=(ast.DropStmt,),
    setup="CREATE TABLE orders (id integer PRIMARY KEY); CREATE VIEW recent AS SELECT id FROM orders;",
    bad="DROP VIEW recent;",
    good="DROP VIEW recent; CREATE VIEW recent AS SELECT id FROM orders;",
)
def drop_used(scene: Scene) -> Iterator[Note]:
    """A view, routine, type or sequence is dropped that running code may still use."""
    node = scene.node
    if not isinstance(node, ast.DropStmt) or object_kind(node.removeType) not in _USED or node.behavior == CASCADE:
        return
    names = [dotted(entry) for entry in node.objects]
    gone = [name for name in names if _is_used(scene, object_kind(node.removeType), name)]
    if gone:
        kind = object_kind(node.removeType).replace("_", " ").replace("MATVIEW", "MATERIALIZED VIEW").lower()
        yield Note(
            f"Code that still uses {kind} {', '.join(map(str, gone))} fails as soon as this commits.",
            "-- first release code that no longer uses it; drop it one release later",
        )


def _is_used(scene: Scene, kind: str, name: Name) -> bool:
    """Whether it was there before these statements, and they do not make it anew."""
    if kind in ("VIEW", "MATVIEW", "FOREIGN_TABLE", "SEQUENCE") and not others_see(scene.catalog.find(name)):
        return False
    return not any(name.name in made(other.node) for other in (*scene.earlier, *scene.later))


def made(node: Any) -> set[str]:
    """Return the names of a view, routine, type or sequence that a statement makes, or gives to another."""
    if isinstance(node, ast.RenameStmt):
        return {node.newname} if node.subname is None else set()
    if isinstance(node, ast.AlterEnumStmt | ast.AlterDomainStmt | ast.AlterTypeStmt):
        return set()
    for field in ("view", "sequence", "into"):
        part = getattr(node, field, None)
        part = getattr(part, "rel", part)
        if isinstance(part, ast.RangeVar):
            return {part.relname}
    words = (getattr(node, field, None) for field in ("funcname", "typeName", "domainname"))
    return {strings(found)[-1] for found in words if isinstance(found, tuple) and found}


@rule(
    "drop-default",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup="CREATE TABLE orders (id integer PRIMARY KEY, state text NOT NULL DEFAULT 'new', note text DEFAULT '');",
    bad="ALTER TABLE orders ALTER COLUMN state DROP DEFAULT;",
    good="ALTER TABLE orders ALTER COLUMN note DROP DEFAULT;",
)
def drop_default(scene: Scene) -> Iterator[Note]:
    """A column that is NOT NULL loses its default."""
    dropped = [(t, c.name) for t, c in scene.altered() if subcommand(c) == "ColumnDefault" and c.def_ is None]
    left = [(t, n) for t, n in dropped if others_see(t) and n in t.columns and t.columns[n].not_null]
    columns = [(table, name) for table, name in left if not _gets_another(scene, table, name)]
    if columns:
        names = ", ".join(f"{table.label}.{quoted(name)}" for table, name in columns)
        yield Note(
            f"Every INSERT of running code that leaves out {names} fails.",
            "-- first release code that writes it",
        )


def _gets_another(scene: Scene, table: Table, column: str) -> bool:
    """Whether the same transaction gives the column a default again, as when its type is replaced."""
    return any(
        subcommand(cmd) == "ColumnDefault" and cmd.def_ is not None and cmd.name == column and altered.key == table.key
        for other in scene.later
        if scene.may_commit_with(other)
        for altered, cmd in other.altered()
    )


@rule(
    "row-security-hides-rows",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup="CREATE TABLE orders (id integer PRIMARY KEY);",
    bad="ALTER TABLE orders ENABLE ROW LEVEL SECURITY;",
    good="CREATE POLICY every ON orders USING (true); ALTER TABLE orders ENABLE ROW LEVEL SECURITY;",
)
def row_security(scene: Scene) -> Iterator[Note]:
    """Row level security is switched on, and no policy lets a row through."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "EnableRowSecurity" or not others_see(table):
            continue
        made_here = {s.node.table.relname for s in scene.scenes if isinstance(s.node, ast.CreatePolicyStmt)}
        if table.name not in made_here and not list(table.of_kind("policy")):
            policy = f"CREATE POLICY every ON {table.label} USING (true);  -- in the same transaction, before"
            yield Note(
                f"Every role but the owner of {table.label} sees no row of it, and can write none.",
                f"{policy}\n{scene.sql};",
            )


@rule(
    "relied-upon-goes",
    Severity.WARNING,
    on=(ast.AlterTableStmt, ast.GrantStmt),
    setup="CREATE TABLE orders (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE);",
    bad="ALTER TABLE orders ALTER COLUMN id DROP IDENTITY;",
    good="ALTER TABLE orders ALTER COLUMN id SET GENERATED BY DEFAULT;",
)
def relied_upon(scene: Scene) -> Iterator[Note]:
    """Something goes on which running code relies: a number, a computed value, a trigger, a key, a right."""
    node = scene.node
    if isinstance(node, ast.GrantStmt) and not node.is_grant and node.objects and not _is_made_here(scene, node):
        yield Note("Whoever used the right fails from the commit on.", "-- first see in the logs who still uses it")
    for table, cmd in scene.altered():
        told = _RELIED.get(subcommand(cmd), "")
        keys = [c for c in table.constraints if c.name == cmd.name and c.kind in ("p", "u")]
        if subcommand(cmd) == "DropConstraint" and keys:
            told = (
                f"INSERT ... ON CONFLICT ({', '.join(keys[0].columns)}) of running code fails, and duplicates come in"
            )
        if told and others_see(table):
            where = f"{table.label}.{quoted(cmd.name)}" if cmd.name else table.label
            yield Note(f"{where}: {told}.", "-- first release code that does without it")


def _is_made_here(scene: Scene, node: Any) -> bool:
    """Whether a right is revoked of objects that these statements make: nobody has used it."""
    names = {part.relname for part in node.objects if isinstance(part, ast.RangeVar)}
    names |= {dotted(part).name for part in node.objects if isinstance(part, ast.ObjectWithArgs)}
    tables = [part for part in node.objects if isinstance(part, ast.RangeVar)]
    new = bool(tables) and not any(others_see(scene.table(part)) for part in tables)
    return new or any(names <= made(other.node) for other in scene.earlier if made(other.node))


_OF_TABLE = {
    "TRIGGER": (ast.CreateTrigStmt, "what it did no longer happens"),
    "RULE": (ast.RuleStmt, "it no longer acts"),
    "POLICY": (ast.CreatePolicyStmt, "roles see no row that only it let through"),
}


@rule(
    "relied-upon-dropped",
    Severity.WARNING,
    on=(ast.DropStmt, ast.AlterPublicationStmt, ast.DropSubscriptionStmt, ast.DropRoleStmt),
    bad="DROP TRIGGER audit ON orders;",
    good="DROP TRIGGER audit ON orders; CREATE TRIGGER audit AFTER UPDATE ON orders EXECUTE FUNCTION log();",
)
def relied_upon_dropped(scene: Scene) -> Iterator[Note]:
    """A trigger, rule, policy, publication or role is dropped, and nothing takes its place."""
    for what, told in _dropped(scene):
        yield Note(f"{what}: {told}.", "-- first see who relies on it; drop it in a release of its own")


def _dropped(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield what a statement drops that others rely on, with what is lost."""
    node = scene.node
    match node:
        case ast.DropStmt() if (kind := object_kind(node.removeType)) in _OF_TABLE:
            for entry in node.objects:
                table = scene.catalog.find(dotted(entry[:-1]))
                if others_see(table) and not _has_another(scene, table, _OF_TABLE[kind][0]):
                    yield f"{kind.lower()} {quoted(entry[-1].sval)} of {table.label}", _OF_TABLE[kind][1]
        case ast.DropStmt() if object_kind(node.removeType) == "PUBLICATION":
            made_here = {s.node.pubname for s in scene.scenes if isinstance(s.node, ast.CreatePublicationStmt)}
            names = [name for name in strings(node.objects) if name not in made_here]
            yield from ((f"publication {quoted(name)}", "its subscribers get no more changes") for name in names)
        case ast.AlterPublicationStmt(action=enums.AlterPublicationAction.AP_DropObjects):
            yield f"publication {quoted(node.pubname)}", "its subscribers get no more changes of what is taken out"
        case ast.DropSubscriptionStmt():
            yield f"subscription {quoted(node.subname)}", "this database gets no more changes"
        case ast.DropRoleStmt():
            made_roles = {s.node.role for s in scene.scenes if isinstance(s.node, ast.CreateRoleStmt)}
            names = [role.rolename for role in node.roles if role.rolename and role.rolename not in made_roles]
            yield from ((f"role {quoted(name)}", "whoever logs in as it fails") for name in names)


def _has_another(scene: Scene, table: Table, kind: type[ast.Node]) -> bool:
    """Whether the same transaction gives a table another trigger, rule or policy."""
    made_ = (s.node for s in scene.scenes if isinstance(s.node, kind) and (s is scene or scene.may_commit_with(s)))
    return any(scene.table(getattr(node, "table", None) or node.relation).key == table.key for node in made_)

"""Inverse of CREATE: a new object is dropped, and a replaced one gets its old definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pglast import ast

from pgrunbook.inverse import name_resolution, naming
from pgrunbook.inverse.reader import CLASSES, Reader
from pgrunbook.inverse.recreation import drop_and_recreate, statements_of
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.tree import object_kind, quoted, strings, text


def table(reader: Reader, way: Way, node: Any) -> None:
    """CREATE TABLE, also FOREIGN."""
    foreign = isinstance(node, ast.CreateForeignTableStmt)
    node = node.base if foreign else node
    if node.if_not_exists and reader.relation(node.relation) is not None:
        return
    parent = reader.relation(node.inhRelations[0]) if node.partbound is not None else None
    if parent is not None and reader.rows("references", oid=parent.oid):
        name = relation_name(reader, node.relation)  # the server does not drop a partition that keys refer to
        way.add(f"ALTER TABLE {parent.label} DETACH PARTITION {name}", f"{name} is a partition no more.")
    _drop_relation(reader, way, "FOREIGN TABLE" if foreign else "TABLE", node.relation)


def table_as(reader: Reader, way: Way, node: Any) -> None:
    """CREATE TABLE AS, CREATE MATERIALIZED VIEW and SELECT INTO."""
    is_select = isinstance(node, ast.SelectStmt)
    into = node.intoClause.rel if is_select else node.into.rel
    if not is_select and node.if_not_exists and reader.relation(into) is not None:
        return
    is_view = not is_select and object_kind(node.objtype) == "MATVIEW"
    _drop_relation(reader, way, "MATERIALIZED VIEW" if is_view else "TABLE", into)


def _drop_relation(reader: Reader, way: Way, word: str, node: Any) -> None:
    name = relation_name(reader, node)
    way.add(f"DROP {word} {name}", f"{name} is dropped.")
    if word == "TABLE":
        way.lossy.append(f"{name}: rows written since are lost with the table")


def relation_name(reader: Reader, node: Any) -> str:
    """Return the name that a relation will have, with its schema."""
    temporary = "pg_temp" if node.relpersistence == "t" else None
    return f"{quoted(node.schemaname or temporary or reader.home)}.{quoted(node.relname)}"


def view(reader: Reader, way: Way, node: Any) -> None:
    """CREATE VIEW; a replaced one is dropped and recreated when the new one has other columns."""
    old = reader.relation(node.view) if node.replace else None
    if old is None or old.kind != "v":
        way.add(f"DROP VIEW {relation_name(reader, node.view)}", "The view is dropped.")
        return
    address = (CLASSES["pg_class"], old.oid, 0)
    before = [column.name for column in reader.columns([old.oid])]
    after = list(strings(node.aliases)) or reader.describe(text(node.query))
    if after is None or len(before) != len(after):
        drop_and_recreate(reader, way, [address], f"DROP VIEW {old.label}")
        return
    for _, statement in statements_of(reader, "pg_class", [address]):
        way.add(statement.replace("CREATE VIEW ", "CREATE OR REPLACE VIEW ", 1), "The old view is created again.")


def index(reader: Reader, way: Way, node: Any) -> None:
    """CREATE INDEX; what it takes over of partitions falls with it, and is created again."""
    over = reader.relation(node.relation)
    if over is None or (node.if_not_exists and reader.named(over.schema, node.idxname) is not None):
        return
    name = node.idxname or naming.of_index(reader, over, node)
    full = f"{quoted(over.schema)}.{quoted(name)}"
    way.add(f"DROP INDEX {full}", f"Index {full} is dropped.")
    if over.kind == "p":
        keys = len(node.indexParams)
        for own in reader.rows("indexes_of_partitions", oid=over.oid, is_unique=bool(node.unique), keys=keys):
            definition = own["definition"].replace(" INDEX ", " INDEX IF NOT EXISTS ", 1)
            way.add(definition, f"The partition has index {own['name']} of its own again.")


def sequence(reader: Reader, way: Way, node: Any) -> None:
    """CREATE SEQUENCE."""
    if not (node.if_not_exists and reader.relation(node.sequence) is not None):
        way.add(f"DROP SEQUENCE {relation_name(reader, node.sequence)}", "The sequence is dropped.")


def function(reader: Reader, way: Way, node: Any) -> None:
    """CREATE FUNCTION; a replaced one gets its old definition."""
    args = [p.argType for p in node.parameters or () if p.mode.name not in ("FUNC_PARAM_OUT", "FUNC_PARAM_TABLE")]
    arguments = ", ".join(text(arg) for arg in args)
    names = strings(node.funcname)
    full = names if len(names) > 1 else (reader.home, *names)
    old = reader.routine(full, arguments) if node.replace else None
    word = "PROCEDURE" if node.is_procedure else "FUNCTION"
    if old is None:
        signature = ", ".join(_type(reader, arg) for arg in args)
        way.add(f"DROP {word} {'.'.join(quoted(name) for name in full)}({signature})", "It is dropped.")
        return
    facts = reader.row("function_facts", oid=old[1]) or {}
    thing = reader.things([old])[0]
    defaults = sum(1 for p in node.parameters or () if p.defexpr is not None)
    named = [p.name or "" for p in node.parameters or ()]
    if defaults > facts["defaults"] or (any(named) and named != facts["names"]):
        drop_and_recreate(reader, way, [old], f"DROP {word} {thing.sql}")
        return
    for _, definition in statements_of(reader, "pg_proc", [old]):
        way.add(definition, f"{thing.identity} has its old definition again.")


def _type(reader: Reader, node: Any) -> str:
    oid = reader.type(node)
    row = reader.row("type_facts", oid=oid) if oid else None
    return str(row["sql"]) if row else text(node)


def trigger(reader: Reader, way: Way, node: Any) -> None:
    """CREATE TRIGGER; a replaced one is dropped and recreated."""
    over = reader.relation(node.relation)
    if over is None:
        return
    old = [row for row in reader.rows("triggers", oids=[over.oid]) if row["name"] == node.trigname]
    drop = f"DROP TRIGGER {quoted(node.trigname)} ON {over.label}"
    if old and node.replace:
        drop_and_recreate(reader, way, [(CLASSES["pg_trigger"], old[0]["oid"], 0)], drop)
    else:
        way.add(drop, "The trigger is dropped.")


def rule(reader: Reader, way: Way, node: Any) -> None:
    """CREATE RULE; a replaced one gets its old definition."""
    over = reader.relation(node.relation)
    if over is None:
        return
    old = [row for row in reader.rows("rules", oid=over.oid) if row["name"] == node.rulename]
    if not (old and node.replace):
        way.add(f"DROP RULE {quoted(node.rulename)} ON {over.label}", "The rule is dropped.")
        return
    for _, statement in statements_of(reader, "pg_rewrite", [(CLASSES["pg_rewrite"], old[0]["oid"], 0)]):
        way.add(statement, "The old rule is created again.")


def policy(reader: Reader, way: Way, node: Any) -> None:
    """CREATE POLICY."""
    over = reader.relation(node.table)
    if over is not None:
        way.add(f"DROP POLICY {quoted(node.policy_name)} ON {over.label}", "The policy is dropped.")


def alter_policy(reader: Reader, way: Way, node: Any) -> None:
    """ALTER POLICY: drop and recreate it, for ALTER cannot remove a condition."""
    over = reader.relation(node.table)
    for row in reader.rows("policies", oid=over.oid) if over else []:
        if over is not None and row["name"] == node.policy_name:
            drop = f"DROP POLICY {quoted(row['name'])} ON {over.label}"
            drop_and_recreate(reader, way, [(CLASSES["pg_policy"], row["oid"], 0)], drop)


def type_(reader: Reader, way: Way, node: Any) -> None:
    """CREATE TYPE and CREATE DOMAIN."""
    if isinstance(node, ast.CompositeTypeStmt):
        name = relation_name(reader, node.typevar)
    else:
        name = _made(reader, _type_name(node))
    way.add(f"DROP TYPE {name}", "The type is dropped.")


def _type_name(node: Any) -> Any:
    return node.domainname if isinstance(node, ast.CreateDomainStmt) else node.typeName


def is_there(reader: Reader, node: Any) -> bool:
    """Tell whether the type that CREATE TYPE makes, or the constraint that ALTER TABLE adds, is there already."""
    if isinstance(node, ast.AlterTableStmt):
        table = reader.relation(node.relation)
        found = reader.constraints([table.oid]) if table else []
        return node.cmds[0].def_.conname in [each.name for each in found]
    composite = isinstance(node, ast.CompositeTypeStmt)
    name = relation_name(reader, node.typevar) if composite else _made(reader, _type_name(node))
    return reader.address("type", [name]) is not None


def statistics(reader: Reader, way: Way, node: Any) -> None:
    """CREATE STATISTICS."""
    over = reader.relation(node.relations[0]) if isinstance(node.relations[0], ast.RangeVar) else None
    if node.defnames:
        name = _made(reader, node.defnames)
        if node.if_not_exists and reader.address("statistics object", strings(node.defnames)):
            return
    elif over is not None:
        name = f"{quoted(over.schema)}.{quoted(naming.of_statistics(reader, over, node))}"
    else:
        return
    way.add(f"DROP STATISTICS {name}", "The statistics are dropped.")


def define(reader: Reader, way: Way, node: Any) -> None:
    """CREATE AGGREGATE, OPERATOR, TYPE, COLLATION and TEXT SEARCH ..., which parse as DefineStmt."""
    kind = object_kind(node.kind)
    name = _made(reader, node.defnames)
    if kind == "AGGREGATE":
        _aggregate(reader, way, node, name)
        return
    if kind == "OPERATOR":
        options = {option.defname: option.arg for option in node.definition}
        sides = [_type(reader, options[side]) if side in options else "NONE" for side in ("leftarg", "rightarg")]
        schema = quoted(node.defnames[0].sval if len(node.defnames) > 1 else reader.home)
        way.add(f"DROP OPERATOR {schema}.{node.defnames[-1].sval} ({', '.join(sides)})", "The operator is dropped.")
        return
    if node.if_not_exists and name_resolution.find(reader, kind, node.defnames):
        return
    words = {"TSDICTIONARY": "TEXT SEARCH DICTIONARY", "TSCONFIGURATION": "TEXT SEARCH CONFIGURATION",
             "TSPARSER": "TEXT SEARCH PARSER", "TSTEMPLATE": "TEXT SEARCH TEMPLATE"}  # fmt: skip
    cascade = " CASCADE" if kind == "TYPE" else ""  # a base type and its functions depend on each other
    way.add(f"DROP {words.get(kind, kind)} {name}{cascade}", "It is dropped.")


def _aggregate(reader: Reader, way: Way, node: Any, name: str) -> None:
    if node.oldstyle:
        raise NoInverseError("cannot be computed: an aggregate in the old style does not list its arguments.")
    args = [parameter.argType for parameter in node.args[0] or ()]
    signature = ", ".join(_type(reader, arg) for arg in args) or "*"
    full = [part.sval for part in node.defnames]
    full = full if len(full) > 1 else [reader.home, *full]
    old = reader.routine(full, ", ".join(text(arg) for arg in args)) if node.replace else None
    if old is not None:
        drop_and_recreate(reader, way, [old], f"DROP AGGREGATE {name}({signature})")
    else:
        way.add(f"DROP AGGREGATE {name}({signature})", "The aggregate is dropped.")


def _made(reader: Reader, parts: Any) -> str:
    words = strings(parts)
    return ".".join(quoted(word) for word in (words if len(words) > 1 else (reader.home, *words)))


def schema(reader: Reader, way: Way, node: Any) -> None:
    """CREATE SCHEMA, with the objects it creates."""
    name = node.schemaname or (node.authrole.rolename if node.authrole else None) or reader.me
    if node.if_not_exists and reader.address("schema", [name]):
        return
    way.add(f"DROP SCHEMA {quoted(name)}{' CASCADE' if node.schemaElts else ''}", "The schema is dropped.")


def of_name(word: str, slot: str, kind: str) -> Callable[[Reader, Way, Any], None]:
    """Return the inverse of a CREATE whose object has a name without schema."""

    def way_back(reader: Reader, way: Way, node: Any) -> None:
        name = getattr(node, slot)
        if getattr(node, "if_not_exists", False) and reader.address(kind, [name]):
            return
        way.add(f"DROP {word} {quoted(name)}", "It is dropped.")

    return way_back


def extension(reader: Reader, way: Way, node: Any) -> None:
    """CREATE EXTENSION; extensions that CASCADE created stay."""
    if node.if_not_exists and reader.address("extension", [node.extname]):
        return
    way.add(f"DROP EXTENSION {quoted(node.extname)}", "The extension is dropped.")
    if any(option.defname == "cascade" for option in node.options or ()):
        why = f"extensions that {quoted(node.extname)} needs, and that CASCADE created, stay"
        way.differs.append(Declared("elsewhere", quoted(node.extname), why))


def language(reader: Reader, way: Way, node: Any) -> None:
    """CREATE LANGUAGE, which is CREATE EXTENSION when no handler is given."""
    if reader.address("language", [node.plname]) is None:
        way.add(f"DROP LANGUAGE {quoted(node.plname)}", "The language is dropped.")


def cast(reader: Reader, way: Way, node: Any) -> None:
    """CREATE CAST."""
    signature = f"{_type(reader, node.sourcetype)} AS {_type(reader, node.targettype)}"
    way.add(f"DROP CAST ({signature})", "The cast is dropped.")


def transform(reader: Reader, way: Way, node: Any) -> None:
    """CREATE TRANSFORM."""
    way.add(
        f"DROP TRANSFORM FOR {_type(reader, node.type_name)} LANGUAGE {quoted(node.lang)}", "The transform is dropped."
    )


def operator_class(reader: Reader, way: Way, node: Any) -> None:
    """CREATE OPERATOR CLASS; without a family it creates one of the same name."""
    if node.opfamilyname:
        way.add(f"DROP OPERATOR CLASS {_made(reader, node.opclassname)} USING {quoted(node.amname)}", "It is dropped.")
    else:
        name = [part.sval for part in node.opclassname]
        there = reader.address("operator family", [node.amname, *name])
        word = "CLASS" if there else "FAMILY"
        way.add(f"DROP OPERATOR {word} {_made(reader, node.opclassname)} USING {quoted(node.amname)}", "It is dropped.")


def operator_family(reader: Reader, way: Way, node: Any) -> None:
    """CREATE OPERATOR FAMILY."""
    way.add(f"DROP OPERATOR FAMILY {_made(reader, node.opfamilyname)} USING {quoted(node.amname)}", "It is dropped.")


def conversion(reader: Reader, way: Way, node: Any) -> None:
    """CREATE CONVERSION."""
    way.add(f"DROP CONVERSION {_made(reader, node.conversion_name)}", "The conversion is dropped.")


def user_mapping(reader: Reader, way: Way, node: Any) -> None:
    """CREATE USER MAPPING."""
    who = "PUBLIC" if node.user.roletype.name == "ROLESPEC_PUBLIC" else quoted(node.user.rolename or reader.me)
    if not (node.if_not_exists and reader.address("user mapping", [node.user.rolename or "public"], [node.servername])):
        way.add(f"DROP USER MAPPING FOR {who} SERVER {quoted(node.servername)}", "The user mapping is dropped.")

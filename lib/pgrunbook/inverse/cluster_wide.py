"""Inverses for objects of the whole server: roles, databases, settings, tablespaces, subscriptions."""

from __future__ import annotations

from typing import Any

from pgrunbook.inverse import columns, grants
from pgrunbook.inverse.drop import role_settings, setting_value
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted


def create_role(reader: Reader, way: Way, node: Any) -> None:
    """CREATE ROLE."""
    if not reader.rows("roles", names=[node.role]):
        way.add(f"DROP ROLE {quoted(node.role)}", "The role goes.")


def alter_role(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ROLE: bring back all attributes; an old password is unknown."""
    if any(option.defname == "password" for option in node.options or ()):
        reason = f"the password of {quoted(_role(reader, node.role))} is not known"
        raise NoInverseError(f"has no way back: secret, because {reason}.")
    if any(option.defname == "rolemembers" for option in node.options or ()):
        _members(reader, way, node)
        return
    for row in reader.rows("roles", names=[_role(reader, node.role)]):
        way.add(f"ALTER ROLE {row['sql']} {row['attributes']}", "Its attributes are set again.")


def _members(reader: Reader, way: Way, node: Any) -> None:
    """ALTER GROUP ... ADD USER and DROP USER."""
    group = _role(reader, node.role)
    there = {row["member"] for row in reader.rows("members", names=[group]) if row["role"] == quoted(group)}
    for option in node.options:
        for member in option.arg:
            name = quoted(_role(reader, member))
            verb = f"GRANT {quoted(group)} TO {name}" if name in there else f"REVOKE {quoted(group)} FROM {name}"
            way.add(verb, "The old membership is set again.")


def alter_settings(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ROLE ... SET and ALTER DATABASE ... SET: bring back the settings of today."""
    is_role = hasattr(node, "role")
    role = _role(reader, node.role) if is_role and node.role is not None else ""
    database = (node.database or "") if is_role else node.dbname
    if is_role:
        who = f"ALTER ROLE {quoted(role) if role else 'ALL'}" + (f" IN DATABASE {quoted(database)}" if database else "")
    else:
        who = f"ALTER DATABASE {quoted(database)}"
    rows = reader.rows("settings_of", role=role, database=database)
    there = dict(row["setting"].split("=", 1) for row in rows)
    name = node.setstmt.name
    if name is None:
        role_settings(reader, way, [role], database)
    elif name in there:
        way.add(f"{who} SET {name} TO {setting_value(name, there[name])}", "The old setting is set again.")
    else:
        way.add(f"{who} RESET {name}", "The setting did not exist.")


def reassign(reader: Reader, way: Way, node: Any) -> None:
    """REASSIGN OWNED: bring back the owner of each object."""
    rows = reader.rows("owned", names=[_role(reader, spec) for spec in node.roles])
    for thing in reader.things([(row["class"], row["oid"], 0) for row in rows]):
        if thing.type not in ("default acl", "user mapping"):
            way.add(f"ALTER {thing.word} {thing.sql} OWNER TO {thing.owner}", "The old owner is set again.")
            grants.after_owner(reader, way, thing.address)


def create_database(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE DATABASE."""
    way.alone(f"DROP DATABASE {quoted(node.dbname)}", "The database is dropped.")
    way.lossy.append(f"database {quoted(node.dbname)}: everything written to it since is lost")


def alter_database(reader: Reader, way: Way, node: Any) -> None:
    """ALTER DATABASE: connection limit, connections, template, tablespace."""
    row = reader.row("databases", name=node.dbname)
    if row is None:
        return
    clauses = {"connection_limit": f"CONNECTION LIMIT {row['connection_limit']}",
            "allow_connections": f"ALLOW_CONNECTIONS {str(row['allow_connections']).lower()}",
            "is_template": f"IS_TEMPLATE {str(row['is_template']).lower()}"}  # fmt: skip
    for option in node.options:
        if option.defname == "tablespace":
            way.alone(
                f"ALTER DATABASE {row['sql']} SET TABLESPACE {row['tablespace']}", "The old tablespace is set again."
            )
        elif option.defname in clauses:
            way.add(f"ALTER DATABASE {row['sql']} WITH {clauses[option.defname]}", "The old state is set again.")


def create_tablespace(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE TABLESPACE."""
    way.alone(f"DROP TABLESPACE {quoted(node.tablespacename)}", "The tablespace is dropped.")


def tablespace_options(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TABLESPACE ... SET and RESET."""
    row = reader.row("tablespace_options", name=node.tablespacename)
    for clause in columns.options(row["options"], [option.defname for option in node.options]) if row else []:
        way.add(f"ALTER TABLESPACE {quoted(node.tablespacename)} {clause}", "Its options are set again.")


def move_all(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TABLE ALL IN TABLESPACE ... SET TABLESPACE: move each of them back."""
    kinds = {"TABLE": ["r", "p"], "INDEX": ["i", "I"], "MATVIEW": ["m"]}[object_kind(node.objtype)]
    word = {"TABLE": "TABLE", "INDEX": "INDEX", "MATVIEW": "MATERIALIZED VIEW"}[object_kind(node.objtype)]
    for row in reader.rows("in_tablespace", name=node.orig_tablespacename, kinds=kinds):
        way.add(
            f"ALTER {word} {row['sql']} SET TABLESPACE {quoted(node.orig_tablespacename)}",
            "It moves back to its tablespace.",
        )


def alter_system(reader: Reader, way: Way, node: Any) -> None:
    """ALTER SYSTEM SET and RESET."""
    name = node.setstmt.name
    if name is None:
        raise NoInverseError("cannot be undone, because ALTER SYSTEM RESET ALL does not name what it resets.")
    row = reader.row("system_setting", name=name)
    clause = f"SET {name} = {literal(row['setting'])}" if row else f"RESET {name}"
    way.alone(f"ALTER SYSTEM {clause}", "The old setting is set again.")


def create_subscription(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE SUBSCRIPTION."""
    way.alone(f"DROP SUBSCRIPTION {quoted(node.subname)}", "The subscription is dropped.")
    way.lossy.append(f"subscription {quoted(node.subname)}: the rows that it copied stay")


def _role(reader: Reader, spec: Any) -> str:
    return str(spec.rolename) if spec.rolename else reader.me.strip('"')

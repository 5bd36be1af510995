"""Roles, databases, settings and tablespaces on the way back: what the server as a whole is told."""

from __future__ import annotations

from typing import Any

from pgrunbook.inverse import columns, grants
from pgrunbook.inverse.drop import role_settings, setting_value
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoWayBackError, Way
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted


def create_role(reader: Reader, way: Way, node: Any) -> None:
    """CREATE ROLE."""
    if not reader.rows("roles", names=[node.role]):
        way.add(f"DROP ROLE {quoted(node.role)}", "The role goes.")


def alter_role(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ROLE: all its attributes; a password that was there is not known."""
    if any(option.defname == "password" for option in node.options or ()):
        told = f"the password of {quoted(_role(reader, node.role))} is not known"
        raise NoWayBackError(f"cannot be undone, because {told}.")
    if any(option.defname == "rolemembers" for option in node.options or ()):
        _members(reader, way, node)
        return
    for row in reader.rows("roles", names=[_role(reader, node.role)]):
        way.add(f"ALTER ROLE {row['sql']} {row['attributes']}", "Its attributes as they were.")


def _members(reader: Reader, way: Way, node: Any) -> None:
    """ALTER GROUP ... ADD USER and DROP USER."""
    group = _role(reader, node.role)
    there = {row["member"] for row in reader.rows("members", names=[group]) if row["role"] == quoted(group)}
    for option in node.options:
        for member in option.arg:
            name = quoted(_role(reader, member))
            verb = f"GRANT {quoted(group)} TO {name}" if name in there else f"REVOKE {quoted(group)} FROM {name}"
            way.add(verb, "Membership as it was.")


def alter_settings(reader: Reader, way: Way, node: Any) -> None:
    """ALTER ROLE ... SET and ALTER DATABASE ... SET: the settings that are there."""
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
        way.add(f"{who} SET {name} TO {setting_value(name, there[name])}", "The setting as it was.")
    else:
        way.add(f"{who} RESET {name}", "There was no such setting.")


def reassign(reader: Reader, way: Way, node: Any) -> None:
    """REASSIGN OWNED: each object to the owner that it has."""
    rows = reader.rows("owned", names=[_role(reader, spec) for spec in node.roles])
    for thing in reader.things([(row["class"], row["oid"], 0) for row in rows]):
        if thing.type not in ("default acl", "user mapping"):
            way.add(f"ALTER {thing.word} {thing.sql} OWNER TO {thing.owner}", "The owner that it had.")
            grants.after_owner(reader, way, thing.address)


def create_database(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE DATABASE."""
    way.alone(f"DROP DATABASE {quoted(node.dbname)}", "The database goes.")
    way.lossy.append(f"database {quoted(node.dbname)}: all that was written to it since goes")


def alter_database(reader: Reader, way: Way, node: Any) -> None:
    """ALTER DATABASE: connection limit, connections, template, tablespace."""
    row = reader.row("databases", name=node.dbname)
    if row is None:
        return
    told = {"connection_limit": f"CONNECTION LIMIT {row['connection_limit']}",
            "allow_connections": f"ALLOW_CONNECTIONS {str(row['allow_connections']).lower()}",
            "is_template": f"IS_TEMPLATE {str(row['is_template']).lower()}"}  # fmt: skip
    for option in node.options:
        if option.defname == "tablespace":
            way.alone(f"ALTER DATABASE {row['sql']} SET TABLESPACE {row['tablespace']}", "The tablespace that it had.")
        elif option.defname in told:
            way.add(f"ALTER DATABASE {row['sql']} WITH {told[option.defname]}", "As it was.")


def create_tablespace(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE TABLESPACE."""
    way.alone(f"DROP TABLESPACE {quoted(node.tablespacename)}", "The tablespace goes.")


def tablespace_options(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TABLESPACE ... SET and RESET."""
    row = reader.row("tablespace_options", name=node.tablespacename)
    for told in columns.options(row["options"], [option.defname for option in node.options]) if row else []:
        way.add(f"ALTER TABLESPACE {quoted(node.tablespacename)} {told}", "Its options as they were.")


def move_all(reader: Reader, way: Way, node: Any) -> None:
    """ALTER TABLE ALL IN TABLESPACE ... SET TABLESPACE: each of them back."""
    kinds = {"TABLE": ["r", "p"], "INDEX": ["i", "I"], "MATVIEW": ["m"]}[object_kind(node.objtype)]
    word = {"TABLE": "TABLE", "INDEX": "INDEX", "MATVIEW": "MATERIALIZED VIEW"}[object_kind(node.objtype)]
    for row in reader.rows("in_tablespace", name=node.orig_tablespacename, kinds=kinds):
        way.add(f"ALTER {word} {row['sql']} SET TABLESPACE {quoted(node.orig_tablespacename)}", "Back where it lay.")


def alter_system(reader: Reader, way: Way, node: Any) -> None:
    """ALTER SYSTEM SET and RESET."""
    name = node.setstmt.name
    if name is None:
        raise NoWayBackError("cannot be undone, because ALTER SYSTEM RESET ALL does not say what it resets.")
    row = reader.row("system_setting", name=name)
    told = f"SET {name} = {literal(row['setting'])}" if row else f"RESET {name}"
    way.alone(f"ALTER SYSTEM {told}", "The setting as it was.")


def create_subscription(_reader: Reader, way: Way, node: Any) -> None:
    """CREATE SUBSCRIPTION."""
    way.alone(f"DROP SUBSCRIPTION {quoted(node.subname)}", "The subscription goes.")
    way.lossy.append(f"subscription {quoted(node.subname)}: the rows that it copied stay")


def _role(reader: Reader, spec: Any) -> str:
    return str(spec.rolename) if spec.rolename else reader.me.strip('"')

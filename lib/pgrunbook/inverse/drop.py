"""Inverse of DROP: the named objects, and all that is dropped with them, are recreated as they are today."""

from __future__ import annotations

from typing import Any

from pgrunbook.inverse import grants, name_resolution
from pgrunbook.inverse.reader import Address, Reader
from pgrunbook.inverse.recreation import recreate
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted


def drop(reader: Reader, way: Way, node: Any) -> None:
    """DROP of any kind; objects that do not exist are ignored.

    Raises NoInverseError when pgrunbook cannot recreate an object, or tables are dropped without being named.
    """
    addresses = name_resolution.of_drop(reader, node)
    kind = object_kind(node.removeType)
    if kind in ("TABLE", "FOREIGN_TABLE"):
        addresses = _with_partitions(reader, addresses)
    if addresses:
        recreate(reader, way, addresses)


def _with_partitions(reader: Reader, addresses: list[Address]) -> list[Address]:
    found: dict[Address, None] = {}
    for class_, oid, part in addresses:
        for member in reader.family(reader.relation_at(oid)):
            found[class_, member, part] = None
    return list(found)


def drop_role(reader: Reader, way: Way, node: Any) -> None:
    """DROP ROLE: CREATE ROLE with its attributes, settings and memberships; its password is unknown."""
    names = [spec.rolename for spec in node.roles]
    for row in reader.rows("roles", names=names):
        way.add(f"CREATE ROLE {row['sql']} {row['attributes']}", f"Role {row['sql']} is created again.")
        if row["comment"]:
            way.add(f"COMMENT ON ROLE {row['sql']} IS {literal(row['comment'])}")
        way.differs.append(Declared("elsewhere", row["sql"], f"role {row['sql']} has no password"))
    role_settings(reader, way, names)
    for row in reader.rows("members", names=names):
        way.add(grants.membership(row), "The old membership is set again.")


def drop_user_mapping(reader: Reader, way: Way, node: Any) -> None:
    """DROP USER MAPPING: recreate it when it has no options, for these are secret."""
    address = reader.address("user mapping", [node.user.rolename or "public"], [node.servername])
    if address is not None:
        recreate(reader, way, [address])


def role_settings(reader: Reader, way: Way, names: list[str], database: str = "") -> None:
    """Add the ALTER ROLE ... SET statements for the settings of roles."""
    for name in names:
        for row in reader.rows("settings_of", role=name, database=database):
            scope = f" IN DATABASE {row['database']}" if row["database"] else ""
            setting, _, value = row["setting"].partition("=")
            way.add(f"ALTER ROLE {quoted(name)}{scope} SET {setting} TO {setting_value(setting, value)}")


def setting_value(setting: str, value: str) -> str:
    """Return a setting's value as SET needs it; a list stays a list."""
    lists = ("search_path", "datestyle", "local_preload_libraries", "session_preload_libraries", "temp_tablespaces")
    return value if setting.lower() in lists and value else literal(value)


def cannot(_reader: Reader, _way: Way, node: Any) -> None:
    """DROP DATABASE, TABLESPACE, SUBSCRIPTION, OWNED: no inverse."""
    reason = {
        "DropdbStmt": "cannot be undone, because the database's rows are lost; restore it from a backup.",
        "DropTableSpaceStmt": "cannot be undone, because a tablespace needs an empty folder on the server.",
        "DropSubscriptionStmt": "cannot be undone, because the subscription's position and password are lost.",
        "DropOwnedStmt": "cannot be undone, because objects are captured only when they are dropped by name.",
    }[type(node).__name__]
    raise NoInverseError(reason)

"""DROP on the way back: what is named, and all that goes with it, comes back as it is."""

from __future__ import annotations

from typing import Any

from pgrunbook.inverse import grants, name_resolution
from pgrunbook.inverse.reader import Address, Reader
from pgrunbook.inverse.recreation import bring_back
from pgrunbook.inverse.way import NoWayBackError, Way
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import object_kind, quoted


def drop(reader: Reader, way: Way, node: Any) -> None:
    """DROP of whatever kind; what is not there was not dropped.

    Raises NoWayBackError where something goes that nothing computes how to make, or tables go unnamed.
    """
    addresses = name_resolution.of_drop(reader, node)
    kind = object_kind(node.removeType)
    if kind in ("TABLE", "FOREIGN_TABLE"):
        addresses = _with_partitions(reader, addresses)
    if addresses:
        bring_back(reader, way, addresses)
    if kind == "MATVIEW":
        way.differs.append("the rows of materialized views that come back are computed anew")


def _with_partitions(reader: Reader, addresses: list[Address]) -> list[Address]:
    found: dict[Address, None] = {}
    for class_, oid, part in addresses:
        for member in reader.family(reader.relation_at(oid)):
            found[class_, member, part] = None
    return list(found)


def drop_role(reader: Reader, way: Way, node: Any) -> None:
    """DROP ROLE: CREATE ROLE with its attributes, settings and memberships; a password is not known."""
    names = [spec.rolename for spec in node.roles]
    for row in reader.rows("roles", names=names):
        way.add(f"CREATE ROLE {row['sql']} {row['attributes']}", f"Role {row['sql']} comes back.")
        if row["comment"]:
            way.add(f"COMMENT ON ROLE {row['sql']} IS {literal(row['comment'])}")
        way.differs.append(f"the password of role {row['sql']} is not there")
    role_settings(reader, way, names)
    for row in reader.rows("members", names=names):
        way.add(grants.membership(row), "Membership as it was.")


def drop_user_mapping(reader: Reader, way: Way, node: Any) -> None:
    """DROP USER MAPPING: made again where it has no options, which are secret."""
    address = reader.address("user mapping", [node.user.rolename or "public"], [node.servername])
    if address is not None:
        bring_back(reader, way, [address])


def role_settings(reader: Reader, way: Way, names: list[str], database: str = "") -> None:
    """Add what ALTER ROLE ... SET says of roles now."""
    for name in names:
        for row in reader.rows("settings_of", role=name, database=database):
            scope = f" IN DATABASE {row['database']}" if row["database"] else ""
            setting, _, value = row["setting"].partition("=")
            way.add(f"ALTER ROLE {quoted(name)}{scope} SET {setting} TO {setting_value(setting, value)}")


def setting_value(setting: str, value: str) -> str:
    """Return a setting's value as SET needs it: what is a list stays one."""
    lists = ("search_path", "datestyle", "local_preload_libraries", "session_preload_libraries", "temp_tablespaces")
    return value if setting.lower() in lists and value else literal(value)


def cannot(_reader: Reader, _way: Way, node: Any) -> None:
    """DROP DATABASE, TABLESPACE, SUBSCRIPTION, OWNED: no way back."""
    told = {
        "DropdbStmt": "cannot be undone, because the database's rows are gone; restore it from a backup.",
        "DropTableSpaceStmt": "cannot be undone, because a tablespace needs an empty folder on the server.",
        "DropSubscriptionStmt": "cannot be undone, because the subscription's position and password are gone.",
        "DropOwnedStmt": "cannot be undone, because what a role owns is kept only where it is dropped by name.",
    }[type(node).__name__]
    raise NoWayBackError(told)

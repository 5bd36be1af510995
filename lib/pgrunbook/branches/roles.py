"""The roles of a target's server on a branch's: what they may do, whom they belong to, and which settings they bring.

1. What also runs on the target runs on the branch in a session of the same role, so that owners are the same and
   what the role may not do there fails here. Roles are read without passwords.
2. They belong to the whole cluster. What a rehearsal changes about them is put back before the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from pgrunbook.branches.branch_target import POSTGRES
from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load

log = logging.getLogger(__name__)

PARAMETER_RIGHTS_SINCE = 150_000
GRANT_OPTIONS_SINCE = 160_000
# Their values are lists of names: they are stored as a session has them.
LISTS_OF_NAMES = ("search_path", "temp_tablespaces")
TEMPORARY = "pgrunbook_renames"


class Membership(NamedTuple):
    """A role that is a member of another one; the last two options are None before PostgreSQL 16."""

    role: str
    member: str
    grantor: str | None
    admin: bool
    inherits: str | None
    sets: str | None


class RoleSetting(NamedTuple):
    """A setting that sessions start with: those of a role (None is every role), and of the database or of all.

    Those of the server itself stand first among those of every role.
    """

    role: str | None
    is_of_database: bool
    name: str
    value: str


class SharedRight(NamedTuple):
    """A right on a parameter or on the database; the grantee None is PUBLIC."""

    object: str
    grantee: str | None
    privilege: str
    is_grantable: bool


@dataclass(frozen=True)
class Roles:
    """The roles of a server, and those of its rights and settings that are not in the database itself.

    ``session`` is the role that the target's session logged in as, ``bootstrap`` the superuser that the cluster was
    made with, who owns what every database has; ``rights`` and ``owner`` are those of ``database``. ``lacks`` are the
    objects of a new database that it has not any more, as SQL names them; no dump tells.
    """

    session: str
    bootstrap: str
    database: str
    attributes: dict[str, str]
    memberships: tuple[Membership, ...]
    settings: tuple[RoleSetting, ...]
    parameters: tuple[SharedRight, ...]
    owner: str | None
    rights: tuple[SharedRight, ...]
    lacks: tuple[str, ...] = ()


def read(conn: Connection) -> Roles:
    """Read the roles of the server that the connection leads to, with the rights and settings of its database."""
    queries = load("roles")
    session, bootstrap, database = conn.execute(queries["session"].encode()).fetchone() or ("", "", "")
    rights = conn.execute(queries["database"].encode()).fetchall()
    return Roles(
        str(session),
        str(bootstrap),
        str(database),
        {str(name): str(may) for name, may in conn.execute(queries["roles"].encode()).fetchall()},
        _memberships(conn),
        tuple(RoleSetting(*row) for row in conn.execute(queries["settings"].encode()).fetchall()),  # type: ignore[arg-type]
        _parameters(conn),
        next((str(row[0]) for row in rights if row[0] is not None), None),
        tuple(SharedRight("", *row[1:]) for row in rights),  # type: ignore[arg-type]
        tuple(str(what) for (what,) in conn.execute(queries["lacks"].encode()).fetchall()),
    )


def advice(told: str, session: str) -> str:
    """Return what lets pg_dump read a target as its role, by what pg_dump has told; "" where it is another error."""
    role = sql.Identifier(session).as_string(None)
    if "row-level security" in told:
        return f"Let a superuser run ALTER ROLE {role} BYPASSRLS: pg_dump reads the rows of every table. "
    if "permission denied" in told:
        return (
            f"Let an administrator run GRANT pg_read_all_data TO {role} (docs/rights.md): pg_dump reads every table. "
        )
    if "role with OID" in told:
        return "Give what belongs to that role another owner: ALTER TABLE ... OWNER TO. "
    return ""


def name_bootstrap(server: Server, roles: Roles) -> None:
    """Give the superuser of a new cluster the name that the target's has: the objects of every database are its own.

    A role ``postgres`` that is no superuser on the target can then be created.
    """
    if roles.bootstrap in (POSTGRES, ""):
        return
    with server.connect(purpose="branch") as conn:
        conn.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(sql.Identifier(TEMPORARY)))
    server.superuser = TEMPORARY
    with server.connect(purpose="branch") as conn:
        rename = sql.SQL("ALTER ROLE {} RENAME TO {}")
        conn.execute(rename.format(sql.Identifier(POSTGRES), sql.Identifier(roles.bootstrap)))
    server.superuser = roles.bootstrap
    with server.connect(purpose="branch") as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(TEMPORARY)))


def apply(roles: Roles, admin: Connection) -> None:
    """Make the roles of a branch's server those of the target, whatever a rehearsal has done to them.

    A role that a rehearsal created is dropped; where a database still holds something of it, it gets another name.
    """
    there = names(admin)
    for name in sorted(roles.attributes.keys() - set(there.values())):
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    for name, attributes in roles.attributes.items():
        if name != roles.bootstrap:
            admin.execute(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(name), sql.SQL(attributes)))
    _grant_memberships(roles.memberships, admin)
    _set(roles, admin, None)
    _grant_parameters(roles.parameters, admin)
    for oid, name in there.items():
        if name not in roles.attributes:
            _take_away(admin, name, oid)


def apply_to_database(roles: Roles, admin: Connection, database: str) -> None:
    """Give a database of a branch the owner, the rights and the settings that the target's has."""
    named = sql.Identifier(database)
    if roles.owner is not None:
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(named, sql.Identifier(roles.owner)))
    admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(named))
    for right in roles.rights:
        _grant(admin, sql.SQL("DATABASE {}").format(named), right)
    _set(roles, admin, database)


def names(admin: Connection) -> dict[int, str]:
    """Return the roles of a server by oid, without the predefined ones."""
    query = "SELECT r.oid, r.rolname FROM pg_catalog.pg_roles AS r WHERE r.rolname !~ '^pg_'"
    return {int(str(oid)): str(name) for oid, name in admin.execute(query.encode()).fetchall()}


def _take_away(admin: Connection, name: str, oid: int) -> None:
    other = f"made_by_a_rehearsal_{oid}"
    try:
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
    except psycopg.errors.DependentObjectsStillExist:
        if name != other:  # else it has that name from an earlier rehearsal
            rename = sql.SQL("ALTER ROLE {} RENAME TO {}")
            admin.execute(rename.format(sql.Identifier(name), sql.Identifier(other)))


def _memberships(conn: Connection) -> tuple[Membership, ...]:
    return tuple(Membership(*row) for row in conn.execute(load("roles")["memberships"].encode()).fetchall())  # type: ignore[arg-type]


def _parameters(conn: Connection) -> tuple[SharedRight, ...]:
    if conn.info.server_version < PARAMETER_RIGHTS_SINCE:
        return ()
    return tuple(SharedRight(*row) for row in conn.execute(load("roles")["parameters"].encode()).fetchall())  # type: ignore[arg-type]


def _grant_memberships(wanted: Sequence[Membership], admin: Connection) -> None:
    """Make the memberships those that are wanted; a grantor needs the right to grant before it can."""
    # One by one: a grant that is revoked takes along those that rest on it.
    while other := [one for one in _memberships(admin) if one not in wanted]:
        revoke = sql.SQL("REVOKE {} FROM {}{} CASCADE")
        one = other[0]
        admin.execute(revoke.format(sql.Identifier(one.role), sql.Identifier(one.member), _granted_by(one, admin)))
    there = _memberships(admin)
    left = [one for one in wanted if one not in there]
    while left:
        refused = [one for one in left if not _is_granted(one, admin, _granted_by(one, admin))]
        if len(refused) == len(left):  # their grantors have the right no more: it is the superuser's grant then
            for one in refused:
                if not _is_granted(one, admin, sql.SQL("")):
                    log.warning("the branch lacks that %s is a member of %s", one.member, one.role)
            return
        left = refused


def _grant_parameters(wanted: Sequence[SharedRight], admin: Connection) -> None:
    for right in _parameters(admin):
        if right not in wanted:
            revoke = sql.SQL("REVOKE {} ON PARAMETER {} FROM {} CASCADE")
            admin.execute(revoke.format(sql.SQL(right.privilege), _parameter(right), _grantee(right)))
    for right in wanted:
        _grant(admin, sql.SQL("PARAMETER {}").format(_parameter(right)), right)


def _parameter(right: SharedRight) -> sql.Identifier:
    return sql.Identifier(*right.object.split("."))


def _granted_by(one: Membership, admin: Connection) -> sql.Composable:
    if one.grantor is None or admin.info.server_version < GRANT_OPTIONS_SINCE:
        return sql.SQL("")
    return sql.SQL(" GRANTED BY {}").format(sql.Identifier(one.grantor))


def _is_granted(one: Membership, admin: Connection, by: sql.Composable) -> bool:
    options = [f"ADMIN {'TRUE' if one.admin else 'FALSE'}"]
    if admin.info.server_version < GRANT_OPTIONS_SINCE:
        how = sql.SQL(" WITH ADMIN OPTION" if one.admin else "")
    else:
        options += [f"{word} {value}" for word, value in (("INHERIT", one.inherits), ("SET", one.sets)) if value]
        how = sql.SQL(f" WITH {', '.join(options)}")
    grant = sql.SQL("GRANT {} TO {}{}{}").format(sql.Identifier(one.role), sql.Identifier(one.member), how, by)
    with suppress(psycopg.Error):
        admin.execute(grant)
        return True
    return False


def _set(roles: Roles, admin: Connection, database: str | None) -> None:
    """Set what sessions of roles start with: in every database, or in the one that is named."""
    wanted = [one for one in roles.settings if one.is_of_database == (database is not None)]
    places: set[str | None] = {one.role for one in wanted} if database else {None, *roles.attributes}
    for role in places:
        admin.execute(sql.SQL("ALTER {} RESET ALL").format(_place(role, database)))
    for one in wanted:
        place, name = _place(one.role, database), sql.Identifier(*one.name.split("."))
        try:
            with admin.transaction():
                if one.name in LISTS_OF_NAMES:
                    admin.execute("SELECT pg_catalog.set_config(%s, %s, true)", [one.name, one.value])
                    admin.execute(sql.SQL("ALTER {} SET {} FROM CURRENT").format(place, name))
                else:
                    admin.execute(sql.SQL("ALTER {} SET {} = {}").format(place, name, sql.Literal(one.value)))
        except psycopg.Error as exc:
            # A locale of the target's machine is often not here, and matters to few values.
            level = logging.INFO if one.name.startswith("lc_") else logging.WARNING
            log.log(level, "the branch lacks the target's setting %s: %s", one.name, exc.diag.message_primary)


def _place(role: str | None, database: str | None) -> sql.Composable:
    if role is None:
        return sql.SQL("DATABASE {}").format(sql.Identifier(database or "")) if database else sql.SQL("ROLE ALL")
    within = sql.SQL(" IN DATABASE {}").format(sql.Identifier(database)) if database else sql.SQL("")
    return sql.SQL("ROLE {}{}").format(sql.Identifier(role), within)


def _grant(admin: Connection, on: sql.Composable, right: SharedRight) -> None:
    option = sql.SQL(" WITH GRANT OPTION" if right.is_grantable and right.grantee is not None else "")
    admin.execute(sql.SQL("GRANT {} ON {} TO {}{}").format(sql.SQL(right.privilege), on, _grantee(right), option))


def _grantee(right: SharedRight) -> sql.Composable:
    return sql.SQL("PUBLIC") if right.grantee is None else sql.Identifier(right.grantee)

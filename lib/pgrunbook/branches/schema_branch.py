"""An empty branch: a copy of the target's schema without its rows, on a server of its own; rehearsals run on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pgrunbook.branches import branch_server, installations, isolation, roles, schema_load, target_dump
from pgrunbook.branches.branch_target import BranchTarget, branch_target
from pgrunbook.branches.roles import Roles
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import address, connection
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.display import progress
from pgrunbook.errors import Unreachable

FILLED = (
    "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
    " ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"
)
# An empty file or two of each, and its rows in the catalog.
RELATION_BYTES = 16 * 1024
RELATIONS = "SELECT pg_catalog.count(*) * %s FROM pg_catalog.pg_class"
# The database that is kept for the next branch.
LOADED = "pgrunbook_schema"


@dataclass
class SchemaCopy:
    """A dump of a target's schema, from which branches are created, one after the other.

    ``views`` are the materialized views that hold rows. ``has_ours`` says whether schema pgrunbook is included,
    without rows; ``is_dump``, whether the dump is one, and not statements that stand for it. With ``is_kept`` a copy of
    the loaded schema is kept as a database, for the branch after it.
    """

    target: Target
    server: Server
    roles: Roles
    encoding: str
    options: str
    dump: str
    views: tuple[sql.Identifier, ...] = ()
    has_ours: bool = False
    is_kept: bool = False
    is_dump: bool = True
    _roles: Mapping[int, str] | None = None  # when the database was kept
    _kept_links: Sequence[object] = ()  # to roles, from the kept database: see _keep

    @contextmanager
    def branch(self) -> Iterator[BranchTarget]:
        """Give an empty database with the schema, reached as the target's role; drop it afterwards.

        What was done to the server's roles and databases is put back before the next one.
        Raises Unreachable when the schema cannot be copied.
        """
        name = self.roles.database  # the same, so that statements may name it
        branch = branch_target(
            self.target, f"empty branch of {self.target.name}", self.server.name, name,
            role=self.roles.session, superuser=self.server.superuser, options=self.options,
        )  # fmt: skip
        with self.server.connect(purpose="branch") as admin:
            there = _databases(admin)
            roles.apply(self.roles, admin)
            try:
                if self._roles is not None and self._roles == roles.names(admin):
                    self._take_kept(admin, name)
                    isolation.close(self.server, name)
                else:
                    with progress.doing("loading the schema into an empty branch"):
                        self._load(admin, branch)
                    isolation.close(self.server, name)
                    if self.views:
                        _fill_views(branch, self.views)
                    if self.is_kept:
                        self._keep(admin, name)
                yield branch
            finally:
                for other in sorted(_databases(admin) - there - {self._kept}):
                    _drop_subscriptions(self.server, admin, other)
                    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(other)))

    def _load(self, admin: Connection, branch: BranchTarget) -> None:
        """Make the branch's database and load the dump: in large parts, and where one fails, by its statements."""
        self._create(admin, str(branch.database))
        if not schema_load.in_parts(branch, self.dump):
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(branch.database))))
            self._create(admin, str(branch.database))
            schema_load.by_statements(self.server, branch, self.dump)

    def _create(self, admin: Connection, name: str) -> None:
        # Locale C works with every encoding, and the sort order of text is no part of a schema.
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' {}")
        connection.limit(admin, lock_timeout_ms=60_000, statement_timeout_ms=60_000)
        copied = branch_server.file_copy(self.server)
        admin.execute(create.format(sql.Identifier(name), sql.Literal(self.encoding), copied))
        roles.apply_to_database(self.roles, admin, name)
        target_dump.prepare(self.server, name, self.roles.lacks, for_dump=self.is_dump)

    def _take_kept(self, admin: Connection, name: str) -> None:
        """Make the kept database the branch's: most rehearsals need two. One that is needed later is loaded again."""
        admin.execute(load("schema_branch")["link"].encode(), [Jsonb(self._kept_links)])
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        admin.execute(rename.format(sql.Identifier(self._kept), sql.Identifier(name)))
        roles.apply_to_database(self.roles, admin, name)
        self._roles = None

    @property
    def _kept(self) -> str:
        return LOADED if self.roles.database != LOADED else f"{LOADED}_"

    def _keep(self, admin: Connection, name: str) -> None:
        """Copy a branch that was just loaded; one that roles of before own is dropped.

        What the copy owns would keep a statement of the release from dropping a role. So the server knows nothing of
        it but while the copy is copied.
        """
        kept, copied = sql.Identifier(self._kept), branch_server.file_copy(self.server)
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(kept))
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(kept, sql.Identifier(name), copied))
        self._kept_links = [link for (link,) in admin.execute(load("schema_branch")["unlink"].encode(), [self._kept])]
        self._roles = roles.names(admin)


@contextmanager
def copy_schema(
    target: Target,
    *,
    ours: bool = False,
    keep: bool = False,
    instead: Sequence[str] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[SchemaCopy]:
    """Read the target's schema and roles, and give a server of its own for its branches. Raises Unreachable.

    With ``ours`` it includes schema pgrunbook and the parked tables, without their rows; else the schema alone, which
    the role may lack the right to create. ``keep`` it where more than one branch is made of it. Statements that are
    given ``instead`` stand for the schema, as for a branch that is empty; roles and rights of the database are there.
    ``meanwhile`` is called while pg_dump reads.

    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    with connect(target, purpose="copies the schema") as source:
        found = roles.read(source)
        (encoding,) = source.execute("SELECT pg_catalog.getdatabaseencoding()").fetchone() or ("UTF8",)
        postgres = installations.of_target(target, source)
        dump_options = target_dump.options(postgres, source)
        (size,) = source.execute(RELATIONS.encode(), [RELATION_BYTES]).fetchone() or ("0",)
        filled = [] if instead is not None else source.execute(FILLED).fetchall()
        views = tuple(sql.Identifier(str(schema), str(name)) for schema, name in filled)
        ours_empty = [] if ours else source.execute(load("schema_branch")["own_schema"].encode()).fetchall()
        called = (
            [] if ours or instead is not None else source.execute(load("schema_branch")["called"].encode()).fetchall()
        )
    with branch_server.new_server(postgres, data_bytes=int(str(size)), target=target.name) as server:
        with progress.doing("reading the schema"), ThreadPoolExecutor(1) as pool:
            dumped = pool.submit(_dump, server, target, found, dump_options, ours=ours) if instead is None else None
            branch_server.start_empty(server)
            meanwhile()
        written = dumped.result() if dumped else "\n".join(instead or ())
        # Triggers on tables that call functions of ours are in the dump, and what they call is not.
        stand_ins = ["CREATE SCHEMA pgrunbook;", *(str(made) for (made,) in called)] if called else []
        cleared = ["DROP SCHEMA pgrunbook CASCADE;"] if called else []
        dump = "\n".join([*stand_ins, written, *cleared, *(str(made) for (made,) in ours_empty)])
        roles.name_bootstrap(server, found)
        branch_server.give_up_name(server, found.database, is_empty=True)
        options = address.given_options(target)
        yield SchemaCopy(target, server, found, str(encoding), options, dump, views, ours, keep, instead is None)


def _drop_subscriptions(server: Server, admin: Connection, database: str) -> None:
    """Drop the subscriptions that a statement made on a branch; no publisher is asked."""
    query = (
        "SELECT s.subname FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid"
        " WHERE d.datname = %s"
    )
    for (subscription,) in admin.execute(query, [database]).fetchall():
        named = sql.Identifier(str(subscription))
        with server.connect(purpose="branch", database=database) as conn:
            for verb in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)"):
                conn.execute(sql.SQL(verb).format(named))
            conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(named))


def _databases(admin: Connection) -> set[str]:
    return {str(name) for (name,) in admin.execute("SELECT d.datname FROM pg_catalog.pg_database AS d")}


def _dump(server: Server, target: Target, found: Roles, options: Sequence[str], *, ours: bool) -> str:
    """The address is in the environment: everybody on the machine can see a program's arguments."""
    command = [str(server.program("pg_dump")), "--schema-only", *options]
    command += [] if ours else ["--exclude-schema=pgrunbook"]
    env = {**address.environment(target), **installations.client_environment(server.installation)}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    told = done.stderr.decode(errors="replace")
    if done.returncode:
        raise Unreachable(
            f'could not copy the schema of target "{target.name}"',
            detail=" ".join(told.split())[:600],
            hint=(roles.advice(told, found.session) or target_dump.advice(told)) + schema_load.WITHOUT,
        )
    return target_dump.known(done.stdout.decode(), server.installation.major)  # with each carriage return in a text


def _fill_views(branch: BranchTarget, views: Iterable[sql.Identifier]) -> None:
    """Refresh the materialized views that hold rows in the target: the dump leaves them WITH NO DATA.

    A view whose query fails without rows stays unpopulated, and differs from the target's.
    """
    with connect(branch.as_superuser(), purpose="rehearses") as conn:
        connection.limit(conn, lock_timeout_ms=10_000, statement_timeout_ms=60_000)
        for view in views:
            with suppress(psycopg.Error):
                conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(view))

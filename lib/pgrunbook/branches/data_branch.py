"""A branch that holds the target's data as it is now; prepare rehearses on it.

1. A server of its own is created, in a folder of its own: from a base backup where the target is on an
   embedded server, else empty, with a dump of the target loaded into it. It archives nothing, replicates
   nothing, and does not wait for the disk: it is thrown away.
2. The server itself is copied where a way is to be tried at the same time; and its database where two ways are tried
   on the same data, side by side.
3. Whatever happens, the server is removed. When this process is killed, the next branch removes it:
   a living process holds the lock file of its branch.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgrunbook.branches import (
    branch_server,
    data_dump,
    installations,
    isolation,
    roles,
    row_sample,
    server_copy,
    target_dump,
)
from pgrunbook.branches.binaries import Installation, state_folder
from pgrunbook.branches.branch_target import BranchTarget, branch_target
from pgrunbook.branches.data_dump import WITHOUT, not_copied
from pgrunbook.branches.roles import Roles
from pgrunbook.branches.server import Server
from pgrunbook.config import paths
from pgrunbook.config.targets import Target
from pgrunbook.database import address, connection
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.display.units import human
from pgrunbook.errors import Refused, RunbookError

log = logging.getLogger(__name__)

SPARE = 1.2
# A base backup copies every database of the server: where the others weigh more than this, a dump is quicker.
OTHERS_AT_MOST_BYTES = 512 * 1024 * 1024
CLUSTER_BYTES = 56 * 1024 * 1024  # an empty one, with its first WAL segment
LIMITS = {"lock_timeout_ms": 60_000, "statement_timeout_ms": 3_600_000}


@dataclass(frozen=True)
class Copy:
    """A branch that holds the target's data, on a server of its own.

    The plan is rehearsed on ``safe``, which has the source's name. ``plain`` is ``safe``, and of what :meth:`doubled`
    returns an identical database beside it, which has that name ``in_place``. ``twin`` is the same database on another
    server, None where it was not requested or has no room. ``how`` is a phrase for people.
    """

    server: Server
    roles: Roles
    plain: BranchTarget
    safe: BranchTarget
    how: str
    made_s: float
    twin: Copy | None = None

    def doubled(self) -> Copy:
        """Copy the database, to which nobody may be connected; the branch is removed with both."""
        began, database = time.monotonic(), f"plain_{secrets.token_hex(3)}"
        with progress.doing("copying the database on the branch"):
            _copy(self.server, str(self.safe.database), database, self.roles)
        plain = self.safe.model_copy(update={"database": database, "name": f"plain {self.safe.name}"})
        return replace(self, plain=plain, made_s=self.made_s + time.monotonic() - began)

    def remove(self) -> None:
        """Remove the server now, and not at the end only; ``twin`` stays."""
        branch_server.remove(self.server)

    @contextmanager
    def in_place(self, branch: BranchTarget) -> Iterator[BranchTarget]:
        """Give a database the source's name while the body runs: what is executed there may ask for it.

        Nobody may be connected to it or to ``safe`` before and after the body. After an error the names stay.
        """
        name, other = str(self.safe.database), str(branch.database)
        if other == name:
            yield branch
            return
        aside = f"safe_{secrets.token_hex(3)}"
        self._rename((name, aside), (other, name))
        yield branch.model_copy(update={"database": name})
        self._rename((name, other), (aside, name))

    def spare(self) -> str:
        """Copy the database that has the source's name, to which nobody may be connected; return the copy's name."""
        name = f"spare_{secrets.token_hex(3)}"
        _copy(self.server, str(self.safe.database), name, self.roles)
        return name

    def drop_spare(self, name: str, *, instead: bool) -> None:
        """Drop a copy, or put it ``instead`` of the database that has the source's name."""
        own = str(self.safe.database)
        with self.server.connect(purpose="branch") as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(own if instead else name)))
        if instead:
            self._rename((name, own))

    def _rename(self, *names: tuple[str, str]) -> None:
        with self.server.connect(purpose="branch") as admin:
            for name, other in names:
                admin.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(other))
                )


@dataclass(frozen=True)
class _Source:
    database: str
    database_bytes: int
    server_bytes: int
    encoding: str
    tablespaces: list[list[str]]

    def is_most_of(self, target: Target) -> bool:
        """Whether we can take a base backup of the target's server, and it copies little beside the database."""
        others = self.server_bytes - self.database_bytes
        return target.server is not None and others <= max(self.database_bytes, OTHERS_AT_MOST_BYTES)


@dataclass(frozen=True)
class Original:
    """A target as it is before it is copied: its roles, and the installation that a copy of it runs on.

    ``is_by_backup`` says that a copy is made of the server's files, else of a dump; ``data_bytes`` is its size.
    """

    target: Target
    roles: Roles
    postgres: Installation
    is_by_backup: bool
    source: _Source
    _rows: int | None = None

    @property
    def data_bytes(self) -> int:
        """The size of a copy."""
        return self.source.server_bytes if self.is_by_backup else self.source.database_bytes

    @property
    def how(self) -> str:
        """How a copy is made, as a phrase for people."""
        return "base backup with WAL to now" if self.is_by_backup else "dump and restore"

    def refuse_large(self, *, copies_bytes: int, count: int, most_bytes: int | None = None) -> None:
        """Raise Refused where the database is larger than ``most_bytes``, or the disk has no room for the copies."""
        own_bytes = 0 if self.is_by_backup else CLUSTER_BYTES
        _refuse_large(self.target, self.source, most_bytes, copies_bytes + own_bytes, count)

    def copy_into(self, server: Server) -> str:
        """Make an empty server a copy, and start it; return the database's name. Raises Unreachable."""
        with progress.doing("copying the data"):
            if self.is_by_backup:
                return _from_base_backup(server, self.target, self.source, self.roles)
            return _from_dump(server, self.target, self.source, self.roles, self._rows)


def original(target: Target, *, rows: int | None = None) -> Original:
    """Look at a target that is to be copied, with at most that many ``rows`` of a table where that is not None.

    Raises WrongInput where no installation can hold its copy.
    """
    with connect(target, purpose="copies the data") as conn:
        source, found = _look(conn), roles.read(conn)
        own = installations.own(target, conn)
        is_by_backup = rows is None and own is not None and source.is_most_of(target)
        return Original(target, found, own or installations.of_target(target, conn), is_by_backup, source, rows)


@contextmanager
def with_data(target: Target, *, most_bytes: int, plain: bool = True, twin: bool = False) -> Iterator[Copy]:
    """Give a branch that holds the target's data as of now; it is removed afterwards, whatever happens.

    The lock of its server is held all the time: only ``Copy.server`` can stop or destroy it.
    Unlogged tables, which a base backup lacks, are dumped as they are a moment later; prepared transactions are aborted
    on the branch.

    Tablespaces are copied into the branch's own folder.

    Raises Refused when the database is larger than ``most_bytes``, or when the disk has no room for the copy (two with
    ``plain``, which asks for :meth:`Copy.doubled`) and a fifth more; Unreachable when the data cannot be copied.
    Locks: the dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s; a base
    backup takes none, but for the dump of unlogged tables.
    """
    there = original(target)
    began, data_bytes, found = time.monotonic(), there.data_bytes, there.roles
    copies_bytes = data_bytes + plain * there.source.database_bytes
    there.refuse_large(most_bytes=most_bytes, copies_bytes=copies_bytes, count=1 + plain)
    twin = twin and _free_bytes() >= (copies_bytes + data_bytes) * SPARE
    with (
        branch_server.new_server(there.postgres, data_bytes=data_bytes, target=target.name) as server,
        ExitStack() as stack,
    ):
        name = there.copy_into(server)
        with progress.doing("copying the branch for the ways back") if twin else nullcontext():
            beside = (
                stack.enter_context(branch_server.twin_of(server, data_bytes=data_bytes, target=target.name))
                if twin
                else None
            )
        options, made_s = address.given_options(target), time.monotonic() - began

        def of(on: Server, kind: str) -> Copy:
            branch = branch_target(
                target, f"{kind} of {target.name}", on.name, name,
                role=found.session, superuser=on.superuser, options=options,
            )  # fmt: skip
            return Copy(on, found, plain=branch, safe=branch, how=there.how, made_s=made_s)

        copy = of(server, "branch")
        yield copy if beside is None else replace(copy, twin=of(beside, "back branch"))


def checkpoint_ahead(target: Target) -> None:
    """Let the server of the target begin the checkpoint that its base backup will ask for, and do not wait for it.

    A server with many new files needs seconds for it, in which it does little else than to wait for the disk.
    """
    if target.server is not None:
        threading.Thread(target=_checkpoint, args=(target,), name="checkpoint ahead", daemon=True).start()


def _checkpoint(target: Target) -> None:
    try:
        with Server(str(target.server)).connect(purpose="base backup", database=target.database or "postgres") as conn:
            if _look(conn).is_most_of(target):
                connection.limit(conn, **LIMITS)
                conn.execute("CHECKPOINT")
    except (RunbookError, psycopg.Error) as exc:
        log.info("the checkpoint ahead of the base backup failed, which makes its own: %s", exc)


def _look(conn: Connection) -> _Source:
    with conn.cursor(row_factory=class_row(_Source)) as cursor:
        found = cursor.execute(load("data_branch")["source"]).fetchone()
    assert found is not None  # noqa: S101 - it is a SELECT without FROM
    return found


def _free_bytes() -> int:
    return shutil.disk_usage(state_folder("servers")).free


def _refuse_large(target: Target, source: _Source, most_bytes: int | None, copies_bytes: int, count: int) -> None:
    if most_bytes is not None and source.database_bytes > most_bytes:
        raise Refused(
            f'refused to copy the data of target "{target.name}": it is larger than allowed',
            detail=f"Database {source.database} has {_mb(source.database_bytes)}; {_mb(most_bytes)} are allowed.",
            hint=f"Allow more. {WITHOUT}",
        )
    needed, free = int(copies_bytes * SPARE), _free_bytes()
    if free < needed:
        copies = counted(count, "copy", "copies")
        raise Refused(
            f'refused to copy the data of target "{target.name}": there is too little space on the disk',
            detail=f"{paths.state_dir()} has {_mb(free)} left; {copies} and a fifth more need {_mb(needed)}.",
            hint=f"Make space there, or name another folder in PGRUNBOOK_STATE. {WITHOUT}",
        )


def _from_base_backup(server: Server, target: Target, source: _Source, found: Roles) -> str:
    """Copy the target's server with the WAL that was written meanwhile; return the database's name.

    A base backup has nothing of what is unlogged: recovery empties it. It is dumped.
    """
    there = Server(str(target.server))
    log.info('copying server "%s" as server "%s"', there.name, server.name)
    try:
        server_copy.copy_running(there, server, source.tablespaces)
    except RunbookError as exc:
        raise not_copied(target, exc.detail) from exc
    with connect(target, purpose="copies the data") as conn:
        # The WAL of a tablespace names its folder: to replay it is to write there.
        if _look(conn).tablespaces != source.tablespaces:
            raise not_copied(target, "A tablespace was made or dropped meanwhile.")
    isolation.refuse_links(server, server.data_dir)
    server.launch()
    name = target.database or "postgres"
    branch_server.give_up_name(server, name, is_empty=False)
    isolation.close(server, name)
    with server.connect(purpose="branch", database=name) as conn:
        for (gid,) in conn.execute(load("data_branch")["prepared"]).fetchall():
            conn.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        empty = {str(relation) for (relation,) in conn.execute(load("data_branch")["unlogged"].encode()).fetchall()}
    with connect(target, purpose="copies the data") as conn:
        unlogged = [str(relation) for (relation,) in conn.execute(load("data_branch")["unlogged"].encode()).fetchall()]
    data_dump.load(server, target, name, found, only=[relation for relation in unlogged if relation in empty])
    return name


def _from_dump(server: Server, target: Target, source: _Source, found: Roles, rows: int | None = None) -> str:
    """Load a dump of everything, or a sample, into an empty server; return the database's name."""
    branch_server.start_empty(server)
    roles.name_bootstrap(server, found)
    name = source.database
    branch_server.give_up_name(server, name, is_empty=True)
    try:
        _loaded(server, target, source, found, rows)
    except data_dump.OrphansError as exc:
        log.info("the data are copied again, with rows that reference nothing: %s", exc.detail)
        with server.connect(purpose="branch") as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        _loaded(server, target, source, found, rows, with_orphans=True)
    isolation.close(server, name)
    with server.connect(purpose="branch", database=name) as conn:
        connection.limit(conn, **LIMITS)
        branch_server.analyze(conn)
    return name


def _loaded(
    server: Server, target: Target, source: _Source, found: Roles, rows: int | None, *, with_orphans: bool = False
) -> None:
    name = source.database
    with server.connect(purpose="branch") as admin:
        connection.limit(admin, **LIMITS)
        roles.apply(found, admin)
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} {}").format(
                sql.Identifier(name), sql.Literal(source.encoding), _locale(server, source.encoding)
            )
        )
        roles.apply_to_database(found, admin, name)
    target_dump.prepare(server, name, found.lacks)
    if rows is not None:
        row_sample.load_into(server, target, name, found, rows=rows, with_orphans=with_orphans)
        return
    with _size_told(server, name, source.database_bytes):
        data_dump.load(server, target, name, found, with_orphans=with_orphans)


@contextmanager
def _size_told(server: Server, name: str, of_bytes: int) -> Iterator[None]:
    """Tell once a second how large a database has grown, while the body loads it."""
    stage, over = progress.current(), threading.Event()

    def follow() -> None:
        with server.connect(purpose="branch") as conn:
            while not over.wait(1):
                (size,) = conn.execute("SELECT pg_catalog.pg_database_size(%s)", [name]).fetchone() or (0,)
                stage.how_far(f"{human(int(str(size)))} of {human(of_bytes)}")

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(follow)
        try:
            yield
        finally:
            over.set()
    told.result()


def _locale(server: Server, encoding: str) -> sql.SQL:
    """The target's own locale may be missing here. Locale C knows upper and lower case of ASCII only."""
    if server.installation.major >= 17 and encoding == "UTF8":
        return sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C'")
    return sql.SQL("LC_COLLATE 'C' LC_CTYPE 'C'")


def _copy(server: Server, name: str, other: str, found: Roles) -> None:
    """Copy the database. FILE_COPY does not write the copy into the WAL."""
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} {}")
    with server.connect(purpose="branch") as admin:
        connection.limit(admin, **LIMITS)
        branch_server.share_blocks(admin)
        admin.execute(copy.format(sql.Identifier(other), sql.Identifier(name), branch_server.file_copy(server)))
        roles.apply_to_database(found, admin, other)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MB"

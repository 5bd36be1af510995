"""Connections to a target: each has a name and timeouts, and the server ends it when its client is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import Cursor, Transaction, sql
from psycopg.generators import copy_from
from psycopg.pq import TransactionStatus

from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.errors import Broken, RunbookError, Unreachable, WrongInput

Found = TypeVar("Found")

CONNECT_TIMEOUT_S = 10
APPLICATION = "pgrunbook"  # how the application_name of our sessions begins
TRAFFIC = f"{APPLICATION} traffic"  # that of sessions which stand for the application's
READ_LOCK_TIMEOUT_MS = 2_000
READ_STATEMENT_TIMEOUT_MS = 30_000
OPTIONS = (
    f"-c lock_timeout={READ_LOCK_TIMEOUT_MS} -c statement_timeout={READ_STATEMENT_TIMEOUT_MS} "
    "-c client_connection_check_interval=1000 -c idle_in_transaction_session_timeout=600000 -c idle_session_timeout=0"
)
TRANSACTION_TIMEOUT_SINCE = 170_000
HINT = "Check that the server runs, that the service file is right, and that pg_hba.conf lets this machine in."
POOLER = "A pooler is in between: name the server's own address. Session settings do not survive pooling."
# What the server, or libpq, says when it lets nobody in.
HINTS = {
    "too many connections": "Up to 4 at once are needed: ALTER ROLE or ALTER DATABASE ... CONNECTION LIMIT gives more.",
    "too many clients": "The server's max_connections are used up: end other sessions, or wait.",
    "connection slots are reserved": "The server's max_connections are used up: end other sessions, or wait.",
    "permission denied for database": "Let an administrator GRANT CONNECT on it to the role: docs/rights.md.",
    "not permitted to log in": "Let an administrator run ALTER ROLE ... LOGIN, or name another role.",
    "password authentication failed": "Check the passfile, and whether the role's password has expired (VALID UNTIL).",
    "not currently accepting connections": "Nobody can connect to it (ALLOW_CONNECTIONS false): name another database.",
    'parameter "client_connection_check_interval"': "The server is older than PostgreSQL 14, the oldest that is known.",
    "unsupported startup parameter": POOLER,
}
# Each of the three resets something that the other two do not.
RESET_SESSION = ("RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL")

# What a user of the database plants in a schema of theirs (an operator for two types, a function, a cast) is never
# called by us: our names are those of pg_catalog, and temporary objects come last.
OURS = "pg_catalog, pg_temp"
# A policy hides rows silently; where row_security is off, the server raises an error instead. The others decide what
# our own text means, and how the answers are written.
OURS_BESIDE = {
    "row_security": "off", "DateStyle": "ISO", "IntervalStyle": "postgres", "quote_all_identifiers": "off",
    "array_nulls": "on", "transform_null_equals": "off", "standard_conforming_strings": "on",
}  # fmt: skip
SET_BESIDE = tuple(f"SET LOCAL {name} = {value}" for name, value in OURS_BESIDE.items())
PUT = b"SELECT " + b", ".join(
    f"pg_catalog.current_setting('{name}'), pg_catalog.set_config('{name}', %s, %s)".encode()
    for name in ("search_path", *OURS_BESIDE)
)


NAMES_ROLE = re.compile(r"(-c\s*|--)role=", re.I)
OPENED = b"SELECT pg_catalog.current_setting('client_connection_check_interval'), pg_catalog.current_setting('role')"
GIVEN_ROLE = b"""
SELECT FROM pg_catalog.pg_db_role_setting AS s
JOIN pg_catalog.pg_roles AS us ON us.rolname = session_user AND us.rolsuper
WHERE s.setrole = 0
  AND s.setdatabase IN (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND 'role=' || %s = ANY (s.setconfig)
"""


class Connection(psycopg.Connection[tuple[object, ...]]):
    """A connection on which our own queries resolve names in pg_catalog only, and see every row or fail.

    ``search_path`` and ``beside`` (in the order of ``OURS_BESIDE``) are the settings of a session of the target, as the
    text of a migration has left them; the first is None on a connection that :func:`connect` did not open. Text that
    is not ours runs inside :meth:`as_target`. ``is_schema_ours`` says that ``own_schema`` has looked at schema
    pgrunbook, and found nothing foreign.

    1. Between transactions the session has our values.
    2. The first text of the target in a transaction gets the target's as those of the session, and so the end of
       the transaction tells what SET and SET LOCAL have left of them; an abort takes them back.
    3. Behind it, and behind the transaction, ours are set again.

    Source: https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATH,
    https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-ROW-SECURITY
    """

    search_path: str | None = None
    beside: tuple[str, ...] = ()
    is_schema_ours: bool = False
    publishes_records: bool = False  # the target's publish_records
    _is_target: bool = False
    _had_target: bool = False
    _knows_end: bool = False  # of the transaction that is open
    _is_kept: bool = False  # what the body of a transaction or savepoint that ends has done

    def pin(self) -> None:
        """Remember what the session has of the target, and set ours from now on."""
        self.search_path, self.beside = self._put(OURS, OURS_BESIDE.values(), is_local=False)
        if self.has_transaction_timeout:
            self.execute("SET transaction_timeout = 0")

    @property
    def has_transaction_timeout(self) -> bool:
        """Whether the server knows that setting; a role's or database's own is not meant for us."""
        return self.info.server_version >= TRANSACTION_TIMEOUT_SINCE

    @contextmanager
    def as_target(self) -> Iterator[None]:
        """Run the body as a session of the target would; what it SETs there is remembered."""
        if self.search_path is None or self._is_target:
            yield
            return
        is_first = self._knows_end and not self._had_target
        self._is_target = self._had_target = True
        try:
            self._put(self.search_path, self.beside, is_local=self._is_inside and not is_first)
            yield
        finally:
            self._is_target = False
            if not self.closed and self.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
                self.search_path, self.beside = self._put(OURS, OURS_BESIDE.values(), is_local=self._is_inside)
            if not self._is_inside:
                self._had_target = False

    def execute(self, *args: Any, **options: Any) -> Cursor[tuple[object, ...]]:
        """Execute as psycopg does; what COPY ... TO STDOUT sends is read and dropped: a migration has no reader.

        Its cursor has no row count. Source: https://www.postgresql.org/docs/current/libpq-copy.html
        """
        try:
            return super().execute(*args, **options)
        except psycopg.ProgrammingError as exc:  # one of the driver, not of the server
            if exc.sqlstate or self.closed or self.info.transaction_status != TransactionStatus.ACTIVE:
                raise
        with self.lock:
            while isinstance(self.wait(copy_from(self.pgconn)), memoryview):
                pass
        return self.cursor()

    def oid_of(self, kind: Literal["regclass", "regtype"], name: str) -> int | None:
        """Return the OID of the relation or type that a name means to a session of the target, None where none is."""
        found = self._told(f"pg_catalog.to_{kind}(%(name)s)::pg_catalog.oid::pg_catalog.int8", name=name)
        return None if found is None else int(str(found))

    def schemas(self) -> list[str]:
        """Return the schemas in which a session of the target looks for names now, in order."""
        found = self._told("pg_catalog.current_schemas(true)::pg_catalog.text[]")
        return [str(schema) for schema in found] if isinstance(found, list) else []

    def _told(self, meant: str, **values: object) -> object:
        """Return the value of an expression of ours in which the search_path is the target's."""
        if self.search_path is None or self._is_target:
            found = self.execute(f"SELECT 0, {meant}".encode(), values).fetchone()
        else:  # in one question, from left to right: it is asked for every table of every statement
            query = (
                f"SELECT pg_catalog.set_config('search_path', %(path)s, %(is_local)s), {meant},"
                " pg_catalog.set_config('search_path', %(ours)s, %(is_local)s)"
            )
            values |= {"path": self.search_path, "ours": OURS, "is_local": self._is_inside}
            found = self.execute(query.encode(), values).fetchone()
        return None if found is None else found[1]

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        """Open a transaction or a savepoint, as psycopg does; its end leaves names resolved in pg_catalog.

        Deferred triggers of the application run at COMMIT, with the names and settings of the target.
        """
        is_outer = self.info.transaction_status == TransactionStatus.IDLE
        with self.own_path(is_outer=is_outer), super().transaction(savepoint_name, force_rollback) as transaction:
            yield transaction
            if is_outer:
                self.before_commit()
            self._is_kept = self._is_inside and not force_rollback

    @contextmanager
    def own_path(self, *, is_outer: bool) -> Iterator[None]:
        """Keep what we know of the target's settings true over the end of a transaction, and set ours behind it."""
        before, self._had_target = (self.search_path, self.beside), self._had_target and not is_outer
        had_target, was_ours = self._had_target, self.is_schema_ours
        self._knows_end = self._knows_end or is_outer
        try:
            yield
        except BaseException:
            # The server has taken back what the transaction set.
            (self.search_path, self.beside), self._had_target, self._is_kept = before, had_target, False
            raise
        finally:
            if not self._is_kept:
                self.is_schema_ours = was_ours  # a schema that it has created is taken back
            self._knows_end, self._is_kept = self._knows_end and not is_outer, False
        if not is_outer or not self._had_target or self.search_path is None:
            return
        self._had_target = False
        found = self._put(OURS, OURS_BESIDE.values(), is_local=False)
        self.search_path, self.beside = before if found[0] == OURS else found  # ours: it was aborted

    def before_commit(self) -> None:
        """Give the settings of the target to the deferred triggers that run at COMMIT."""
        self._is_kept = self._is_inside
        if not self._is_inside:
            return  # it is aborted: COMMIT will say so
        if self._had_target and self.search_path is not None and not self._is_target:
            self._put(self.search_path, self.beside, is_local=True)

    def left_path(self) -> None:
        """Know that this transaction leaves other settings to the session."""
        self._had_target = True

    @property
    def _is_inside(self) -> bool:
        return self.info.transaction_status == TransactionStatus.INTRANS

    def _put(self, path: str, beside: Iterable[str], *, is_local: bool) -> tuple[str, tuple[str, ...]]:
        """Set all; return what they were."""
        values = [value for setting in (path, *beside) for value in (setting, is_local)]
        found = [str(value) for value in self.execute(PUT, values).fetchone() or ()]
        return found[0], tuple(found[2::2])


def connect(target: Target, *, purpose: str = "read") -> Connection:
    """Open an autocommit connection to the target, under explicit timeouts.

    ``application_name`` shows ``purpose``, so that everybody who reads pg_stat_activity
    sees who we are. What the service or URL names holds, and nothing of the operator's shell; text is sent as UTF-8.
    The server ends the session's statement within a second when our process is gone
    (client_connection_check_interval, https://www.postgresql.org/docs/current/runtime-config-connection.html).
    No statement is prepared on the server: what a migration does to the session cannot break our statements.
    Behind a pooler that passes over settings nothing is set: the next client gets the session with what we left in it.

    Raises Unreachable when the server does not answer or does not let us in, or for such a pooler, WrongInput when the
    address cannot be understood, or where the database's owner has chosen the role of a superuser's session.
    """
    options, given = address.given_options(target), address.keywords(target)
    own = {
        "application_name": f"{APPLICATION} {purpose}"[:63],
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": address.ENCODING,
        "options": f"{options} {OPTIONS}".strip(),
    }
    try:
        conn = Connection.connect(**{**given, **own}, autocommit=True, prepare_threshold=None)
        interval, role = conn.execute(OPENED).fetchone() or ("", "")
        if interval == "1s":
            conn.pin()
            # On our own servers, and so on branches, it is a copy of the target's, and nobody else connects.
            is_known = role == "none" or target.server is not None or NAMES_ROLE.search(options)
            if is_known or conn.execute(GIVEN_ROLE, [role]).fetchone() is None:
                conn.publishes_records = target.publish_records
                return conn
        conn.close()
    except psycopg.Error as exc:
        hint = next((hint for told, hint in HINTS.items() if told in str(exc)), HINT)
        raise _unreachable(target, _without_secret(str(exc), given), hint) from None  # its text may quote the address
    if interval == "1s":
        raise WrongInput(
            f'cannot use target "{target.name}" as a superuser: the database gives its sessions the role {role}',
            detail="Whatever that role has planted would be trusted, and RESET ROLE gives it a superuser's rights.",
            hint=f"ALTER DATABASE ... RESET role, or name it: options=-c role={role}; or connect as that role.",
        )
    raise _unreachable(target, "The session is without the settings with which it was opened.", POOLER)


@contextmanager
def transaction(conn: Connection, *, lock_timeout_ms: int, statement_timeout_ms: int) -> Iterator[None]:
    """Run the body in a transaction under both timeouts, which begins in a single round trip.

    Each of its statements sees what was committed before it, whatever the role's own default is: what follows the
    lock on a table has to see the rows of those who had it before.

    Raises Broken when the server answers COMMIT with something else.
    """
    with conn.own_path(is_outer=True):
        conn.execute(
            b"BEGIN ISOLATION LEVEL READ COMMITTED; " + _limits("LOCAL", lock_timeout_ms, statement_timeout_ms)
        )
        try:
            yield
        except BaseException:
            if not conn.closed:
                with suppress(psycopg.Error):
                    conn.execute("ROLLBACK")
            raise
        conn.before_commit()
        told = conn.execute("COMMIT").statusmessage
        if told != "COMMIT":
            raise Broken(f"the server answered COMMIT with {told}", state="The transaction was aborted.")


def limit_locally(conn: Connection, *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Set both timeouts for the transaction that is open on the connection."""
    conn.execute(_limits("LOCAL", lock_timeout_ms, statement_timeout_ms))


def limit(conn: Connection, *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Set both timeouts for the session."""
    conn.execute(_limits("SESSION", lock_timeout_ms, statement_timeout_ms))


def reset(conn: Connection) -> None:
    """Reset every setting that a migration left in the session: it is meant for that migration only."""
    conn.execute("; ".join(RESET_SESSION).encode())
    if conn.search_path is not None:
        conn.pin()


def reset_in_transaction(conn: Connection) -> None:
    """Take back whatever SET a migration left, at the end of its transaction; not within a pipeline."""
    conn.left_path()
    lifted = ["SET LOCAL transaction_timeout = 0"] if conn.has_transaction_timeout else []
    conn.execute("; ".join((*RESET_SESSION, f"SET LOCAL search_path = {OURS}", *SET_BESIDE, *lifted)).encode())


def at_once(conns: Sequence[Connection], work: Callable[[Connection], Found]) -> list[Found]:
    """Do some work on several connections at once; return what each found, in their order.

    Where one fails, or we are interrupted, the statements of the others are cancelled.
    """
    with ThreadPoolExecutor(max(1, len(conns))) as pool:
        begun = [pool.submit(work, conn) for conn in conns]
        try:
            return [one.result() for one in begun]
        except BaseException:
            while True:  # one that had not sent its statement yet is not met by the first
                for conn in conns:
                    with suppress(psycopg.Error):  # one that is lost
                        conn.cancel()
                if not wait(begun, timeout=0.1).not_done:
                    raise


def _limits(scope: str, lock_timeout_ms: int, statement_timeout_ms: int) -> bytes:
    settings = sql.SQL("SET {0} lock_timeout = {1}; SET {0} statement_timeout = {2}")
    return (
        settings.format(sql.SQL(scope), sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms))
        .as_string()
        .encode()
    )


def _without_secret(text: str, given: dict[str, Any]) -> str:
    for secret in filter(None, [given.get("password"), given.get("sslpassword")]):
        for spelling in (str(secret), quote(str(secret), safe="")):
            text = text.replace(spelling, "***")
    return " ".join(text.split())


def _unreachable(target: Target, reason: str, hint: str) -> RunbookError:
    if target.server is not None:
        hint = f"Start it: pgrunbook server start --name {target.server}; for the demo database: pgrunbook demo."
    return Unreachable(f'could not connect to target "{target.name}"', detail=reason, hint=hint)

"""Indexes that make queries slow: found by what the server has noted, and built anew without blocking."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgrunbook.database import index_health
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import snapshot
from pgrunbook.errors import StatementFailed, WrongInput
from servers import Server
from test_lock_tree import opened

LEAST = 100_000


@pytest.fixture
def name(database: Callable[..., str]) -> str:
    """A database with a table of an odd name."""
    return database('CREATE TABLE "Odd t" (id int, b text)', "INSERT INTO \"Odd t\" SELECT n, 'x' || n % 7"
                    " FROM generate_series(1, 20000) AS n", 'CREATE INDEX "odd i" ON "Odd t" (id)',
                    'CREATE INDEX "text i" ON "Odd t" (b)')  # fmt: skip


@pytest.fixture
def conn(server: Server, name: str) -> Iterator[Connection]:
    """A connection to it."""
    with Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as found:
        yield found


def bloated(conn: Connection) -> list[str]:
    return [one.name for one in index_health.bloated(conn, least_bytes=LEAST)]


def test_an_index_of_deleted_rows_is_bloated_until_it_is_built_anew(conn: Connection) -> None:
    """One that is full is none, nor is one that is small, nor one whose equal keys are stored once."""
    conn.execute('VACUUM ANALYZE "Odd t"')
    assert bloated(conn) == []
    conn.execute('DELETE FROM "Odd t" WHERE id % 10 <> 0')
    conn.execute('VACUUM ANALYZE "Odd t"')
    assert 'public."odd i"' in bloated(conn)
    assert index_health.bloated(conn) == [], "too small to be worth it"
    before = index_health.bloated(conn, least_bytes=LEAST)[0]
    assert before.bytes > 3 * before.needed_estimate > 0
    for name in bloated(conn):
        index_health.rebuild(conn, index_health.chosen(conn, name))
    assert bloated(conn) == []


def test_expressions_without_statistics_are_told_until_analyze(conn: Connection) -> None:
    """ANALYZE before CREATE INDEX makes none for it: the guide's order."""
    conn.execute('ANALYZE "Odd t"')
    assert index_health.without_statistics(conn) == {}
    conn.execute('CREATE INDEX upper_b ON "Odd t" (upper(b))')
    assert index_health.without_statistics(conn) == {'public."Odd t"': ["upper_b"]}
    conn.execute('ANALYZE "Odd t"')
    assert index_health.without_statistics(conn) == {}


def test_a_rebuild_that_is_cut_off_says_what_it_leaves(
    server: Server, name: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old transaction is waited for, not for ever; what is no index is refused before."""
    monkeypatch.setitem(index_health.LIMITS, "lock_timeout_ms", 100)
    with opened(server, name, "old", 'LOCK "Odd t" IN ROW EXCLUSIVE MODE'), pytest.raises(StatementFailed) as failed:
        index_health.rebuild(conn, 'public."odd i"')
    assert failed.value.message == 'could not build public."odd i" anew'
    assert failed.value.section == "left-behind"
    with pytest.raises(WrongInput, match="there is no index"):
        index_health.chosen(conn, '"Odd t"')


def test_an_index_is_lost_when_nothing_like_it_is_there(conn: Connection) -> None:
    """Not one that has another name now, nor one whose table is gone; one of that name on something else is none."""
    conn.execute("CREATE TABLE gone (a int); CREATE INDEX ON gone (a); CREATE TABLE p (a int) PARTITION BY LIST (a);"
                 "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE INDEX on_p ON p (a);"
                 'CREATE INDEX ON "Odd t" (lower(b)) WHERE id > 3')  # fmt: skip
    before = snapshot(conn)
    assert index_health.lost(conn, before) == []
    conn.execute('DROP TABLE gone; ALTER INDEX "odd i" RENAME TO "new ""name"""; DROP INDEX "text i"; DROP INDEX on_p;'
                 'DROP INDEX "Odd t_lower_idx"; CREATE INDEX ON "Odd t" (lower(b))')  # fmt: skip
    assert [(one.relation, one.index_name) for one in index_health.lost(conn, before)] == [
        ('public."Odd t"', "Odd t_lower_idx"), ('public."Odd t"', "text i"), ("public.p", "on_p"),
    ]  # fmt: skip

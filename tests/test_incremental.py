"""Incremental base backups: taken, verified, restored from, kept with what they stand on, and damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from own_state import own_state
from pgrunbook.branches import backup, incremental, retention
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.backup import BaseBackup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point, lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.errors import Broken, Refused
from servers import PROGRAMS, VERSIONS


@pytest.fixture(scope="module")
def home() -> Iterator[None]:
    with own_state():
        yield


@pytest.fixture(scope="module")
def source(home: None) -> Server:
    """A server of the wheel's version with a table."""
    assert home is None
    server = Server("source")
    server.start()
    with server.connect() as conn, conn.as_target():
        conn.execute("CREATE TABLE t (n int)")
        conn.execute("INSERT INTO t SELECT generate_series(1, 100000)")
    return server


def changed(server: Server, name: str) -> Point:
    with server.connect() as conn, conn.as_target():
        conn.execute("UPDATE t SET n = n + 1 WHERE n % 100 = 0")
        conn.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        lsn = create_restore_point(conn, name)
        wait_archived(conn, lsn)
    return Point(name=name, at_lsn=lsn)


def content(server: Server) -> object:
    with server.connect() as conn, conn.as_target():
        return conn.execute("SELECT count(*), sum(n) FROM t").fetchone()


@pytest.fixture
def pair(source: Server) -> tuple[BaseBackup, BaseBackup]:
    """A full backup, and an incremental one on it."""
    source.do("sh", "-c", "rm -rf backups/*")
    whole = backup.take_base_backup(source)
    changed(source, "between")
    return whole, incremental.take(source)


@pytest.mark.slow
def test_a_restore_combines_both_and_replays_the_rest(source: Server, pair: tuple[BaseBackup, BaseBackup]) -> None:
    """All rows are those at the point; only the WAL behind the incremental backup is replayed."""
    whole, on_it = pair
    assert (on_it.onto, whole.onto) == (whole.id, None)
    assert on_it.bytes < whole.bytes / 2
    assert backup.list_base_backups(source) == [whole, on_it]
    point = changed(source, "behind")
    expected = content(source)
    changed(source, "later")
    try:
        done = restore(source, point, name="restored")
        assert done.backup == on_it
        assert done.measures.start_lsn == on_it.start_lsn
        assert lsn_number(done.measures.start_lsn) > lsn_number(whole.stop_lsn)
        assert content(done.server) == expected
        assert done.server.stop().state.value == "stopped"
        done.server.start()
        assert content(done.server) == expected
    finally:
        Server("restored").destroy()


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_damage_in_either_is_named(source: Server, pair: tuple[BaseBackup, BaseBackup], which: int) -> None:
    """Neither is used without the other."""
    path = pair[which].path / "backup_label"
    path.write_bytes(path.read_bytes().replace(b"pgrunbook", b"pgrunbuok"))
    with pytest.raises(Broken, match=f'base backup {pair[which].id} of server "source" is damaged') as failed:
        restore(source, changed(source, f"damaged-{which}"), name="damaged")
    assert "backup_label" in failed.value.detail
    assert not list(source.dir.parent.glob("damaged*"))


@pytest.mark.slow
def test_what_an_incremental_backup_stands_on_stays(source: Server, pair: tuple[BaseBackup, BaseBackup]) -> None:
    """It is no backup without it; where it is gone, that is said before anything is copied."""
    whole, on_it = pair
    assert retention.choose(source, keep=1, days=1).backups == []
    (whole.path.with_suffix(".json")).rename(whole.path.with_suffix(".json.damaged"))
    with pytest.raises(Broken) as failed:
        restore(source, changed(source, "alone"), name="alone")
    assert failed.value.message == f"base backup {on_it.id} cannot be used: {whole.id}, which it stands on, is gone"
    assert not list(source.dir.parent.glob("alone*"))


@pytest.mark.slow
def test_without_a_full_backup_there_is_none(source: Server) -> None:
    """One sentence says why."""
    source.do("sh", "-c", "rm -rf backups/*")
    with pytest.raises(Refused) as refused:
        incremental.take(source)
    assert refused.value.lines() == [
        'cannot take an incremental backup of server "source"',
        "Detail: There is no full backup that it could stand on.",
        "State: Nothing changed in the database.",
        "Hint: Take a full one: pgrunbook backup create.",
    ]
    assert not incremental.is_worth_it(source)


@pytest.mark.skipif(VERSIONS[0] >= incremental.SINCE, reason="no older PostgreSQL is here")
def test_an_older_version_has_full_ones_only(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the version."""
    assert home is None
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[VERSIONS[0]]))
    assert incremental.hindrance(Server("older")) == f"PostgreSQL {VERSIONS[0]} has none; 17 and later have."

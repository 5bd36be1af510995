"""Restores of a server that has changed its timeline: across the change, and never to another timeline's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from acting import wait_until
from own_state import own_source
from pgrunbook.branches import archive, points, wal_segments
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.backup import take_base_backup, windows
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point, lsn_number, lsn_text, parse_point
from pgrunbook.branches.server import Server
from pgrunbook.errors import WrongInput

AS_WELL = [pytest.param("row-1", [1], marks=pytest.mark.slow), pytest.param("row-3", [1, 3], marks=pytest.mark.slow)]
pytestmark = pytest.mark.newest


@dataclass(frozen=True)
class Past:
    """A server that went back to ``left_at`` and on from there: row 1 was before, 2 is lost, 3 came after.

    ``lost`` and ``kept`` are LSNs behind rows 2 and 3.
    """

    source: Server
    before: str
    left_at: str
    lost: str
    kept: str


@pytest.fixture(scope="module")
def past(version: int) -> Iterator[Past]:
    with own_source(version) as source:
        take_base_backup(source)
        before = row(source, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)", "row-1")
        source.stop()
        source.do("cp", "-a", "data", "data.then")
        source.start()
        lost = row(source, "INSERT INTO t VALUES (2)", "row-2")
        source.stop()
        # Its data of then become a new timeline, as after a failover or a restore in place.
        source.do("sh", "-c", "rm -rf data && mv data.then data && touch data/recovery.signal")
        with source.lock():
            source.launch(more={"restore_command": "false", "recovery_target_timeline": "current"})
        wait_until(lambda: not is_in_recovery(source))
        source.stop()
        source.start()
        kept = row(source, "INSERT INTO t VALUES (3)", "row-3")
        assert lsn_number(kept) > lsn_number(lost)
        yield Past(source, before, lsn_text(archive.timelines(source).left_at[0]), lost, kept)


def row(server: Server, statements: str, name: str) -> str:
    with server.connect() as conn, conn.as_target():
        for statement in statements.split("; "):
            conn.execute(statement.encode())
        lsn = create_restore_point(conn, name)
        wait_archived(conn, lsn)
    return lsn


def is_in_recovery(server: Server) -> object:
    with server.connect() as conn:
        return (conn.execute("SELECT pg_is_in_recovery()").fetchone() or (True,))[0]


def rows(server: Server) -> list[object]:
    with server.connect() as conn, conn.as_target():
        return [one[0] for one in conn.execute("SELECT DISTINCT n FROM t ORDER BY n")]


@pytest.mark.slow
@pytest.mark.parametrize(("to", "expected"), [("before", [1]), ("kept", [1, 3]), *AS_WELL])
def test_a_restore_goes_across_the_change_of_timeline(past: Past, to: str, expected: list[object]) -> None:
    """From a backup of before: to a point before it and behind it, by name and by LSN."""
    assert archive.timelines(past.source).newest == 2
    assert len(windows(past.source)) == 1
    lsn = {"before": f"lsn:{past.before}", "kept": f"lsn:{past.kept}@2"}.get(to, to)
    try:
        assert rows(restore(past.source, parse_point(lsn), name="across").server) == expected
    finally:
        Server("across").destroy()


@pytest.mark.slow
def test_a_restore_point_of_the_timeline_that_was_left_is_unknown(past: Past) -> None:
    """Its WAL is there, but leads elsewhere."""
    with pytest.raises(WrongInput, match='could not find restore point "row-2" in the WAL'):
        restore(past.source, Point(name="row-2"), name="lost")


@pytest.mark.slow
def test_an_lsn_of_another_timeline_is_not_taken_by_its_number(past: Past) -> None:
    """Behind the change a number alone is refused, and so is one of the timeline that was left."""
    with pytest.raises(WrongInput) as failed:
        restore(past.source, parse_point(past.lost), name="lost")
    told = f'Detail: Server "source" is on timeline 2; it left timeline 1 at {past.left_at}.'
    assert failed.value.lines() == [
        f"LSN {past.lost} is a place on more than one timeline",
        told,
        "State: Nothing changed in the database.",
        f"Hint: If it was read on timeline 2, write lsn:{past.lost}@2.",
    ]
    with pytest.raises(WrongInput) as failed:
        restore(past.source, parse_point(f"{past.lost}@1"), name="lost")
    assert failed.value.lines()[:2] == [
        f'LSN {past.lost} of timeline 1 does not lie in the past of server "source"',
        told,
    ]
    assert f"is lsn:{past.lost}@2: another place" in failed.value.hint
    with pytest.raises(WrongInput, match=f"LSN {past.before} of timeline 7 does not lie in the past"):
        points.located(past.source, parse_point(f"{past.before}@7"))
    assert not list(past.source.dir.parent.glob("lost*"))


@pytest.mark.parametrize(
    ("lsn", "timeline", "holds", "one_place"),
    [("0/100", 1, True, True), ("0/100", 3, True, True), ("0/201", 1, False, False), ("0/201", 2, True, False),
     ("0/201", 3, True, False), ("0/401", 2, False, False), ("0/401", 3, True, False), ("0/401", 9, False, False)],
)  # fmt: skip
def test_an_lsn_belongs_to_the_timelines_that_go_on_from_it(
    lsn: str, timeline: int, holds: bool, one_place: bool
) -> None:
    """Three of them, left at 0/200 and 0/400."""
    past = wal_segments.Timelines(((1, 0), (2, 0), (3, 0)), (0x200, 0x400))
    assert (past.holds(lsn, timeline), past.is_one_place(lsn)) == (holds, one_place)


@pytest.mark.parametrize("text", ["lsn:0/3000060", "lsn:0/3000060@2", "before-release", "2026-11-22 16:54:31+00:00"])
def test_a_point_is_spelled_as_it_is_read(text: str) -> None:
    """A run that is resumed reads it again: without the timeline it would be another place."""
    assert parse_point(text).spelled() == text

"""Base backups, archived WAL and restores to a point in time, each on real servers."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrunbook.branches import points
from pgrunbook.branches.archive import create_restore_point, restore_points, wait_archived
from pgrunbook.branches.backup import BaseBackup, list_base_backups, take_base_backup, windows
from pgrunbook.branches.recovery import Restored, restore
from pgrunbook.branches.recovery_target import Point, lsn_number, lsn_text, parse_point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.branches.server_status import ServerState
from pgrunbook.branches.wal_segments import SEGMENT_BYTES
from pgrunbook.config import paths
from pgrunbook.display import progress
from pgrunbook.display.progress import Stage
from pgrunbook.display.units import human
from pgrunbook.errors import Blocked, Broken, Refused, WrongInput


@dataclass(frozen=True)
class Past:
    """What happened on the source: rows 1, 2, 3, each followed by a point, then 4, and it goes on."""

    source: Server
    backup: BaseBackup
    before_at: datetime
    time: datetime
    lsn: str
    name: str
    name_lsn: str


@pytest.fixture(scope="module", autouse=True)
def state() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="pgr-"))
    base.chmod(0o755)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PGRUNBOOK_STATE", str(base / "it's state"))
        env.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        yield paths.state_dir()
        for name in server_names():
            Server(name).destroy()
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def past() -> Past:
    source = Server("source")
    source.start()
    before_at = datetime.now(UTC)
    with source.connect() as conn, conn.as_target():
        conn.execute("CREATE TABLE events (n int)")
        conn.execute("ALTER SYSTEM SET work_mem = '5MB'")
        conn.execute("ALTER SYSTEM SET archive_timeout = '1h'")
        with pytest.MonkeyPatch.context() as env:
            env.setenv("PGRUNBOOK_SERVER_FSYNC", "on")  # so that the copy is written to the disk
            backup = take_base_backup(source)
        conn.execute("INSERT INTO events VALUES (1)")
        row = conn.execute("SELECT clock_timestamp()").fetchone()
        assert row
        assert isinstance(row[0], datetime)
        conn.execute("INSERT INTO events VALUES (2)")
        lsn = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert lsn
        conn.execute("INSERT INTO events VALUES (3)")
        name_lsn = create_restore_point(conn, "before-release")
        conn.execute("INSERT INTO events VALUES (4)")
    return Past(source, backup, before_at, row[0], str(lsn[0]), "before-release", name_lsn)


def events(server: Server) -> list[object]:
    with server.connect() as conn, conn.as_target():
        return [row[0] for row in conn.execute("SELECT n FROM events ORDER BY n")]


def one(server: Server, query: str) -> object:
    with server.connect() as conn, conn.as_target():
        row = conn.execute(query).fetchone()  # type: ignore[arg-type]
    assert row
    return row[0]


@pytest.fixture
def restored_to(past: Past) -> Iterator[Callable[[Point], Restored]]:
    made: list[Server] = []

    def run(point: Point) -> Restored:
        made.append(Server("restored"))
        return restore(past.source, point, name="restored")

    yield run
    for server in made:
        server.destroy()


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("field", "rows", "told"),
    [
        ("time", [1], "recovery stopping before commit of transaction"),
        ("lsn", [1, 2], "recovery stopping before WAL location (LSN)"),
        ("name", [1, 2, 3], 'recovery stopping at restore point "before-release"'),
    ],
)
def test_a_restore_ends_at_the_point_while_the_source_goes_on(
    past: Past, field: str, rows: list[int], told: str, restored_to: Callable[[Point], Restored]
) -> None:
    """What was committed before the point is there, what came after is not; both servers live on."""
    restored = restored_to(Point(**{field: getattr(past, field)}))
    new, measures = restored.server, restored.measures
    assert events(new) == rows
    assert one(new, "SELECT pg_is_in_recovery()") is False
    assert measures.told.startswith(told)
    assert lsn_number(measures.start_lsn) + measures.replayed_bytes == lsn_number(measures.end_lsn)
    assert measures.last_transaction_at
    assert past.before_at < measures.last_transaction_at < past.time + timedelta(seconds=30)
    with new.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO events VALUES (100)")
    with past.source.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO events VALUES (200)")
        conn.execute("DELETE FROM events WHERE n = 200")
    assert events(past.source) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_restored_server_keeps_its_past_to_itself(past: Past, restored_to: Callable[[Point], Restored]) -> None:
    """It archives to its own archive, takes no archive setting along, and can be stopped and started."""
    before = sorted(path.name for path in past.source.archive_dir.iterdir())
    new = restored_to(Point(name=past.name, at_lsn=past.name_lsn)).server
    with new.connect() as conn, conn.as_target():
        wait_archived(conn, str(one(new, "SELECT pg_current_wal_lsn()")))
    assert one(new, "SHOW work_mem") == "5MB"
    assert one(new, "SHOW archive_timeout") == "0"
    assert not list(past.source.archive_dir.glob("00000002*"))
    assert sorted(path.name for path in past.source.archive_dir.iterdir())[: len(before)] == before
    assert new.stop().state is ServerState.STOPPED
    assert new.start().state is ServerState.RUNNING
    assert events(new) == [1, 2, 3]


@pytest.mark.slow
def test_a_restored_server_can_be_restored_from(past: Past, restored_to: Callable[[Point], Restored]) -> None:
    """It is on another timeline, with its own backups and its own points."""
    new = restored_to(Point(lsn=past.lsn)).server
    take_base_backup(new)
    with new.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO events VALUES (30)")
        create_restore_point(conn, "second-life")
        conn.execute("INSERT INTO events VALUES (40)")
    try:
        again = restore(new, parse_point("second-life"), name="again")
        assert events(again.server) == [1, 2, 30]
    finally:
        Server("again").destroy()


@pytest.mark.slow
def test_progress_tells_bytes_up_to_the_point(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay ends at its total."""
    told: list[str] = []
    monkeypatch.setattr(Stage, "how_far", lambda stage, says: told.append(f"{stage.what}: {says}"))
    try:
        with progress.watched() as work:
            restore(past.source, Point(lsn=past.lsn), name="told")
    finally:
        Server("told").destroy()
    total = human(lsn_number(past.lsn) - lsn_number(past.backup.start_lsn))
    assert told[-1] == f"replaying the WAL: {total} of {total}"
    assert [what for what, _ in work.ended][-2:] == [
        f"copying the base backup of {human(past.backup.bytes)}", "replaying the WAL",
    ]  # fmt: skip


def test_a_restore_never_goes_over_a_server(past: Past) -> None:
    """The source itself, and every other server that is there, is refused."""
    with pytest.raises(Refused) as refused:
        restore(past.source, Point(name=past.name), name="source")
    assert refused.value.lines() == [
        'refused to restore over server "source"',
        f"Detail: {past.source.dir} exists; a restore only ever makes a new server.",
        "State: Nothing changed in the database.",
        "Hint: Choose another name.",
    ]


@pytest.mark.slow
def test_a_stopped_source_can_be_restored_up_to_its_last_commit(past: Past) -> None:
    """The end of its WAL was never archived; it is read where it lies."""
    lsn = str(one(past.source, "SELECT pg_current_wal_insert_lsn()::text"))
    past.source.stop()
    try:
        restored = restore(past.source, Point(lsn=lsn), name="after-crash")
        assert events(restored.server) == [1, 2, 3, 4]
        assert past.source.status().state is ServerState.STOPPED
    finally:
        Server("after-crash").destroy()
        past.source.start()


def test_a_point_beyond_the_wal_of_a_running_source_is_wrong_input(past: Past) -> None:
    """Nothing is copied for a place that does not exist yet."""
    with pytest.raises(WrongInput, match="LSN 7/0 lies beyond the WAL"):
        restore(past.source, parse_point("7/0"), name="beyond")
    assert Server("beyond").status().state is ServerState.ABSENT


def test_wal_that_ends_before_the_point_is_told_and_nothing_half_made_stays(past: Past) -> None:
    """It is seen before anything is copied; the error names the newest archived WAL."""
    past.source.stop()
    try:
        with pytest.raises(Broken) as failed:
            restore(past.source, Point(lsn="7/0"), name="short")
    finally:
        past.source.start()
    message, detail, state, _ = failed.value.lines()
    assert message == "could not reach LSN 7/0: the WAL ends before it"
    newest = max(path.name for path in past.source.archive_dir.iterdir() if len(path.name) == 24)
    assert detail.startswith(f"Detail: The newest archived WAL is {newest[:8]}")
    assert state == "State: Nothing changed in the database."
    assert not list(past.source.dir.parent.glob("short*"))


def test_a_point_before_the_oldest_base_backup_is_wrong_input(past: Past) -> None:
    """The error tells when the oldest one ended."""
    with pytest.raises(WrongInput, match="could not find a base backup") as failed:
        restore(past.source, Point(time=past.before_at), name="early")
    assert failed.value.detail.startswith(f"The oldest ended at {past.backup.ended_at}, LSN ")


def test_a_name_that_is_not_in_the_wal_is_wrong_input(past: Past) -> None:
    """The names that are there are told."""
    with pytest.raises(WrongInput, match='could not find restore point "before-relase"') as failed:
        restore(past.source, Point(name="before-relase"), name="unknown")
    assert "before-release" in failed.value.detail


def test_a_name_that_exists_twice_is_wrong_input(past: Past) -> None:
    """PostgreSQL would silently take the first one."""
    with past.source.connect() as conn, conn.as_target():
        create_restore_point(conn, "twice")
        second = create_restore_point(conn, "twice")
    with pytest.raises(WrongInput, match='restore point "twice" of server "source" exists 2 times'):
        restore(past.source, Point(name="twice"), name="twice")
    known = [point.lsn for point in restore_points(past.source) if point.name == "twice"]
    assert len(known) == 2
    assert lsn_number(known[0]) < lsn_number(known[1]) < lsn_number(second)


@pytest.mark.slow
def test_a_restore_point_that_is_not_where_it_was_said_to_be_is_not_promoted(past: Past) -> None:
    """Recovery stopped at another record of that name: the promise is broken, the new server removed."""
    elsewhere = str(one(past.source, f"SELECT '{past.name_lsn}'::pg_lsn - 1000"))
    with pytest.raises(Broken, match="could not stop at restore point"):
        restore(past.source, Point(name=past.name, at_lsn=elsewhere), name="elsewhere")
    assert Server("elsewhere").status().state is ServerState.ABSENT


def test_the_window_reaches_from_the_oldest_backup_to_the_archived_wal(past: Past) -> None:
    """It grows with every segment that is archived; without a base backup there is none."""
    with past.source.connect() as conn, conn.as_target():
        wait_archived(conn, past.name_lsn)
    (reach,) = windows(past.source)
    assert reach
    assert reach.earliest_at == past.backup.ended_at
    assert reach.earliest_lsn == past.backup.stop_lsn
    assert lsn_number(reach.latest_lsn) >= lsn_number(past.name_lsn)
    assert reach.latest_at > reach.earliest_at
    assert windows(Server("nobody")) == []


def test_base_backups_are_listed_with_their_facts(past: Past) -> None:
    """A backup is read again as it was told when it was taken; a half made one is not listed."""
    (past.source.backups_dir / "20260101T000000000Z.new").mkdir()
    assert list_base_backups(past.source)[0] == past.backup
    assert lsn_number(past.backup.start_lsn) < lsn_number(past.backup.stop_lsn)
    assert past.backup.bytes > 10_000_000
    assert [backup.id for backup in list_base_backups(past.source)] == [past.backup.id]


@pytest.mark.slow
def test_points_out_of_reach_are_told_with_the_nearest(past: Past) -> None:
    """Before the oldest backup, and beyond the WAL that is written."""
    with pytest.raises(WrongInput) as early:
        restore(past.source, Point(lsn="0/1000028"), name="early")
    nearest = f"the nearest point is lsn:{past.backup.stop_lsn}."
    assert early.value.hint == f"What lies before it cannot be restored; {nearest}"
    with pytest.raises(WrongInput) as late:
        restore(past.source, Point(lsn="7/0"), name="late")
    now = late.value.hint.rpartition("lsn:")[2].rstrip(".")
    try:
        assert restore(past.source, parse_point(now), name="late").measures.told
    finally:
        Server("late").destroy()


@pytest.mark.slow
def test_an_end_of_the_wal_within_its_last_segment_is_told_with_what_was_reached(past: Past) -> None:
    """Only replay finds it: the LSN, the last transaction, and the nearest point, which can be restored."""
    end = str(one(past.source, "SELECT pg_current_wal_insert_lsn()::text"))
    past.source.stop()
    try:
        beyond = lsn_text((lsn_number(end) // SEGMENT_BYTES + 2) * SEGMENT_BYTES - 100)
        with pytest.raises(Broken) as failed:
            restore(past.source, Point(lsn=beyond), name="short")
        assert failed.value.message == f"could not reach LSN {beyond}: the WAL ends before it"
        reached = re.search(r"Replay reached (\S+), and LSN (\S+) was asked for\.", failed.value.detail)
        assert reached
        assert (reached[2], f"lsn:{reached[1]}" in failed.value.hint) == (beyond, True)
        assert lsn_number(end) <= lsn_number(reached[1]) < lsn_number(beyond)
    finally:
        past.source.start()
    assert not list(past.source.dir.parent.glob("short*"))


@pytest.mark.slow
def test_a_server_with_tablespaces_is_not_backed_up(past: Past) -> None:
    """A copy would share the files of its source."""
    folder = past.source.do("mktemp", "-d").stdout.strip()
    with past.source.connect() as conn, conn.as_target():
        conn.execute(f"CREATE TABLESPACE far LOCATION '{folder}'")
        with pytest.raises(Refused, match="it has tablespaces"):
            take_base_backup(past.source)
        conn.execute("DROP TABLESPACE far")
    Path(folder).rmdir()
    # Gone again, it stands in the way of a restore to a point behind it all the same.
    with pytest.raises(Refused, match="a tablespace was made since the base backup") as refused:
        restore(past.source, Point(lsn=str(one(past.source, "SELECT pg_current_wal_insert_lsn()"))), name="far")
    assert folder in refused.value.detail
    assert not list(past.source.dir.parent.glob("far*"))


def test_waiting_for_the_archive_tells_when_archiving_fails(past: Past) -> None:
    """The wait ends with the failure, not with its own timeout."""
    past.source.archive_dir.chmod(0o500)
    try:
        with past.source.connect() as conn, conn.as_target():
            conn.execute("SELECT pg_current_xact_id()")
            began = time.monotonic()
            with pytest.raises(Blocked, match="could not archive the WAL up to") as failed:
                wait_archived(conn, str(one(past.source, "SELECT pg_current_wal_insert_lsn()")), 60)
            assert time.monotonic() - began < 30
        assert failed.value.detail.startswith("The server failed to archive 0000")
    finally:
        past.source.archive_dir.chmod(0o700)


def test_waiting_for_the_archive_is_refused_where_nothing_is_archived() -> None:
    """Else one would wait for ever."""
    server = Server("unarchived")
    server.start()
    server.stop()
    with server.lock():
        server.launch(more={"archive_mode": "off"})
    with server.connect() as conn, pytest.raises(Refused, match="this server archives none") as refused:
        wait_archived(conn, "0/3000000")
    assert refused.value.detail == "archive_mode is off."


def test_an_archived_position_is_not_waited_for(past: Past) -> None:
    """No segment is ended for what is safe already."""
    with past.source.connect() as conn, conn.as_target():
        wait_archived(conn, past.name_lsn)
        before = one(past.source, "SELECT pg_current_wal_lsn()")
        assert wait_archived(conn, past.name_lsn) < 1
        assert one(past.source, "SELECT pg_current_wal_lsn()") == before


def test_a_restore_point_needs_the_right_to_make_one(past: Past) -> None:
    """The refusal says what to grant."""
    with past.source.connect() as conn, conn.as_target():
        conn.execute("CREATE ROLE weak")
        conn.execute("SET ROLE weak")
        with pytest.raises(Refused, match="could not create a restore point: the role lacks the right") as refused:
            create_restore_point(conn, "weak")
    assert "permission denied for function pg_create_restore_point" in refused.value.detail


def test_a_point_is_read_from_text() -> None:
    """An LSN, a time with its zone, or else a name."""
    noon = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
    assert parse_point("lsn:0/3000060") == Point(lsn="0/3000060")
    assert parse_point("16/b374d848") == Point(lsn="16/B374D848")
    assert parse_point("2026-01-02T12:00:00Z") == Point(time=noon)
    assert parse_point("2026-01-02 13:00:00+01:00") == Point(time=noon)
    assert parse_point("2026-01-02 12:00 UTC") == Point(time=noon)
    assert parse_point("20261122T165431Z-release-demo-7f3a") == Point(name="20261122T165431Z-release-demo-7f3a")
    assert str(parse_point("before-release")) == 'restore point "before-release"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-01-02T12:00:00", 'time "2026-01-02T12:00:00" has no zone'),
        ("2026-01-02", 'time "2026-01-02" has no zone'),
        ("2999-01-01T00:00:00Z", "time 2999-01-01T00:00:00Z lies in the future"),
        ("2026-13-02T12:00:00Z", '"2026-13-02T12:00:00Z" is not a time'),
        ("lsn:nowhere", '"nowhere" is not an LSN'),
        ("", '"" cannot be the name of a restore point'),
        ("x'; DROP", "cannot be the name of a restore point"),
        ("x" * 64, "cannot be the name of a restore point"),
    ],
)
def test_text_that_is_no_point_is_wrong_input(text: str, message: str) -> None:
    """What could be taken for another moment or place is never guessed."""
    with pytest.raises(WrongInput) as failed:
        parse_point(text)
    assert message in failed.value.message


def test_the_hint_for_a_time_without_zone_shows_it_with_one() -> None:
    """It can be copied as it is."""
    with pytest.raises(WrongInput) as failed:
        parse_point("2026-11-22 16:54:31")
    assert failed.value.hint == "Write 2026-11-22T16:54:31Z for UTC, or with an offset as +01:00."


def test_a_point_is_exactly_one_thing() -> None:
    """A name and a time together would be two promises."""
    with pytest.raises(ValueError, match="exactly one"):
        replace(Point(name="x"), lsn="0/1")


def test_an_unknown_name_ends_no_segment(past: Past) -> None:
    """Nothing is archived for a point that is not there; the nearest are told with their times."""
    before = one(past.source, "SELECT pg_walfile_name(pg_current_wal_lsn())")
    with pytest.raises(WrongInput) as failed:
        restore(past.source, Point(name="before-relaese"), name="unknown")
    assert one(past.source, "SELECT pg_walfile_name(pg_current_wal_lsn())") == before
    message, detail, _, hint = failed.value.lines()
    assert message == 'could not find restore point "before-relaese" in the WAL of server "source"'
    assert re.fullmatch(r"Detail: The nearest are: before-release \(2[0-9-]+T[0-9:]+Z\)\.", detail)
    assert hint == "Hint: Correct the name, or name an LSN (lsn:0/3000060) or a time (2026-11-22T16:54:31Z)."


def test_a_point_is_found_before_it_is_archived(past: Past) -> None:
    """The end of the WAL is read where it lies."""
    with past.source.connect() as conn, conn.as_target():
        create_restore_point(conn, "just-now")
    point = points.located(past.source, Point(name="just-now"))
    assert point.at_lsn
    assert not any(known.name == "just-now" for known in restore_points(past.source, range(2)))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("yesterday", '"yesterday" is another moment whenever it is read: write one as 2'),
        ("-infinity", '"-infinity" is another moment whenever it is read: write one as 2'),
        ("28.11.2026 00:11", "Write the year first, and the zone at the end: 2026-11-28T00:11+01:00."),
        ("28.11.2026", "Write the year first, and the zone at the end: 2026-11-28T00:00+01:00."),
        ("11/28/2026 00:11", "Write the year first, and the zone at the end: 2026-11-28T00:11+01:00."),
        ("Europe/Berlin", "A time zone alone is no moment: write one as 2"),
        ("2026-06-28 00:11 Europe/Berlin", "Write it with an offset: 2026-06-28T00:11:00+02:00."),
        ("2026-10-25 02:30 Europe/Berlin",
         "Write it with an offset: 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00."),
        ("2026-06-28 00:11 Europe/Berln", "Write it as 2026-11-22T16:54:31Z."),
        ("0/123456789", "Write it as PostgreSQL does: lsn:0/3000060."),
        ("1764288660", "If seconds since 1970 are meant, write 2025-11-28T00:11:00Z."),
        ("1764288660123", "If seconds since 1970 are meant, write 2025-11-28T00:11:00Z."),
        ("00000002000000010000000A", "A WAL segment is no point: it begins at lsn:1/A000000, on timeline 2."),
        ("2999-01-01T00:00:00Z", "Name a moment that has passed; the nearest is 2"),
        ("0001-01-01T00:00:00+05:00", "Write it as 2026-11-22T16:54:31Z."),
        ("12:30", "Write it as 2026-11-22T16:54:31Z."),
    ],
)  # fmt: skip
def test_another_form_of_a_point_is_shown_as_it_is_to_be_written(past: Past, text: str, hint: str) -> None:
    """What is wrong with it, and one right example; a name that only looks like one may be a restore point's."""
    with pytest.raises(WrongInput) as failed:
        restore(past.source, parse_point(text), name="other-form")
    assert failed.value.hint.startswith(hint)
    parse_point("2026-11-22T16:54:31z")

"""Faults of online changes: full disks, a log of changes without end, an old snapshot, a standby that lags for good.

Beside ``test_online_bad_input``, whose places these are: what was begun is named, and one command takes it away.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from acting import error, run, wait_until
from pgrunbook.record.run import Status
from test_online_bad_input import Place, Traffic, failed, lagging, place, small_disk, take_away

__all__ = ["lagging", "place", "small_disk"]
WIDER = "ALTER TABLE {table} ALTER COLUMN id TYPE bigint"
NO_ROOM = "gave up the swap of public.orders: there is no more room for it\nDetail: "
NOTHING_LEFT = "State: Table public.orders is as it was; nothing of a swap is left."
# An index whose building takes long, and no write of the application.
SLOW_INDEX = """
CREATE FUNCTION public.slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'pgrunbook swap%' THEN PERFORM pg_sleep(0.05); END IF; RETURN n;
END $$;
CREATE INDEX slow ON orders (public.slow(id))
"""


@contextmanager
def flooded(place: Place, begins: Callable[[], object], rows: int = 2_000) -> Iterator[list[str]]:
    """Write so many rows again and again, once something has begun; the errors of that."""
    over, errors = threading.Event(), list[str]()

    def work() -> None:
        with place.server.connect(place.database) as conn:
            while not over.is_set() and not begins():
                time.sleep(0.05)
            while not over.is_set():
                try:
                    conn.execute("UPDATE orders SET note = note WHERE id <= %s", [rows])
                except psycopg.Error as exc:
                    errors.append(str(exc))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield errors
    finally:
        over.set()
        thread.join(timeout=60)


def state(place: Place) -> str:
    """Return how far the swap is, "" where none was begun."""
    if place.sql("SELECT to_regclass('pgrunbook.swap') IS NULL") == [(True,)]:
        return ""
    return "".join(str(found) for (found,) in place.sql("SELECT state FROM pgrunbook.swap"))


@pytest.mark.slow
@pytest.mark.every_version
def test_log_of_changes_that_outgrows_its_limit_ends_the_swap(place: Place) -> None:
    """Also while the copy waits for an old transaction: no writer sees an error, and nothing of it is left."""
    with (
        place.holding("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other"),
        flooded(place, lambda: state(place) == "copying") as errors,
    ):
        time.sleep(1.1)
        made, code = run("swap", table="orders", shape=WIDER, max_transaction_age_s="1", most_log_mb="1")
        told = error(made)
    assert (made.status, code, errors) == (Status.FAILED, 1, []), told
    assert told.startswith(f"{NO_ROOM}Its log of changes takes "), told
    assert NOTHING_LEFT in told
    assert place.left == []
    made, code = run("swap", table="orders", shape=WIDER)
    assert (made.status, code) == (Status.DONE, 0), error(made)


@pytest.mark.slow
@pytest.mark.every_version
def test_log_of_changes_is_watched_while_an_index_is_built(place: Place) -> None:
    """The server would build on for a quarter of an hour: it is cancelled."""
    place.sql(SLOW_INDEX)
    with flooded(place, lambda: state(place) == "building") as errors:
        made, code = run("swap", table="orders", shape="", most_log_mb="1")
        told = error(made)
    assert (made.status, code, errors) == (Status.FAILED, 1, []), told
    assert told.startswith(f"{NO_ROOM}Its log of changes takes "), told
    assert NOTHING_LEFT in told
    assert place.left == []


@pytest.fixture
def small_place(place: Place, small_disk: Path) -> Iterator[tuple[Place, Path]]:
    """A database that lies on a small disk as a whole, with its catalog; the WAL is elsewhere."""
    name = small_disk.name
    place.sql("ALTER TABLE orders SET TABLESPACE pg_default")
    place.server.administer(f"ALTER DATABASE {place.database} SET TABLESPACE {name}")
    yield place, small_disk
    (small_disk / "filler").unlink(missing_ok=True)


def fill_up(disk: Path, but_bytes: int) -> None:
    """Leave so many bytes on a disk."""
    stats = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(b"0" * max(0, stats.f_bavail * stats.f_frsize - but_bytes))


@pytest.mark.slow
@pytest.mark.every_version
def test_writers_work_on_behind_a_disk_that_a_swap_has_filled(small_place: tuple[Place, Path]) -> None:
    """The disk is full before the log is beyond any limit: the swap goes at once, and its room comes back."""
    place, disk = small_place
    fill_up(disk, 1_000_000)
    with flooded(place, lambda: state(place) == "copying", rows=100) as errors:
        made, code = run("swap", table="orders", shape=WIDER)
        told = error(made)
        assert (made.status, code) == (Status.FAILED, 1), told
    assert told.startswith(f"{NO_ROOM}Could not extend file "), told
    assert NOTHING_LEFT in told
    assert place.left == []
    assert all("No space left on device" in one for one in errors), errors
    with Traffic(place) as traffic:
        wait_until(lambda: traffic.done > 20)
    assert traffic.errors == []


@pytest.mark.slow
@pytest.mark.every_version
def test_disk_that_is_full_before_the_cut_over_ends_the_swap(place: Place, small_disk: Path) -> None:
    """It was filled while nobody was at work: the next run gives the room of the swap back to the writers."""
    made, code = run("swap", table="orders", shape=WIDER, cutover="postponed")
    assert (made.status, code) == (Status.DONE, 0), error(made)
    fill_up(small_disk, 100_000)
    with flooded(place, lambda: True) as errors:
        wait_until(lambda: errors)
    assert "No space left on device" in errors[0]
    made, code = run("swap", table="orders")
    told = error(made)
    assert (made.status, code) == (Status.FAILED, 1), told
    assert told.startswith(NO_ROOM), told
    assert NOTHING_LEFT in told
    assert place.left == []
    with Traffic(place) as traffic:
        wait_until(lambda: traffic.done > 20)
    assert traffic.errors == []


@pytest.mark.slow
@pytest.mark.every_version
def test_disk_is_full_in_a_change_of_type(place: Place, small_disk: Path) -> None:
    """In the fill, or in an index: the migration is taken back, others work on, and the next release ends it."""
    (place.folder / "migrations" / "0001_a.sql").write_text("ALTER TABLE orders ALTER COLUMN id TYPE bigint;")
    fill_up(small_disk, 150_000)
    with Traffic(place, "UPDATE other SET n = %s") as traffic:
        made, code = run("release")
        part = [one.procedure for one in made.parts].index("migrate")
        told = error(made, part)
        assert (made.status, code) == (Status.FAILED, 1), told
    assert traffic.went_on()
    assert "No space left on device" in told
    assert place.left == []
    assert place.sql("SELECT count(*), pg_typeof(min(id))::text FROM orders") == [(20_000, "integer")]
    (small_disk / "filler").unlink()
    made, code = run("release")
    assert (made.status, code) == (Status.DONE, 0), error(made)
    assert place.sql("SELECT count(*), pg_typeof(min(id))::text FROM orders") == [(20_000, "bigint")]


@pytest.mark.slow
@pytest.mark.every_version
def test_old_snapshot_that_never_ends_ends_the_patience_of_a_swap(place: Place) -> None:
    """It is named with its session, and the run goes on later; beside it one command takes the swap away."""
    waits = {"max_transaction_age_s": "1", "patience_s": "1"}
    with place.holding("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other"):
        time.sleep(1.1)
        told = failed(place, "swap", table="orders", shape=WIDER, **waits)
        assert told.startswith("batches have waited for 1 s, because an old transaction keeps dead rows\nDetail: ")
        assert "State: Table public.orders is as it was, and its changes are noted" in told
        take_away(told)
        assert place.left == []
        failed(place, "swap", table="orders", shape=WIDER, **waits)
    made, code = run("swap", table="orders", shape=WIDER, **waits)
    assert (made.status, code) == (Status.DONE, 0), error(made)
    assert place.sql("SELECT count(*), pg_typeof(min(id))::text FROM orders") == [(20_000, "bigint")]


@pytest.mark.slow
@pytest.mark.every_version
def test_standby_that_falls_behind_for_good_ends_the_patience_of_a_swap(lagging: Place) -> None:
    """It is named with its lag; the primary works on, and one command takes the swap away."""
    lagging.sql("INSERT INTO other SELECT i, i FROM generate_series(2, 1000) AS i")
    time.sleep(1.5)
    told = failed(lagging, "swap", table="orders", shape=WIDER, max_lag_s="1", patience_s="1")
    assert told.startswith("batches have waited for 1 s, because a standby lags\nDetail: a standby lags: ")
    assert "State: Table public.orders is as it was, and its changes are noted" in told
    take_away(told)
    assert lagging.left == []

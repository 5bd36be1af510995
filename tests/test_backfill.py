"""The procedure backfill, by its notebook: to success, to its main failures, stopped and resumed."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable

import pytest

from acting import anchored, cells, error, events, outputs, run, wait_until
from conftest import ROOT, connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.display.show import Picture, Table
from pgrunbook.online.throttle import Throttle, ThrottleSample
from pgrunbook.procedures import backfill_views
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import run_control
from test_online_backfill import ORDERS, left

Project = Callable[..., Target]
CENTS = {"table": "orders", "fill": '{"cents": "round(total * 100)"}'}


@pytest.fixture
def target(project: Project) -> Target:
    """A target with a table of three thousand rows."""
    made = project(folder={}, restore_points=False)
    do(made, ORDERS)
    return made


def test_columns_are_filled_and_nothing_of_ours_is_left(target: Target) -> None:
    """The notebook runs to its verdict; the record has what was done, and the proof."""
    made, code = run("backfill", **CENTS)
    assert (made.status, code) == (Status.DONE, 0), error(made)
    assert left(target) == 0
    (filled,) = events(made, "rows-filled")
    assert (filled["rows"], filled["refused"]) == (2572, 0)
    assert [event["differ"] for event in events(made, "proven")] == [0]
    assert "2,572 rows of public.orders were filled: cents." in outputs(made, "verdict")
    for name in ("plan-the-batches", "rows-that-cannot-be-filled", "fill-the-rows", "throttle", "waits"):
        assert (made.folder / f"{name}.csv").is_file()
    assert rows(target, "SELECT tgname FROM pg_trigger WHERE tgname LIKE '%fill%'") == []
    assert rows(target, "SELECT proname FROM pg_proc WHERE proname LIKE 'fill_%'") == []
    assert anchored(target, made) == ["opened", "closed"]


@pytest.mark.slow
def test_row_that_cannot_be_filled_refuses_before_the_first_write(target: Target) -> None:
    """It is named by its key; with bad_rows=skip it is passed over, and the verdict is open."""
    do(target, "ALTER TABLE orders ADD n smallint; UPDATE orders SET note = 'n99999' WHERE note = 'n7'")
    fill = {"table": "orders", "fill": json.dumps({"n": "substr(note, 2)::int"})}
    made, code = run("backfill", **fill)
    (key,) = rows(target, "SELECT id::text FROM orders WHERE note = 'n99999'")[0]
    assert (made.status, code) == (Status.REFUSED, 3)
    assert error(made) == (
        "1 row of public.orders cannot be filled\n"
        f"Detail: id = {key}: smallint out of range.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Correct them or the expression (rows-that-cannot-be-filled.csv lists them);"
        " -p bad_rows=skip passes them over."
    )
    assert rows(target, "SELECT count(n) FROM orders") == [(0,)]
    made, code = run("backfill", **fill, bad_rows="skip")
    assert (made.status, code) == (Status.DONE, 0), error(made)
    assert rows(target, "SELECT count(n), count(*) FROM orders") == [(2999, 3000)]
    assert key in (made.folder / "rows-passed-over.csv").read_text()
    assert "WITH OPEN GATES" in outputs(made, "verdict")


@pytest.mark.slow
def test_trigger_of_the_application_that_raises_stops_and_the_run_goes_on(target: Target) -> None:
    """The row is named with what is committed; when it is mended the same run ends."""
    do(target, "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
               " IF new.note = 'n100' THEN RAISE 'not this one'; END IF; RETURN new; END $$;"
               "CREATE TRIGGER no BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION no()")  # fmt: skip
    made, code = run("backfill", **CENTS)
    assert (made.status, code) == (Status.FAILED, 1)
    told = error(made)
    assert told.startswith("could not fill a row of public.orders: not this one\nDetail: It is the row id = ")
    assert "filled and committed; its trigger is there." in told
    assert "no" in outputs(made, "plan-the-batches")
    do(target, "DROP TRIGGER no ON orders")
    made, code = runbook.resume(made.run_id)
    assert (made.status, code, left(target)) == (Status.DONE, 0, 0), error(made)


@pytest.mark.slow
def test_person_stops_a_run_from_elsewhere_and_it_goes_on(target: Target) -> None:
    """Slower, then stop, while it fills; what was committed stays, and the same run ends."""
    do(target, "INSERT INTO orders (total, note) SELECT i, 'm' || i FROM generate_series(1, 100000) AS i")
    found: list[str] = []

    def stop() -> None:
        wait_until(lambda: rows(target, "SELECT count(*) FROM pg_class WHERE relname = 'batch'") == [(1,)])
        wait_until(lambda: rows(target, "SELECT coalesce(sum(rows), 0) > 0 FROM pgrunbook.batch") == [(True,)])
        (name,) = rows(target, "SELECT name FROM pgrunbook.batch LIMIT 1")[0]
        run_id = str(name).split(":")[1]
        found.append(run_control.tell(run_id, "slower"))
        found.append(run_control.tell(run_id, "stop", "enough"))

    thread = threading.Thread(target=stop)
    thread.start()
    made, code = run("backfill", **CENTS, most_batch_rows="200")
    thread.join(timeout=60)
    assert (made.status, code) == (Status.INTERRUPTED, 1), error(made)
    assert error(made).startswith("the run was aborted by postgres, between two batches\nDetail: enough.\n")
    assert "0.67 times" in found[0]
    assert left(target) > 0
    run_control.tell(made.run_id, "faster")
    made, code = runbook.resume(made.run_id)
    assert (made.status, code, left(target)) == (Status.DONE, 0, 0), error(made)


@pytest.mark.slow
def test_trigger_that_is_to_stay_stays_and_a_run_without_takes_it(target: Target) -> None:
    """Until a contract: what is written afterwards is filled, too."""
    made, _ = run("backfill", **CENTS, leave_in_sync="true")
    assert made.status is Status.DONE, error(made)
    do(target, "INSERT INTO orders (total) VALUES (1.23)")
    assert (left(target), len(rows(target, "SELECT 1 FROM pg_trigger WHERE tgname LIKE '%fill%'"))) == (0, 1)
    made, _ = run("backfill", **CENTS)
    assert events(made, "rows-filled")[0]["rows"] == 0
    assert events(made, "trigger-installed")[0]["is_new"] is False
    assert rows(target, "SELECT 1 FROM pg_trigger WHERE tgname LIKE '%fill%'") == []


@pytest.mark.slow
def test_what_it_waits_for_and_does_not_end_is_named(target: Target) -> None:
    """The operator's query; nothing is written, and the trigger is there still."""
    made, code = run("backfill", **CENTS, wait_while="SELECT 3", patience_s="0")
    assert (made.status, code) == (Status.FAILED, 1)
    assert error(made) == (
        "batches have waited for 0 s, because the threshold query says so\n"
        "Detail: the threshold query says so: it returns 3.\n"
        "State: 0 rows are filled and committed; its trigger is there.\n"
        "Hint: Mend what that names, then go on with this run. To give up, and take everything of ours away: "
        f"pgrunbook run backfill --target demo -p do=abandon -p of_run={made.run_id}\n"
        "See: section stuck of notebook troubleshoot, or pgrunbook doctor."
    )
    assert left(target) == 2572
    assert [event["why"] for event in events(made, "batches-wait")] == ["the threshold query says so"]


def test_cells_refuse_before_their_checks(target: Target) -> None:
    """Nothing is written by a notebook whose checks were left out."""
    made, code = run("backfill", table="orders", fill='{"pence": "1"}')
    assert (made.status, code) == (Status.FAILED, 2), error(made)
    assert error(made).startswith("public.orders has no column pence\n")
    assert "plan-the-batches" in cells(made)
    assert rows(target, "SELECT count(cents) FROM orders") == [(0,)]


@pytest.mark.slow
def test_commands_of_the_guide_do_what_it_says(project: Project, command: Callable[..., tuple[int, str, str]]) -> None:
    """docs/guide.md, A backfill: each line as it stands there."""
    target = project()
    do(target, "ALTER TABLE instances ADD millicpu bigint")
    text = (ROOT / "docs" / "guide.md").read_text().partition("### A backfill\n")[2].partition("```\n")[2]
    lines = [line for line in text.partition("```")[0].splitlines() if line.startswith("pgrunbook run")]
    assert len(lines) == 4
    for line in lines:
        if "undo_data" in line:
            do(target, "UPDATE instances SET millicpu = 1")
        named = line.replace("RUN", runs.folders()[-1].name) if "RUN" in line else line
        code, _, err = command(*shlex.split(named, comments=True)[1:])
        assert code == 0, err
        wanted = "1" if "do=back" in line else "cpu * 1000"
        assert rows(target, f"SELECT count(*) FROM instances WHERE millicpu IS DISTINCT FROM {wanted}") == [(0,)]
    do(target, "UPDATE instances SET cpu = cpu + 1")
    assert rows(target, "SELECT count(*) FROM instances WHERE millicpu IS DISTINCT FROM cpu * 1000") == [(0,)]


@pytest.mark.first_case
@pytest.mark.parametrize(("samples", "kind"), [(0, Table), (1, Table), (2, Table), (3, Picture)])
def test_only_what_has_a_line_is_drawn(target: Target, samples: int, kind: type[object]) -> None:
    """Two samples give one point, which would be an empty picture."""
    with connect(target) as conn:
        throttle = Throttle(conn, conn.oid_of("regclass", "public.orders") or 0)
        throttle.samples += [ThrottleSample(0.25 * n, 100 * n, 5.0, 1.0, 100) for n in range(samples)]
        assert isinstance(backfill_views.picture(throttle), kind)

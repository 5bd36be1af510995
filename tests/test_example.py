"""The example: its data is the same everywhere, its folder is whole, and its migrations go there and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from conftest import EXAMPLE, ROOT, connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.history import State
from pgrunbook.history.state import leave_out
from scenes import execute, plan_of

Project = Callable[..., Target]
TABLES = ("organisations", "projects", "deployments", "nodes", "instances", "sessions", '"featureFlags"')


def sums(target: Target) -> dict[str, object]:
    """A checksum of each table's rows."""
    query = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\"), '')) FROM {} t"
    return {table: rows(target, query.format(table)) for table in TABLES}


def now(target: Target) -> Snapshot:
    with connect(target, purpose="test") as conn:
        return snapshot(conn, leave_out=leave_out(histories.read(conn, target)))


def test_the_data_is_the_same_in_every_copy(project: Project) -> None:
    """Loaded again, under other settings, each table has the same rows."""
    one, two = project(), project(name="two")
    do(two, f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY")
    text = (ROOT / "examples" / "zeitwork" / "data.sql").read_text()
    with connect(two) as conn:
        conn.execute("SET timezone = 'Pacific/Auckland'; SET DateStyle = 'SQL, DMY'")
        conn.execute("SELECT set_config('zeitwork.rows', '2000', false)")
        conn.execute(text.encode())
    assert sums(one) == sums(two)
    assert rows(one, "SELECT count(*) FROM sessions") == [(2000,)]


def test_the_data_holds_the_cases_that_people_trip_on(project: Project) -> None:
    """NULLs, a config that is an array or a scalar, quoted mixed-case names, and an empty table."""
    target = project()
    kinds = {kind for (kind,) in rows(target, "SELECT DISTINCT jsonb_typeof(config) FROM deployments")}
    assert kinds == {"object", "array", "string", "null", None}
    assert rows(target, "SELECT count(*) > 0 FROM projects WHERE status IS NULL") == [(True,)]
    assert rows(target, 'SELECT count(*) FROM "featureFlags"') == [(0,)]
    assert rows(target, 'SELECT count("externalId") > 0 FROM organisations') == [(True,)]


def test_the_journal_and_the_files_belong_together() -> None:
    """Each entry has its file and its snapshot, each file its entry; the downs have an up."""
    entries = json.loads((EXAMPLE / "meta" / "_journal.json").read_text())["entries"]
    tags = [entry["tag"] for entry in entries]
    assert [entry["idx"] for entry in entries] == list(range(len(entries)))
    assert [entry["when"] for entry in entries] == sorted(entry["when"] for entry in entries)
    ups = {path.stem for path in EXAMPLE.glob("*.sql") if not path.name.endswith(".down.sql")}
    assert set(tags) == ups
    assert {path.name.removesuffix(".down.sql") for path in EXAMPLE.glob("*.down.sql")} <= ups
    assert {path.name for path in EXAMPLE.glob("meta/*_snapshot.json")} == {f"{tag[:4]}_snapshot.json" for tag in tags}


def test_the_history_holds_the_hashes_of_the_files(project: Project) -> None:
    """The first two are applied, as Drizzle itself would have recorded them; the rest is pending."""
    target = project()
    with connect(target) as conn:
        history = histories.read(conn, target)
    assert [entry.state for entry in history.entries] == [State.APPLIED] * 2 + [State.PENDING] * 3
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(EXAMPLE.glob("000[01]_*.sql"))]
    assert [row.hash for row in history.rows] == hashes


def test_pending_migrations_apply_and_those_with_a_way_back_lead_back(project: Project) -> None:
    """Up to the end; back as far as there are down scripts, to the same schema, and up again."""
    target = project()
    plan = plan_of(target)
    start = now(target).fingerprint
    execute(target, plan)
    end = now(target).fingerprint
    assert end != start
    assert rows(target, "SELECT count(*) FROM projects WHERE status IS NULL") == [(0,)]

    last = plan.changes[-1]
    assert last.way_back == "down script"
    back = plan_of(target, direction="down")
    (first_back,) = [change for change in back.changes if change.migration == last.migration]
    execute(target, back.model_copy(update={"changes": (first_back,)}), run_id="back")
    before_last = now(target).fingerprint
    assert before_last not in (start, end)
    execute(target, plan_of(target), run_id="again")
    assert now(target).fingerprint == end

"""notebooks/monitor.ipynb: see what a server does, and what to do first."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import psycopg
import pytest

from acting import completed, events, outputs, run
from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Status

Project = Callable[..., Target]


def waits_for_a_table(conn: psycopg.Connection[tuple[object, ...]]) -> None:
    """Wait until somebody cancels it."""
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT FROM t")


@pytest.mark.slow
def test_what_stands_in_the_way_is_shown_watched_and_drawn(project: Project) -> None:
    """A table that an idle transaction locks: in the first look, in the record of all, and nothing is changed."""
    target = project(folder={})
    do(target, "CREATE TABLE t (id int)")
    with (
        psycopg.connect(**target.conninfo(), application_name="report") as head,
        psycopg.connect(**target.conninfo(), application_name="web") as waiter,
    ):
        head.execute("LOCK t")
        thread = threading.Thread(target=waits_for_a_table, args=(waiter,))
        thread.start()
        made, code = run("monitor", watch_s="0.9", interval_s="0.2")
        waiter.cancel_safe()
        thread.join()
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    first = outputs(made, "what-is-urgent")
    assert "blocks others" in first
    assert "process" in first
    assert "ask its owner to end the transaction" in first
    assert first.index("blocks others") < first.index("Who blocks whom") < first.index("Numbers, read in")
    watched = outputs(made, "watch")
    assert "looks, samples.jsonl has their numbers" in watched
    told = [e for e in events(made, "concern") if e["what"] == "blocks others"]
    assert len(told) == 1, "once, however often it was seen"
    samples = [json.loads(line) for line in (made.folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) >= 3
    assert all(sample["waiting"] == 1 for sample in samples)
    assert (made.folder / "samples.jsonl").stat().st_mode & 0o077 == 0
    assert "sessions that wait for a lock: at most 1.0" in outputs(made, "over-time")
    assert "Nothing changed in the database: it was only looked at." in made.parts[-1].says


@pytest.mark.slow
def test_a_quiet_server_is_told_to_be_quiet(project: Project) -> None:
    """One look is enough to say so; there is nothing to draw."""
    project(folder={})
    made, code = run("monitor", watch_s="0")
    assert code == 0
    assert outputs(made, "watch").endswith("samples.jsonl has their numbers\nNothing was urgent.")
    assert outputs(made, "over-time").startswith("Nothing to draw")

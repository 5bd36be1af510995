"""Cut over to a restored server: the fence, what is carried, what is left behind, the way over and the way back."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from acting import cells, completed, error, events, newest_run, pgrunbook, run, wait_until
from conftest import Site, do, rows
from pgrunbook.branches import backup, isolation
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config import service_file
from pgrunbook.config.targets import Target
from pgrunbook.errors import RunbookError, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook

Command = Callable[..., tuple[int, str, str]]
SHOP = """
CREATE TABLE orders (id bigserial PRIMARY KEY, who int, note text);
CREATE TABLE visits (id bigserial PRIMARY KEY, who int);
CREATE TABLE plain (what text);
CREATE TABLE wide (id int PRIMARY KEY, text text);
INSERT INTO orders (who, note) SELECT 0, 'before' FROM generate_series(1, 500);
INSERT INTO plain VALUES ('a'), ('a'), ('b');
"""
# What a client may see, and try again: it is ended, or not let in.
RETRYABLE = (
    "57P01",
    "is not currently accepting connections",
    "server closed the connection",
    "terminating connection",
)


class Clients:
    """Programs that write by the service, connect again after an error, and remember what was acknowledged."""

    def __init__(self, count: int) -> None:
        self.acknowledged: list[tuple[str, int]] = []
        self.errors: Counter[str] = Counter()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(who,)) for who in range(1, count + 1)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _write(self, who: int) -> None:
        while not self._done.is_set():
            try:
                with psycopg.connect("service=demo connect_timeout=5", autocommit=True) as conn:
                    while not self._done.is_set():
                        for table in ("orders", "visits"):
                            query = f"INSERT INTO {table} (who) VALUES (%s) RETURNING id".encode()
                            (number,) = conn.execute(query, [who]).fetchone() or (0,)
                            self.acknowledged.append((f"{table} {who}", int(number)))
            except psycopg.Error as exc:
                self.errors[exc.sqlstate or " ".join(str(exc).split())] += 1
                time.sleep(0.01)


@pytest.fixture
def shop(
    project: Callable[..., Target], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    """A database behind a restore point, to which service demo leads; what is restored goes with the test."""
    file = tmp_path / "pg_service.conf"
    target = project(folder={"0001_a.sql": "SELECT 1"}, cutover_service_file=str(file))
    place = f"host={site.server.socket_dir}\nport=5432\nuser=postgres\ndbname={target.database}\n"
    file.write_text(f"# ours\n[other]\nhost=elsewhere\n\n[demo]\n{place}\n[last]\nhost=z\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    do(target, SHOP)
    backup.take_base_backup(site.server)
    do(target, f"SELECT pg_create_restore_point('good-{target.database}')")
    before = set(server_names())
    yield target
    for name in set(server_names()) - before:
        Server(name).destroy()


def restored(target: Target) -> str:
    """Restore to the point before anybody writes; return the run."""
    made, code = run("restore", to=f"good-{target.database}", compare="none")
    assert code == 0
    return made.run_id


def at(server: Server, target: Target) -> Target:
    """Return the target as it is on another server."""
    return target.model_copy(update={"server": server.name})


def left_behind(made: Run) -> set[tuple[str, str, str]]:
    """Return the lines of left-behind.csv."""
    return {(line["table"], line["change"], line["key"]) for line in read(made.folder / "left-behind.csv")}


def read(path: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_nobody_loses_a_row_without_a_line_while_programs_are_led_over(shop: Target, command: Command) -> None:
    """Under load: what was acknowledged is on the new server or listed, and nothing is written behind the fence."""
    looked = restored(shop)
    old = Server(str(shop.server))
    with Clients(3) as clients:
        wait_until(lambda: len(clients.acknowledged) > 100)
        do(shop, "UPDATE orders SET note = 'since' WHERE id = 1; DELETE FROM orders WHERE id = 2; "
           "INSERT INTO plain VALUES ('a'), ('new'); "
           "INSERT INTO wide VALUES (1, repeat('x', 20000)); "
           "CREATE TABLE made_since (id int PRIMARY KEY, what text); "
           "INSERT INTO made_since VALUES (7, 'x')")  # fmt: skip
        made, code = run("restore", of_run=looked, compare="none", cut_over="true", carry="orders")
        assert (code, made.status, completed(made)) == (0, Status.DONE, True)
        new = Server(events(made, "cut-over")[0]["server"])
        kinds = f"SELECT kind FROM pgrunbook.ledger WHERE run_id = '{made.run_id}' ORDER BY seq"
        assert rows(at(new, shop), kinds) == [("opened",), ("closed",)]
        assert [e["target"] for e in events(made, "anchored")] == ["demo"]  # in the database of before the fence
        moved_at = len(clients.acknowledged)
        wait_until(lambda: len(clients.acknowledged) > moved_at + 60)
    assert all(any(word in told for word in RETRYABLE) for told in clients.errors), clients.errors
    there = {f"orders {who}": {int(str(n)) for n, by in rows(at(new, shop), "SELECT id, who FROM orders") if by == who}
             for who in (1, 2, 3)}  # fmt: skip
    visits = {int(str(number)) for (number,) in rows(at(new, shop), "SELECT id FROM visits")}
    lines = left_behind(made)
    left = {int(key) for table, change, key in lines if (table, change) == ("public.visits", "new since")}
    assert left
    assert not left & visits  # numbers are not given twice
    for name, number in clients.acknowledged:
        assert number in there[name] if name.startswith("orders") else number in visits | left, (name, number)
    assert ("public.orders", "deleted since, comes back", "2") in lines
    assert Counter(key for table, change, key in lines if table == "public.plain") == {"(a)": 1, "(new)": 1}
    assert rows(at(new, shop), "SELECT note FROM orders WHERE id = 1") == [("since",)]
    file = made.folder / "left-behind.csv"
    values = {(line["table"], line["key"]): (line["columns"], line["values"]) for line in read(file)}
    assert values["public.orders", "2"] == ("(id, note, who)", "(2,before,0)")
    assert values["public.plain", "(new)"] == ("(what)", "(new)")
    assert values["public.wide", "1"] == ("(id, text)", "not listed: they are longer than 10,000 characters")
    assert values["public.made_since", "7"] == ("(id, what)", "(7,x)")
    assert file.stat().st_mode & 0o777 == 0o400  # its values are for the operator only, and it is sealed
    assert rows(at(new, shop), "SELECT current_setting('fsync'), current_setting('archive_mode')") == [("on", "on")]
    assert not isolation.is_isolated(new)
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(host=str(old.socket_dir), user="postgres", dbname=str(shop.database))
    code, _, err = command("server", "destroy", "--name", new.name, "--yes", "--with-backups")
    assert (code, "leads programs to it." in err) == (3, True)
    with old.connect() as admin:
        state = (
            "SELECT datallowconn, has_database_privilege('public', oid, 'CONNECT') FROM pg_database WHERE datname = %s"
        )
        assert admin.execute(state, [shop.database]).fetchone() == (False, False)
        code, out, _ = command("server", "unfence", "--run", made.run_id)
        assert (code, len(out.splitlines())) == (0, 2)
        assert admin.execute(state, [shop.database]).fetchone() == (True, True)
    with psycopg.connect("service=demo") as conn:
        assert conn.execute("SHOW cluster_name").fetchone() == (old.name,)


STAGES = ["fence-meant", "fence-raised", "carried", "promoted", "switch-meant"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cut_over_that_was_killed_in_any_of_its_steps_goes_on(shop: Target, tmp_path: Path) -> None:
    """Killed behind each of its events in turn, one run comes to its end; what was written before is there."""
    looked = restored(shop)
    hold, declared = tmp_path / "hold", tmp_path / "targets.toml"
    hold.touch()  # the hook waits, so that nobody comes to the end before he is killed
    hook = ["sh", "-c", f"while [ -e {hold} ]; do sleep 0.1; done"]
    declared.write_text(declared.read_text() + f"cutover_hook = {hook!r}\n")
    do(shop, "INSERT INTO orders (who) SELECT 1 FROM generate_series(1, 50); INSERT INTO visits (who) VALUES (1)")
    given = ["-p", f"of_run={looked}", "-p", "compare=none", "-p", "cut_over=true", "-p", "carry=all"]
    run_id = ""
    for stage in STAGES:
        words = ["run", "--resume", run_id] if run_id else ["run", "restore", "--target", "demo", *given]
        with pgrunbook(*words) as process:
            pid = killed_behind(stage, looked)
            process.kill()
            process.communicate()
        assert pid
        made = newest_run()
        assert made is not None
        run_id = made.run_id
        assert not events(made, "cut-over")
    hold.unlink()
    made, code = runbook.resume(run_id)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert not (made.folder / "left-behind.csv").exists()  # all was carried over
    with psycopg.connect("service=demo") as conn:
        assert conn.execute("SELECT count(*) FROM orders").fetchone() == (550,)
        assert conn.execute("SELECT count(*) FROM visits").fetchone() == (1,)
        assert conn.execute("SHOW cluster_name").fetchone() == (events(made, "cut-over")[0]["server"],)


def killed_behind(stage: str, looked: str) -> int:
    """Kill the kernel of the run that is at work as soon as its journal has one more event of a name."""

    def seen(made: Run | None) -> int:
        return len(events(made, stage)) if made is not None and made.run_id != looked else 0

    before = seen(newest_run())
    wait_until(lambda: seen(newest_run()) > before)
    made = newest_run()
    assert made is not None
    pid = int(events(made, stage)[-1]["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.slow
def test_what_stands_in_the_way_is_said_before_the_fence(shop: Target, tmp_path: Path) -> None:
    """Nothing that leads over, a wrong service, a prepared transaction, code of others, rows that cannot be carried."""
    looked = restored(shop)
    given = {"of_run": looked, "compare": "none", "cut_over": "true"}
    file, declared = tmp_path / "pg_service.conf", tmp_path / "targets.toml"
    service, text = file.read_text(), declared.read_text()

    def refused(code: int, **more: str) -> list[str]:
        made, found = run("restore", **given, **more)
        assert (found, cells(made)["what-to-carry"]) == (code, "failed"), error(made)
        assert not events(made, "fence-meant")
        assert rows(shop, "SELECT count(*) FROM orders") == [(500,)]
        return error(made).splitlines()

    declared.write_text("".join(line for line in text.splitlines(True) if "cutover_service_file" not in line))
    assert refused(2)[0].startswith("nothing would lead programs over: target demo has no cutover_service_file")
    declared.write_text(text)
    file.write_text(service.replace("[demo]", "[shop]"))
    assert refused(2)[0] == f"{file} has no service [demo]"
    file.write_text(service.replace(f"host={Server(str(shop.server)).socket_dir}", "host=/elsewhere"))
    assert refused(2)[0] == f"service [demo] of {file} does not lead to the target now"
    file.write_text(service)
    do(shop, "BEGIN; INSERT INTO visits (who) VALUES (1); PREPARE TRANSACTION 'held'")
    try:
        assert refused(3)[0] == f"database {shop.database} has prepared transactions: held"
    finally:
        do(shop, "ROLLBACK PREPARED 'held'")
    do(shop, "CREATE ROLE plants; GRANT CREATE ON SCHEMA public TO plants; SET ROLE plants; CREATE FUNCTION f(int)"
       " RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE TABLE p (n int);"
       " CREATE INDEX ON p ((n + f(1)))")  # fmt: skip
    try:
        assert refused(3)[0] == "refused to compare, before a cut-over, public.p"
    finally:
        do(shop, "DROP OWNED BY plants; DROP ROLE plants")
    assert refused(2, carry="plain")[0] == "cannot salvage table public.plain: rows cannot be told apart"
    assert refused(2, carry="nothing")[0] == "there is no table nothing to salvage"


@pytest.mark.slow
def test_a_hook_that_fails_leaves_the_fence_up_and_what_was_taken_back_is_not_gone_on_with(
    shop: Target, tmp_path: Path, command: Command
) -> None:
    """It is told where to; unfence leads back and lets everybody in; the broken run does not lead over what is old."""
    looked = restored(shop)
    declared, told = tmp_path / "targets.toml", tmp_path / "told"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho $PGRUNBOOK_TO_HOST $PGRUNBOOK_DATABASE >> {told}\nexit 7\n")
    hook.chmod(0o755)
    declared.write_text(declared.read_text() + f'cutover_hook = ["{hook}"]\n')
    made, code = run("restore", of_run=looked, compare="none", cut_over="true")
    assert (code, made.status, cells(made)["cut-over"]) == (1, Status.FAILED, "failed")
    new = Server(events(made, "promoted")[0]["server"])
    says = error(made).splitlines()
    assert says[0] == f"the cut-over hook of target demo failed: {hook}"
    assert says[3].endswith(f"pgrunbook server unfence --run {made.run_id}")
    hook.write_text(f"#!/bin/sh\necho $PGRUNBOOK_TO_HOST $PGRUNBOOK_DATABASE >> {told}\n")
    code, _, _ = command("server", "unfence", "--run", made.run_id)
    assert [e["by"] for e in events(made, "cut-over-taken-back")] == [runs.operator()]
    assert code == 0
    places = [f"{Server(name).socket_dir} {shop.database}" for name in (new.name, str(shop.server))]
    assert told.read_text().splitlines() == places
    do(shop, "INSERT INTO orders (who) VALUES (9)")
    made, code = runbook.resume(made.run_id)
    assert (code, made.status, cells(made)["what-to-carry"]) == (3, Status.REFUSED, "failed")
    assert error(made).splitlines()[0] == f"the cut-over of run {made.run_id} was taken back"
    assert service_file.address(tmp_path / "pg_service.conf", "demo")["host"] == str(
        Server(str(shop.server)).socket_dir
    )


def test_a_service_is_switched_alone_and_its_file_as_it_was(tmp_path: Path) -> None:
    """Every other line stays, comments too; what leads to the server before goes; twice does nothing."""
    file = tmp_path / "services"
    text = "# a\n[one]\nhost=x\nport=1\n\n[two]\n# host=old\nhostaddr=1.2.3.4\nhost = y\nport=2\nuser=u\npassword=p\n"
    file.write_text(text)
    file.chmod(0o640)
    assert service_file.address(file, "two") == {"hostaddr": "1.2.3.4", "host": "y", "port": "2"}
    service_file.switch(file, "two", {"host": "/new", "port": "5432"})
    assert file.read_text() == (
        "# a\n[one]\nhost=x\nport=1\n\n[two]\nhost=/new\nport=5432\n# host=old\nuser=u\npassword=p\n"
    )
    assert file.stat().st_mode & 0o777 == 0o640
    facts = file.stat()
    service_file.switch(file, "two", {"host": "/new", "port": "5432"})
    assert file.stat().st_ino == facts.st_ino
    with pytest.raises(WrongInput, match="has no service"):
        service_file.switch(file, "three", {})
    with pytest.raises(RunbookError):
        service_file.address(tmp_path / "nothing", "one")


def test_only_a_run_that_has_raised_a_fence_is_taken_back(project: Callable[..., Target], command: Command) -> None:
    """Another one is named as such."""
    project(folder={"0001_a.sql": "SELECT 1"})
    made = runs.create("restore", "demo", {}, how="headless")
    code, _, err = command("server", "unfence", "--run", made.run_id)
    assert (code, err.splitlines()[0]) == (2, f"run {made.run_id} has raised no fence")

"""Every order of a notebook's cells: nothing is executed before the checks that have to pass before it.

The orders form a tree. Each of its nodes calls one cell, in the state that the cells above it have left; afterwards
session, journal and run folder are put back. Whether a cell has changed something is asked of the server: only a
writing transaction takes a transaction id. Only after such a one the database is put back, as a copy of a template.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from psycopg import sql

from acting import run
from conftest import Site, connect, do
from pgrunbook.branches import backup
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.errors import RunbookError
from pgrunbook.procedures import migrate, purge, restore, restore_views, rollback
from pgrunbook.rehearse import rollback as rehearsal
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from pgrunbook.session.checks import NEEDED
from pgrunbook.session.session import Session

Project = Callable[..., Target]
Order = tuple[str, ...]
GATED = {"0001_a.sql": "ALTER TABLE a DROP COLUMN gone;\nALTER TABLE a RENAME n TO number"}
TABLES = """
SELECT format('%I.%I', n.nspname, r.relname),
       (SELECT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_attribute AS a
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE r.relkind = 'r' AND n.nspname IN ('public', 'pgrunbook') ORDER BY 1
"""
SET_UP = "set-up"
LONG = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Contents(NamedTuple):
    """What a database holds, as text, and which servers of ours there are."""

    database: str
    servers: frozenset[str]


@dataclass
class Scene:
    """A notebook opened in this process, on a database that can be put back."""

    site: Site
    target: Target
    procedure: ModuleType
    parameters: dict[str, Any]
    allowed: Callable[[Order], bool]
    here: Session = field(init=False)
    done: list[Order] = field(default_factory=list)
    errors: list[RunbookError] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin = self.site.server.connect()
        self.begin()
        self.seen = self.contents()

    @property
    def cells(self) -> list[str]:
        """The cells of the notebook, but for the set-up cell."""
        tree = Path(str(self.procedure.__file__)).read_text()
        names = [line.split("(")[0].removeprefix("def ") for line in tree.splitlines() if line.startswith("def ")]
        return [name.replace("_", "-") for name in names if not name.startswith("_") and name != "begin"]

    def begin(self) -> None:
        """Run the set-up cell."""
        self.here = self.procedure.begin(target=self.target.name, **self.parameters)

    def call(self, cell: str) -> bool:
        """Run a cell; return whether it succeeded. Only an error of ours may end it, which says what to do."""
        try:
            if cell == SET_UP:
                self.begin()
            else:
                getattr(self.procedure, cell.replace("-", "_"))(self.here)
        except RunbookError as exc:
            self.errors.append(exc)
            return False
        return True

    def contents(self) -> Contents:
        """Return what there is: the tables of the database, their columns and rows, and the servers of ours."""
        with connect(self.target) as conn:
            tables = conn.execute(TABLES).fetchall()
            found = [(*table, conn.execute(f"SELECT t::text FROM {table[0]} AS t ORDER BY 1".encode()).fetchall())
                     for table in tables]  # fmt: skip
        return Contents(repr(found), frozenset(server_names()))

    def last_transaction(self) -> object:
        """Return the next transaction id of the server: while it stays the same, nothing was written."""
        return self.admin.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())").fetchone(), server_names()

    def put_back(self, contents: Contents) -> None:
        """Put the database back to contents that it has had, and destroy what was restored beside it."""
        self.here.close()
        for name in set(server_names()) - contents.servers:
            Server(name).destroy()
        copy(self.site, self.copies[contents.database], str(self.target.database))

    def keep(self) -> None:
        """Keep a copy of the database as it is, to put it back."""
        database = self.contents().database
        if database not in self.copies:
            self.here.close()
            name = f"{self.target.database}_{len(self.copies)}"
            copy(self.site, str(self.target.database), name)
            self.copies[database] = name

    def walk(self, cells: Sequence[str], most: int, before: Order = ()) -> None:
        """Run every order of cells up to a length, after those that ran before."""
        contents = self.seen
        for cell in cells:
            order, mark, begun_at = (*before, cell), Mark.of(self.here), self.last_transaction()
            succeeded = self.call(cell)
            is_changed = self.last_transaction() != begun_at and self.contents() != contents
            assert is_changed == self.allowed(order), order
            assert succeeded or (not is_changed and self.errors[-1].hint), order
            if is_changed:
                self.done.append(order)
                self.seen = self.contents()
                self.keep()
            if len(order) < most:
                self.walk(cells, most, order)
            mark.put_back(self)
            if is_changed:
                self.put_back(contents)
                self.seen = contents


@dataclass(frozen=True)
class Mark:
    """A session and its run folder at one moment."""

    here: Session
    state: dict[str, Any]
    files: dict[Path, bytes]

    @classmethod
    def of(cls, here: Session) -> Mark:
        """Remember a session as it is now."""
        state = {name: value for name, value in here.__dict__.items() if name != "_conn"}
        return cls(
            here,
            state | {"facts": here.facts.copy()},
            {path: path.read_bytes() for path in here.run.folder.iterdir() if path.is_file()},
        )

    def put_back(self, scene: Scene) -> None:
        """Put session, journal and run folder back, in the scene."""
        if scene.here is not self.here:
            scene.here.close()
        facts = heres.CellFacts(self.here.procedure)
        facts.update(self.state["facts"])
        self.here.__dict__.update(self.state, facts=facts)
        scene.here = heres._begun[0] = self.here
        for path in self.here.run.folder.iterdir():
            if path.is_file() and path not in self.files:
                path.unlink()
        for path, text in self.files.items():
            if path.read_bytes() != text:
                path.write_bytes(text)


def copy(site: Site, source: str, name: str) -> None:
    """Make a database anew, as a copy of another one."""
    names = {"name": sql.Identifier(name), "source": sql.Identifier(source)}
    with site.server.connect() as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**names))
        conn.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy").format(**names))


def passed(order: Order, *needed: str) -> bool:
    """Tell whether cells ran in this order since the notebook was begun, others between them or not; one more runs."""
    since = order[len(order) - order[::-1].index(SET_UP) :] if SET_UP in order else order
    rest = iter(since[:-1])
    return all(one in rest for one in needed) and since[-1:] != ()


@pytest.fixture
def opened(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    """Open a notebook in the folder of a run, or in one of its own."""
    made: list[Scene] = []

    def scene(target: Target, procedure: ModuleType, allowed: Callable[[Order], bool], **given: Any) -> Scene:
        folder = given.pop("folder", None)
        if folder is not None:
            monkeypatch.chdir(folder)
        made.append(Scene(site, target, procedure, given, allowed))
        monkeypatch.chdir(made[-1].here.run.folder)
        made[-1].keep()
        return made[-1]

    yield scene
    heres._end_earlier()
    for one in made:
        one.admin.close()
    with site.server.connect() as conn:
        for name in itertools.chain.from_iterable(one.copies.values() for one in made):
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def never(order: Order) -> bool:
    assert order
    return False


def all_orders(few: Sequence[str], most: int) -> Any:
    """Few cells in every order of so many.

    Only where that is asked for: every cell in every order of four, and the few with restarts of the kernel between.
    """
    return pytest.mark.parametrize(
        ("cells", "most"),
        [
            pytest.param(few, most, id="few"),
            pytest.param((SET_UP, *few), 4, id="restarts", marks=LONG),
            pytest.param((), 4, id="every", marks=LONG),
        ],
    )


MIGRATE = ("is-it-still-so", "take-restore-point", "execute-plan")


@pytest.fixture
def prepared(project: Project) -> tuple[Target, Any]:
    """A target with two gates, and the run that has prepared its plan."""
    target = project(folder=GATED)
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int, gone text); INSERT INTO a VALUES (1, 2, 'three')")
    do(target, "ALTER TABLE a REPLICA IDENTITY FULL; CREATE PUBLICATION sends FOR TABLE a")
    made, code = run("prepare")
    assert code == 0
    return target, made


@pytest.mark.slow
@all_orders(MIGRATE, 4)
def test_no_order_of_cells_executes_a_plan_whose_gates_are_open(
    prepared: tuple[Target, Any], opened: Callable[..., Scene], cells: Sequence[str], most: int
) -> None:
    """Not even a restore point is taken."""
    target, made = prepared
    scene = opened(target, migrate, never, folder=made.folder)
    scene.walk(cells or scene.cells, most)
    assert scene.done == []


@pytest.mark.slow
@all_orders(MIGRATE, 4)
def test_a_plan_is_executed_once_and_after_its_checks_only(
    prepared: tuple[Target, Any], opened: Callable[..., Scene], cells: Sequence[str], most: int
) -> None:
    """Its gates are accepted: it is executed where check and restore point came before, in that order, and once."""
    target, made = prepared
    acceptance.accept(made.run_id, [])

    def allowed(order: Order) -> bool:
        times = sum(passed(order[: place + 1], "is-it-still-so") and cell == "take-restore-point"
                    for place, cell in enumerate(order))  # fmt: skip
        if order[-1] == "take-restore-point":
            return passed(order, "is-it-still-so") and times == 1
        executions = [place for place, cell in enumerate(order) if cell == "execute-plan"
                      and passed(order[: place + 1], "is-it-still-so", "take-restore-point")]  # fmt: skip
        return executions == [len(order) - 1]

    scene = opened(target, migrate, allowed, folder=made.folder)
    scene.walk(cells or scene.cells, most)
    assert MIGRATE in scene.done


ROLLBACK = ("what-goes-back", "what-about-new-rows", "try-it", "take-restore-point", "take-back")


@pytest.mark.slow
@all_orders(ROLLBACK, 3)
def test_no_order_of_four_cells_takes_anything_back(
    project: Project, opened: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, cells: Sequence[str], most: int
) -> None:
    """Four cells have to pass before the fifth; only a restore point is taken, after the three before it."""
    target, accepting = project(folder=GATED), {"accept": "0001_a.sql:1,0001_a.sql:2"}
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int, gone text); INSERT INTO a VALUES (1, 2, 'three')")
    do(target, "ALTER TABLE a REPLICA IDENTITY FULL; CREATE PUBLICATION sends FOR TABLE a")
    assert run("release", **accepting)[1] == 0
    monkeypatch.setattr(rehearsal, "rehearse", once(rehearsal.rehearse))
    first, *others, last = ROLLBACK[:4]
    taken = [(first, *between, last) for between in itertools.permutations(others)]

    def allowed(order: Order) -> bool:
        return order in taken

    scene = opened(target, rollback, allowed, with_data=False)
    scene.walk(cells or scene.cells, most)
    assert sorted(scene.done) == sorted([] if most < 4 else taken)


@pytest.mark.slow
def test_a_rollback_takes_back_after_its_checks_and_once(
    project: Project, opened: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does where all of them have passed, not where one was left out; a second time it takes back nothing."""
    target, accepting = project(folder=GATED), {"accept": "0001_a.sql:1,0001_a.sql:2"}
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int, gone text); INSERT INTO a VALUES (1, 2, 'three')")
    do(target, "ALTER TABLE a REPLICA IDENTITY FULL; CREATE PUBLICATION sends FOR TABLE a")
    assert run("release", **accepting)[1] == 0
    monkeypatch.setattr(rehearsal, "rehearse", once(rehearsal.rehearse))
    scene = opened(target, rollback, never, with_data=False)
    for left_out in ROLLBACK[:-1]:
        mark = Mark.of(scene.here)
        assert [scene.call(cell) for cell in ROLLBACK if cell != left_out][-1] is False
        assert "number" in scene.contents().database
        mark.put_back(scene)
        scene.put_back(scene.seen)
    assert [scene.call(cell) for cell in ROLLBACK] == [True] * 5
    now = scene.contents()
    assert "number" not in now.database
    assert scene.call("take-back")
    assert [scene.call(cell) for cell in (SET_UP, *ROLLBACK)] == [True] * 6
    assert scene.contents() == now


PURGE = ("what-is-captured", "what-goes", "purge-it")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("force", [False, True], ids=["needed", "forced"])
@all_orders(PURGE, 3)
def test_undo_data_is_purged_after_its_checks_and_once(
    project: Project, opened: Callable[..., Scene], force: bool, cells: Sequence[str], most: int
) -> None:
    """What is still needed is purged by no order of cells; what is purged all the same, after it was shown."""
    target, accepting = project(folder=GATED), {"accept": "0001_a.sql:1,0001_a.sql:2"}
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int, gone text); INSERT INTO a VALUES (1, 2, 'three')")
    do(target, "ALTER TABLE a REPLICA IDENTITY FULL; CREATE PUBLICATION sends FOR TABLE a")
    assert run("release", **accepting)[1] == 0

    def allowed(order: Order) -> bool:
        places = [n for n, cell in enumerate(order) if cell == "purge-it" and passed(order[: n + 1], *PURGE[:2])]
        return force and places == [len(order) - 1]

    scene = opened(target, purge, allowed, everything=True, force=force)
    scene.walk(cells or scene.cells, most)
    assert (PURGE in scene.done) == force


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, pytest.param(4, marks=LONG)])
def test_a_server_is_restored_after_its_point_was_chosen_and_once(
    project: Project, opened: Callable[..., Scene], site: Site, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """No other order of cells makes a server; a second time, also after a restart, the first one is shown."""
    if most == 4:
        monkeypatch.setattr(restore_views, "timeline", lambda *_: None)  # drawing takes longer than all else
    backup.take_base_backup(site.server)
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY)"})
    assert run("migrate")[1] == 0
    chosen = ("meet-the-target", "what-can-be-restored", "choose-the-point")

    def allowed(order: Order) -> bool:
        return order == (*chosen, "restore-to-branch")

    scene = opened(target, restore, allowed)
    idle = {*NEEDED["restore"], *itertools.chain(*NEEDED["restore"].values())} - {*chosen, "restore-to-branch"}
    scene.walk([cell for cell in scene.cells if most == 1 or cell not in idle], most)  # not asked for: they do nothing
    assert [scene.call(cell) for cell in (*chosen, "restore-to-branch")] == [True] * 4
    (made,) = set(server_names()) - scene.seen.servers
    try:
        assert scene.call("restore-to-branch")
        assert [scene.call(cell) for cell in (SET_UP, "restore-to-branch")] == [True, False]
        assert [scene.call(cell) for cell in (*chosen, "restore-to-branch", "is-it-the-point")] == [True] * 5
        assert set(server_names()) - scene.seen.servers == {made}
    finally:
        Server(made).destroy()


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what a rehearsal has found: the database is the same each time."""
    found: list[Any] = []

    def remembered(*given: Any) -> Any:
        if not found:
            found.append(function(*given))
        return found[0]

    return remembered


def test_the_table_of_checks_names_cells_that_are_there() -> None:
    """A cell that was renamed would never pass, and one that changes something would need no check."""
    for name, cells in NEEDED.items():
        module = importlib.import_module(f"pgrunbook.procedures.{name}")
        for cell in itertools.chain(cells, *cells.values()):
            assert callable(getattr(module, cell.replace("-", "_"))), (name, cell)

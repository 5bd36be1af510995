"""The login of a target at PlanetScale: one role for a run or a process, of which nothing is left later."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from conftest import ROOT, connect
from pgrunbook.branches.planetscale import client, login, service_token
from pgrunbook.config import paths, targets
from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.errors import RunbookError, Unreachable, WrongInput
from pgrunbook.session import naming
from planetscale_api.service import Service
from planetscale_api.web import ACCESSES, TOKEN

Shop = Callable[..., Target]


@pytest.fixture
def shop(planetscale: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Declare a target at PlanetScale, with other options in its table; nothing of it is left at the provider."""

    def declare(**more: object) -> Target:
        options = {"organization": "acme", "database": "shop", "sslrootcert": str(planetscale.folder / "cert"), **more}
        table = ", ".join(f"{name} = {value!r}" for name, value in options.items())
        (tmp_path / "targets.toml").write_text(f"[shop]\nplanetscale = {{ {table} }}\n")
        monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
        monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
        return naming.target("shop")

    monkeypatch.setattr(client, "PAUSE_S", 0.01)
    yield declare
    planetscale.tell(faults=[], revoked=False, rate=600)
    login.end()
    place = declare().planetscale
    assert place is not None
    with login.Api(place) as api:
        login.clear_leftovers(api)
    assert planetscale.roles("shop") == ([], [])
    assert not [path for path in folder().iterdir() if not path.name.startswith("making.")]


def folder() -> Path:
    return paths.state_dir() / "planetscale"


def test_a_session_logs_in_as_a_role_of_its_own_and_acts_as_the_owner(shop: Shop, planetscale: Service) -> None:
    """Over TLS with the whole name verified; what it makes is the owner's, and the role is gone with the process."""
    target = shop()
    with connect(target) as conn:
        query = "SELECT session_user::text, current_user::text, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        session, current, tls = conn.execute(query).fetchone() or ("", "", False)
        assert str(session).startswith("pscale_api_")
        assert (current, tls) == ("postgres", True)
        conn.execute("RESET ROLE; CREATE TABLE public.mine (id integer)")
        owner = conn.execute("SELECT tableowner::text FROM pg_tables WHERE tablename = 'mine'").fetchone()
        assert owner == ("postgres",)
        conn.execute("DROP TABLE public.mine")
        in_api, on_server = planetscale.roles("shop")
        assert re.fullmatch(rf"pgrunbook-process-{os.getpid()}-[0-9a-f]{{6}}-[0-9a-f]{{4}}", in_api[0])
        assert on_server == [session]
    assert address.keywords(target)["sslmode"] == "verify-full"
    assert sum("POST" in line for line in planetscale.log()) == 1
    login.end()
    assert planetscale.roles("shop") == ([], [])


def test_the_password_is_in_a_file_of_its_user_alone(shop: Shop) -> None:
    """Not in the record, not in the keywords, not in the environment of a program."""
    target = shop()
    connect(target).close()
    (passfile,) = folder().glob("*.passfile")
    assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
    password = passfile.read_text().strip().rpartition(":")[2]
    assert password.startswith("pscale_pw_")
    (record,) = folder().glob("*.json")
    told = [record.read_text(), repr(address.keywords(target)), repr(address.environment(target)), repr(target)]
    assert password not in "".join(told)
    assert TOKEN[1] not in record.read_text()


@pytest.mark.slow
def test_another_name_than_the_servers_is_not_believed(shop: Shop, tmp_path: Path) -> None:
    """verify-full: without the authority's certificate there is no session; the error says so, and no role is left."""
    other = tmp_path / "other"
    make = ["openssl", "req", "-new", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null", "-out", str(other)]
    subprocess.run(make, check=True, capture_output=True)
    target = shop(sslrootcert=str(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(login, "ANSWERS_WITHIN_S", 0.2)
        with pytest.raises(Unreachable) as told:
            connect(target)
    text = re.sub(r"127[\d.]+", "HOST", str(told.value))
    assert text == (
        'branch "main" of database acme/shop lets nobody in\n'
        'Detail: PlanetScale calls it ready; in 0 s: connection failed: connection to server at "HOST", port 5432 '
        "failed: SSL error: certificate verify failed\n"
        "State: At PlanetScale the role that was made for this is deleted; the database is as it was.\n"
        "Hint: Look at the branch in PlanetScale's console; port, sslrootcert and the network may stand in the way, "
        "too."
    )


def test_the_systems_authorities_are_found(shop: Shop) -> None:
    """The libpq of psycopg's wheel looks for them in a folder that no system has."""
    target = shop()
    assert target.planetscale is not None
    assert login._trusted("/some/file") == "/some/file"
    assert Path(login._trusted("system")).is_file()


@pytest.mark.slow
def test_a_run_has_one_login_for_all_of_its_processes(shop: Shop, planetscale: Service, tmp_path: Path) -> None:
    """Who begins second uses it; it is deleted when the run ends, and not when the second does."""
    target, run_id = shop(), "20260101T000000Z-release-shop-0001"
    program = (
        "from pgrunbook.session import naming; from pgrunbook.database.connection import connect\n"
        "print(connect(naming.target('shop')).execute('SELECT session_user').fetchone()[0])"
    )
    with naming.login_of_run("shop", run_id, print):
        found = [program_says(program, PGRUNBOOK_RUNNER=run_id) for _ in range(2)]
        with connect(target) as conn:
            (user,) = conn.execute("SELECT session_user::text").fetchone() or ("",)
        assert found == [user, user]
        in_folder = tmp_path / run_id
        in_folder.mkdir()
        (in_folder / "run.json").write_text("{}")
        assert program_says(program, cwd=in_folder) == user
        assert len(planetscale.roles("shop")[0]) == 1
    assert planetscale.roles("shop") == ([], [])


def program_says(program: str, cwd: Path | None = None, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), **more}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=cwd or "/", capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["connected", pytest.param("making", marks=pytest.mark.slow)])
def test_what_a_killed_process_leaves_is_deleted_by_the_next_command(
    shop: Shop, planetscale: Service, when: str
) -> None:
    """Also where it was killed between its request and the answer: the role is found by its name."""
    target = shop()
    if when == "making":
        planetscale.tell(faults=[{"method": "POST", "path": "/roles$", "done": True, "hang_s": 20}])
    program = (
        "from pgrunbook.session import naming; from pgrunbook.database.connection import connect; import time\n"
        "conn = connect(naming.target('shop')); print('in', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd="/", stdout=subprocess.PIPE) as killed:
        until(lambda: len(planetscale.roles("shop")[0]) == 1)
        if when == "connected":
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"in\n"
        os.kill(killed.pid, signal.SIGKILL)
    before = planetscale.roles("shop")
    with connect(target) as conn:
        (user,) = conn.execute("SELECT session_user::text").fetchone() or ("",)
    in_api, on_server = planetscale.roles("shop")
    assert on_server == [user]
    assert len(in_api) == 1
    assert not set(before[1]) & set(on_server)


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


@pytest.mark.slow
def test_what_another_machine_has_left_goes_when_it_has_expired(shop: Shop, planetscale: Service) -> None:
    """A living role of another machine stays."""
    target = shop()
    assert target.planetscale is not None
    with login.Api(target.planetscale) as api:
        api.create_role("main", "pgrunbook-elsewhere-over", ttl_s=1, inherits="postgres")
        stays = api.create_role("main", "pgrunbook-elsewhere-alive", ttl_s=600, inherits="postgres")
        api.create_role("main", "of-somebody", ttl_s=1, inherits="postgres")
        time.sleep(1.1)
        connect(target).close()
        assert {name[:21] for name in planetscale.roles("shop")[0]} == {
            "pgrunbook-elsewhere-a", f"pgrunbook-process-{os.getpid()}"[:21], "of-somebody"
        }  # fmt: skip
        api.delete_role("main", stays.id, successor="postgres")
        for one in api.roles("main"):
            if one.name == "of-somebody":
                api.delete_role("main", one.id, successor="postgres")


@pytest.mark.slow
def test_a_login_is_renewed_and_made_again_when_it_is_gone(shop: Shop, planetscale: Service) -> None:
    """After half of its TTL; where somebody has deleted it meanwhile, another one is made."""
    target = shop(login_ttl_s=60)
    connect(target).close()
    age(31)
    connect(target).close()
    asked = [line.partition(" {")[0] for line in planetscale.log() if "POST" in line]
    assert [line.rpartition("/")[2] for line in asked] == ["roles", "renew"]
    age(31)
    assert target.planetscale is not None
    with login.Api(target.planetscale) as api:
        (one,) = api.roles("main")
        api.delete_role("main", one.id, successor="postgres")
    connect(target).close()
    assert len(planetscale.roles("shop")[0]) == 1


def age(seconds: int) -> None:
    """Let the record of the login say that it is older."""
    (path,) = folder().glob("*.json")
    found = login._read(path)
    assert found is not None
    assert found.expires_at is not None
    older = found.model_copy(update={"expires_at": found.expires_at - login.timedelta(seconds=seconds)})
    path.write_text(older.model_dump_json())


def test_a_token_that_is_revoked_meanwhile_leaves_a_note(shop: Shop, planetscale: Service) -> None:
    """Sessions go on; at the end the run notes what is left, and the next command deletes it."""
    target, notes, run_id = shop(), [], "20260101T000000Z-release-shop-0002"
    with naming.login_of_run("shop", run_id, lambda event, **facts: notes.append((event, facts))):
        connect(target).close()
        planetscale.tell(revoked=True)
        connect(target).close()
    ((event, facts),) = notes
    assert event == "login-left"
    assert facts["error"][0].endswith("PlanetScale does not accept the service token")
    assert len(planetscale.roles("shop")[0]) == 1
    with pytest.raises(WrongInput, match="PlanetScale does not accept the service token"):
        connect(target)
    planetscale.tell(revoked=False)
    connect(target).close()
    assert len(planetscale.roles("shop")[0]) == 1


@pytest.mark.slow
def test_two_at_once_have_two_logins(shop: Shop, planetscale: Service) -> None:
    """Processes outside of a run share nothing, and end apart."""
    shop()
    program = (
        "from pgrunbook.session import naming; from pgrunbook.database.connection import connect\n"
        "print(connect(naming.target('shop')).execute('SELECT session_user').fetchone()[0])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    begun = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, cwd="/", stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    users = {one.communicate(timeout=60)[0].strip() for one in begun}
    assert [one.returncode for one in begun] == [0, 0, 0]
    assert len(users) == 3
    assert planetscale.roles("shop") == ([], [])


def test_a_target_has_one_way_and_right_names(shop: Shop, tmp_path: Path) -> None:
    """A table that is wrong is told of before anything is asked."""
    for wrong, told in {
        "{ organization = 'acme' }": "planetscale.database: Field required",
        "{ organization = 'a/b', database = 'shop' }": "planetscale.organization: String should match pattern",
        "{ organization = 'acme', database = 'shop', token = 'x' }": 'option "token" of target "shop" looks like a',
        "{ organization = 'acme', database = 'shop', sslmode = 'disable' }": "planetscale.sslmode: Extra inputs",
    }.items():
        shop()
        (tmp_path / "targets.toml").write_text(f"[shop]\nplanetscale = {wrong}\n")
        with pytest.raises(WrongInput, match=re.escape(told)):
            naming.target("shop")
    shop()


def test_an_error_of_the_api_is_told_where_a_session_is_asked_for(shop: Shop, planetscale: Service) -> None:
    """A database that is not there: as it is, with what is to be corrected."""
    target = shop(branch="nowhere")
    with pytest.raises(RunbookError) as told:
        connect(target)
    assert str(told.value) == (
        'could not list the roles of branch "nowhere" of database acme/shop: PlanetScale knows no such thing, or '
        "does not show it to this token\n"
        "Detail: HTTP 404, not_found: Not Found.\n"
        "State: At PlanetScale nothing was made or changed by this; the database is as it was.\n"
        "Hint: Check organization, database and branch in targets.toml, and the accesses of the token."
    )
    assert planetscale.log()
    shop()


def test_psycopg_is_what_refuses(shop: Shop) -> None:
    """The server of the tests lets nobody in without TLS: else these tests would prove nothing."""
    keywords = address.keywords(shop())
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(**{**keywords, "sslmode": "disable"})
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**{**keywords, "passfile": "/dev/null"})


def test_the_example_declares_what_the_options_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second target spells out each option of the table, with its default where it is not the place itself."""
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(ROOT / "examples" / "planetscale" / "targets.toml"))
    found = targets.load_all()
    short, long = found["production"].planetscale, found["staging"].planetscale
    assert short is not None
    assert long is not None
    assert short.model_copy(update={"branch": "staging"}) == long
    assert long.model_fields_set == set(targets.Planetscale.model_fields)
    assert not found["production"].restore_points
    page = (ROOT / "docs" / "planetscale.md").read_text()
    assert all(f"`{access}`" in page for access in ACCESSES)
    assert all(name in page for name in (service_token.ID, service_token.TOKEN, service_token.FILE))


def test_restore_points_are_refused_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at PlanetScale could find one."""
    file = tmp_path / "targets.toml"
    file.write_text('[shop]\nplanetscale = { organization = "a", database = "b" }\nrestore_points = true\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
    with pytest.raises(WrongInput, match="PlanetScale restores to a time, which is recorded instead"):
        targets.load("shop")


def test_threads_of_a_process_share_its_login(shop: Shop, planetscale: Service) -> None:
    """A watcher connects while others do: one role, and one lock file that is let go of."""
    target = shop()
    with ThreadPoolExecutor(6) as pool:
        for conn in pool.map(lambda _: connect(target), range(6)):
            conn.close()
    assert len(planetscale.roles("shop")[0]) == 1
    login.end()
    assert planetscale.roles("shop") == ([], [])


@pytest.mark.slow
def test_a_damaged_record_of_others_keeps_nobody_out(shop: Shop) -> None:
    """It is told of, and stays."""
    connect(shop()).close()
    login.end()
    damaged = folder() / "process-1-abcdef.00000000.json"
    damaged.write_text("{")
    connect(shop()).close()
    assert damaged.exists()
    for path in (damaged, damaged.with_suffix(".lock")):
        path.unlink()

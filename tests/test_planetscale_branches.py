"""Branches at PlanetScale: made of now, of a time or without rows, and used; of one that fails nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest

from conftest import ROOT, connect
from pgrunbook.app import json_schema
from pgrunbook.branches import registry
from pgrunbook.branches.branch import Branch
from pgrunbook.branches.planetscale import client, login, moments
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.branches.planetscale.branches import PlanetscaleBranches
from pgrunbook.branches.provider import Wanted
from pgrunbook.branches.recovery_target import parse_point
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, RunbookError, Unreachable, WrongInput
from pgrunbook.session import naming
from planetscale_api.service import Service
from scenes import until

Command = Callable[..., tuple[int, str, str]]
NAME = "branchy"
DELETED = "State: The target was only read; what was made of the branch at PlanetScale is deleted."


@pytest.fixture(scope="module")
def database(planetscale_api: Service) -> str:
    """A database at PlanetScale with a table of three rows, and a backup that ended before that."""
    planetscale_api.tell(add_database={"name": NAME})
    with planetscale_api.admin(NAME) as conn:
        conn.execute("SET ROLE postgres; CREATE TABLE public.t (id integer PRIMARY KEY)")
        conn.execute("INSERT INTO public.t VALUES (1), (2), (3)")
    return NAME


@pytest.fixture
def shop(database: str, planetscale: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A target there, of which any moment can be restored; nothing of a branch is left, here or there."""
    planetscale.tell(archive_lag_s=0)
    declare(tmp_path, database, planetscale)
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(client, "PAUSE_S", 0.01)
    yield naming.target("shop")
    login.end()
    planetscale.tell(faults=[], unready_s=0)
    target = targets.load("shop")
    left = (*there(target), *planetscale.roles(NAME), [one.name for one in registry.branches("shop")])
    sweep(target)
    assert left == (["main"], ["scheduled"], [], [], [])


def declare(folder: Path, database: str, planetscale: Service, more: str = "", **options: object) -> None:
    told = {"organization": "acme", "database": database, "sslrootcert": f"{planetscale.folder}/cert",
            "archive_lag_s": 0, **options}  # fmt: skip
    table = ", ".join(f"{name} = {value!r}" for name, value in told.items())
    (folder / "targets.toml").write_text(f"[shop]\nplanetscale = {{ {table} }}\n{more}")


def sweep(target: Target) -> None:
    """Remove what a test that failed has left: the next one has nothing to do with it."""
    assert target.planetscale is not None
    with Api(target.planetscale) as api:
        for branch in reversed(api.branches()):
            if not branch.production:
                api.delete_branch(branch.name)
        for role in api.roles("main"):
            api.delete_role("main", role.id, successor="postgres")
        for backup in api.backups("main")[1:]:
            api.delete_backup("main", backup.id)
    for record in registry.branches("shop"):
        registry.forget(record)


def there(target: Target) -> tuple[list[str], list[str]]:
    """Return the branches and the backups that the provider has."""
    assert target.planetscale is not None
    with Api(target.planetscale) as api:
        return [one.name for one in api.branches()], [one.name for one in api.backups("main")]


def ids(target: Target) -> list[object]:
    with connect(target) as conn:
        return [row[0] for row in conn.execute("SELECT id FROM public.t ORDER BY 1")]


@pytest.mark.slow
def test_the_commands_make_use_compare_and_remove_a_branch(shop: Target, command: Command) -> None:
    """Its rows are those of now; what is done to it is not done to the target; it has one owner."""
    code, out, err = command("branch", "create", "--target", "shop", "dev", "--purpose", "try it")
    assert (code, out, err) == (0, "shop@dev is ready: pgrunbook run release --target shop@dev\n", "")
    assert ids(naming.target("shop@dev")) == [1, 2, 3]
    with connect(naming.target("shop@dev")) as conn:
        assert conn.execute("SELECT current_user::text").fetchone() == ("postgres",)
        conn.execute("CREATE TABLE public.more (id integer)")
    assert ids(shop) == [1, 2, 3]
    assert there(shop) == (["main", "dev"], ["scheduled"])
    code, out, _ = command("branch", "list", "--target", "shop", "--json")
    (found,) = json.loads(out)["branches"]
    assert (found["name"], found["provider"], found["state"], found["purpose"]) == (
        "dev",
        "planetscale",
        "ready",
        "try it",
    )
    assert command("branch", "diff", "shop@dev")[0] == 3
    code, out, _ = command("branch", "schema", "shop@dev")
    assert "CREATE TABLE public.more" in out
    code, out, _ = command("branch", "url", "shop@dev")
    login.end()
    assert "pscale_pw" not in out
    with psycopg.connect(out.strip()) as conn:
        assert conn.execute("SELECT current_user::text, count(*) FROM t").fetchone() == ("postgres", 3)
    assert ids(naming.target("shop@dev")) == [1, 2, 3]  # a command after it leaves the program's login alone
    psycopg.connect(out.strip()).close()
    code, out, _ = command("branch", "delete", "shop@dev", "--force")
    assert (code, out) == (0, "shop@dev is removed\n")
    with pytest.raises(WrongInput, match='target "shop" has no branch "dev"'):
        naming.target("shop@dev")
    for path in (Path(os.environ["PGRUNBOOK_STATE"]) / "planetscale").glob("for-a-program-*"):
        path.unlink()


@pytest.mark.slow
def test_a_branch_of_a_time_has_the_rows_of_then(shop: Target) -> None:
    """By whole seconds; made anew, it is of the same moment."""
    provider = PlanetscaleBranches()
    with connect(shop) as conn:
        (then,) = conn.execute("SELECT date_trunc('second', clock_timestamp()) + interval '1 s'").fetchone() or ("",)
        until(lambda: conn.execute("SELECT clock_timestamp() > %s + interval '0.2 s'", [then]).fetchone() == (True,))
        conn.execute("DELETE FROM public.t WHERE id = 3")
        until(lambda: conn.execute("SELECT clock_timestamp() > %s + interval '2 s'", [then]).fetchone() == (True,))
    made = provider.create(shop, Wanted("then", "me", at=parse_point(str(then))))
    assert ids(provider.target(shop, made)) == [1, 2, 3]
    assert ids(shop) == [1, 2]
    with connect(provider.target(shop, made)) as conn:
        conn.execute("DELETE FROM public.t")
    login.end()
    assert shop.planetscale is not None
    with Api(shop.planetscale) as api:
        api.create_branch("then-anew")  # a reset that was killed
    anew = provider.reset(shop, made)
    assert anew.provider_id != made.provider_id
    assert ids(provider.target(shop, anew)) == [1, 2, 3]
    with pytest.raises(Unreachable, match='branch "shop@then" is gone'):
        provider.target(shop, made)
    provider.delete(shop, anew)
    with connect(shop) as conn:
        conn.execute("INSERT INTO public.t VALUES (3)")


@pytest.mark.slow
def test_what_cannot_be_restored_is_told_before_anything_starts(
    shop: Target, planetscale: Service, tmp_path: Path
) -> None:
    """Each with the first or the last possible time."""
    provider, place = PlanetscaleBranches(), shop.planetscale
    assert place is not None
    with Api(place) as api:
        found = moments.moments(api)
    assert found is not None
    first, now = moments.spelled(found.first_at), datetime.now(UTC)
    early = now - timedelta(days=400)
    with pytest.raises(Refused) as told:
        provider.create(shop, Wanted("then", "me", at=parse_point(f"{early:%Y-%m-%dT%H:%M:%S.%fZ}")))
    last = re.findall(r"and (\S+) every", told.value.detail)[0]
    assert str(told.value) == (
        f"cannot restore to {early:%Y-%m-%dT%H:%M:%SZ}: it is too early\n"
        f"Detail: Between {first} and {last} every second can be restored.\n"
        "State: Nothing was started.\n"
        f"Hint: The oldest backup of the branch ended after it; the first possible time is {first}."
    )
    declare(tmp_path, NAME, planetscale, archive_lag_s=1)
    until(lambda: datetime.now(UTC) > found.first_at + timedelta(seconds=2))
    late = datetime.now(UTC)
    with pytest.raises(Refused) as told_late:
        provider.create(naming.target("shop"), Wanted("then", "me", at=parse_point(f"{late:%Y-%m-%dT%H:%M:%SZ}")))
    assert re.sub(r"\d{4}-\S+Z", "TIME", str(told_late.value)) == (
        "cannot restore to TIME: it is too late\n"
        "Detail: Between TIME and TIME every second can be restored.\n"
        "State: Nothing was started.\n"
        "Hint: What is younger than 0:00:01 cannot be restored: wait 1 s, or name TIME."
    )
    declare(tmp_path, NAME, planetscale, archive_lag_s=86_400)
    with pytest.raises(Refused) as told_yet:
        provider.create(naming.target("shop"), Wanted("then", "me", at=parse_point(f"{late:%Y-%m-%dT%H:%M:%SZ}")))
    assert re.sub(r"in \d+ s", "in N s", re.sub(r"\d{4}-\S+Z", "TIME", str(told_yet.value))) == (
        "cannot restore to TIME: nothing can be restored yet\n"
        "Detail: The oldest backup ended at TIME, and what is younger than 1 day, 0:00:00 cannot be restored.\n"
        "State: Nothing was started.\n"
        "Hint: The first possible time is TIME, in N s."
    )
    planetscale.log()
    for at in ("lsn:0/3000060", "before_release"):
        with pytest.raises(Refused) as told:
            provider.create(shop, Wanted("then", "me", at=parse_point(at)))
        assert str(told.value).splitlines()[0] == 'target "shop" cannot have a branch at ' + (
            "an LSN" if "lsn" in at else "a restore point"
        )
    assert planetscale.log() == []


@pytest.mark.slow
def test_what_a_branch_there_cannot_be_is_told_with_what_is_to_be_done(
    shop: Target, planetscale: Service, tmp_path: Path
) -> None:
    """A sample, masked columns, a branch that is promoted."""
    provider = PlanetscaleBranches()
    with pytest.raises(Refused) as sample:
        provider.create(shop, Wanted("some", "me", rows=10))
    assert str(sample.value) == (
        'target "shop" cannot have a sample of the rows\n'
        "Detail: Its branches are made by the provider planetscale, which can do: a branch at a time, a branch of now "
        "with its data, base backups, making a branch anew.\n"
        "State: Nothing was started.\n"
        "Hint: PlanetScale copies whole backups: leave --rows out, or make it without any: --schema-only."
    )
    declare(tmp_path, NAME, planetscale, '[shop.masking]\n"t.id" = "hash"\n')
    with pytest.raises(Refused, match='target "shop" cannot have masked columns'):
        provider.create(naming.target("shop"), Wanted("some", "me"))
    with pytest.raises(Refused) as promoted:
        provider.promote(shop, None)  # type: ignore[arg-type]
    assert promoted.value.hint == (
        "A branch becomes production in PlanetScale's console (its size and replicas); then lead programs to it by new "
        "credentials, and write its name into the target's section of targets.toml."
    )
    assert not [line for line in planetscale.log() if line.startswith("POST")]


@pytest.mark.slow
@pytest.mark.parametrize("unready_s", [0, 1.0])
def test_a_branch_without_rows_has_the_schema(shop: Target, planetscale: Service, unready_s: float) -> None:
    """From a dump; also where PlanetScale calls ready what lets nobody in for a while."""
    planetscale.tell(unready_s=unready_s)
    provider = PlanetscaleBranches()
    made = provider.create(shop, Wanted("plain", "me", has_data=False))
    branch = provider.target(shop, made)
    assert ids(branch) == []
    with connect(branch) as conn:
        owner = conn.execute("SELECT tableowner::text FROM pg_tables WHERE tablename = 't'").fetchone()
        assert owner == ("postgres",)
    assert [one.name for one in provider.branches(shop)] == ["plain"]
    login.end()
    provider.delete(shop, made)
    provider.delete(shop, made)


@pytest.mark.slow
def test_a_branch_that_never_lets_in_is_deleted(
    shop: Target, planetscale: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PlanetScale says ready and it is not: a clear error after the limit, and nothing is left."""
    planetscale.tell(unready_s=60)
    monkeypatch.setattr(login, "ANSWERS_WITHIN_S", 0.3)
    with pytest.raises(RunbookError) as told:
        PlanetscaleBranches().create(shop, Wanted("never", "me", has_data=False))
    lines = str(told.value).splitlines()
    assert lines[0] == 'branch "never" of database acme/branchy lets nobody in'
    assert lines[-2] == DELETED


ERROR = '{"code": "internal", "message": "Something went wrong"}'
FAULTS: dict[str, dict[str, Any]] = {
    "the backup is refused": {"method": "POST", "path": "/backups$", "status": 422, "body": ERROR},
    "the backup cannot be seen": {"method": "GET", "path": "/backups/", "status": 200, "type": "text/html"},
    "the branch is refused": {"method": "POST", "path": "/branches$", "status": 403, "body": ERROR},
    "the branch is made and not told": {"method": "POST", "path": "/branches$", "done": True, "body": "{}"},
    "the branch cannot be seen": {"method": "GET", "path": "/branches/dev$", "times": 99, "status": 401, "body": ERROR},
    "the new branch cannot be seen": {
        "method": "GET", "path": "/branches/dev$", "skip": 1, "times": 99, "status": 401, "body": ERROR,
    },
    "the role is refused": {"method": "POST", "path": "/dev/roles$", "status": 422, "body": ERROR},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_of_a_branch_that_fails_nothing_is_left(shop: Target, planetscale: Service, name: str) -> None:
    """Whichever request fails: the branch, its backup, its roles and its record are gone."""
    fault = dict(FAULTS[name])
    planetscale.tell(faults=[fault])
    with pytest.raises(RunbookError) as told:
        PlanetscaleBranches().create(shop, Wanted("dev", "me"))
    if name == "the branch cannot be seen":
        assert "nothing was made or changed" in str(told.value)
    else:
        assert DELETED in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_what_cannot_be_taken_away_is_kept_in_mind(
    shop: Target, planetscale: Service, command: Command, lost: bool
) -> None:
    """The token is revoked in the middle: the record stays, and when PlanetScale answers again, clean removes all."""
    refused = {"path": "", "times": 999, "status": 401, "body": '{"code": "unauthorized", "message": "Revoked"}'}
    later = {"method": "GET", "path": "/branches/dev$", "skip": 1, **refused}
    faults = [{**later, "path": "/branches/dev$"}, {"method": "DELETE", **refused}]
    if lost:  # the answer that the branch is being made, too
        faults.append({"method": "POST", "path": "/branches$", "done": True, "cut": True})
    planetscale.tell(faults=faults)
    with pytest.raises(Unreachable if lost else WrongInput) as told:
        PlanetscaleBranches().create(shop, Wanted("dev", "me"))
    assert str(told.value).splitlines()[2] == (
        "State: The target was only read. A branch and a backup may be left at PlanetScale: when it answers again, "
        "pgrunbook branch clean removes them."
    )
    planetscale.tell(faults=[])
    assert sorted(there(shop)[0]) == ["dev", "main"]
    assert command("branch", "clean", "--target", "shop")[:2] == (0, "shop@dev is removed: it is half made\n")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["/backups", "/branches$", "/branches/dev$", "/dev/roles$"])
def test_what_a_killed_create_leaves_is_cleaned(
    shop: Target, planetscale: Service, command: Command, when: str
) -> None:
    """At the backup, at the branch, while it is waited for, at its role: clean removes it all at the provider."""
    method = "GET" if when == "/branches/dev$" else "POST"
    fault = {"method": method, "path": when, "done": True, "hang_s": 30}
    planetscale.tell(faults=[{**fault, "times": 0} if when == "/branches/dev$" else fault])
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    create = [sys.executable, "-m", "pgrunbook", "branch", "create", "--target", "shop", "dev"]
    if when == "/branches/dev$":
        planetscale.tell(delay_s=20)
    with subprocess.Popen(create, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        until(lambda: any(re.search(when.strip("$"), line) and line.startswith(method) for line in seen(planetscale)))
        if when == "/branches/dev$":
            until(lambda: any(line.startswith("GET") and "/branches/dev " in f"{line} " for line in seen(planetscale)))
        os.kill(killed.pid, signal.SIGKILL)
    SEEN.clear()
    planetscale.tell(faults=[], delay_s=0.2)
    code, out, err = command("branch", "clean", "--target", "shop")
    assert (code, err) == (0, "")
    assert out == "shop@dev is removed: it is half made\n"
    assert shop.planetscale is not None


SEEN: list[str] = []


def seen(planetscale: Service) -> list[str]:
    SEEN.extend(planetscale.log())
    return SEEN


@pytest.mark.slow
def test_a_name_that_is_taken_there_is_refused(shop: Target, planetscale: Service) -> None:
    """Somebody has made it in the console: it stays, is listed, and can be used."""
    place = shop.planetscale
    assert place is not None
    with Api(place) as api:
        api.create_branch("theirs")
        api.wait_ready("theirs")
        with pytest.raises(Refused) as told:
            PlanetscaleBranches().create(shop, Wanted("theirs", "me", has_data=False))
        assert str(told.value) == (
            'database acme/branchy at PlanetScale has a branch "theirs"\n'
            "Detail: Somebody else has made it: there is no record of it here.\n"
            "State: Nothing was started.\n"
            "Hint: Choose another name."
        )
        with connect(naming.target("shop@theirs")) as conn:
            assert conn.execute("SELECT to_regclass('public.t')").fetchone() == (None,)
        login.end()
        (found,) = PlanetscaleBranches().branches(shop)
        assert (found.owner, found.purpose) == ("Operator", "not made by pgrunbook")
        with pytest.raises(Refused) as anew:
            PlanetscaleBranches().reset(shop, found)
        assert str(anew.value) == (
            'cannot make branch "shop@theirs" anew: it is not known what it was made of\n'
            "Detail: It was not made by pgrunbook.\n"
            "State: It is as it was.\n"
            "Hint: Make one of your own: pgrunbook branch create --target shop NAME."
        )
        assert api.delete_branch("theirs")
    assert planetscale.log()


@pytest.mark.slow
def test_two_at_once_do_not_meet(shop: Target, planetscale: Service) -> None:
    """Two names are made side by side; of one name, one is made."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    create = [sys.executable, "-m", "pgrunbook", "branch", "create", "--target", "shop", "--schema-only"]
    begun = [
        subprocess.Popen([*create, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two", "two")
    ]
    told = [one.communicate(timeout=120) for one in begun]
    codes = sorted(one.returncode for one in begun)
    assert codes in ([0, 0, 1], [0, 0, 3]), told
    assert sorted(there(shop)[0]) == ["main", "one", "two"]
    assert planetscale.roles(NAME) == ([], [])
    for branch in PlanetscaleBranches().branches(shop):
        PlanetscaleBranches().delete(shop, branch)


@pytest.mark.slow
def test_backups_are_taken_listed_and_removed_by_command(
    shop: Target, tmp_path: Path, planetscale: Service, command: Command
) -> None:
    """Those of others stay; what PlanetScale has nothing for is refused, with what is to be done instead."""
    declare(tmp_path, NAME, planetscale, "keep_backups = 1\n")
    for _ in range(2):
        code, out, _ = command("backup", "create", "--target", "shop")
        assert code == 0
        assert re.fullmatch(r"[0-9a-f]{12}: \d+ MB, at PlanetScale\n", out)
    code, out, _ = command("backup", "list", "--target", "shop", "--json")
    found = json.loads(out)
    assert [one["path"][:13] for one in found["backups"]] == ["scheduled", "by-pgrunbook-", "by-pgrunbook-"]
    assert len(found["windows"]) == 1
    jsonschema.validate(found, json.loads(json_schema.kept("backup")))
    code, out, _ = command("backup", "expire", "--target", "shop")
    assert out.endswith("removed: 1 base backups\n")
    assert re.search(r"^can be restored: \S+Z to \S+Z$", out, re.M)
    assert len(there(shop)[1]) == 2
    code, _, err = command("backup", "verify", "--target", "shop")
    assert code == 3
    assert err == (
        'target "shop" has no backup verify\n'
        "Detail: Its backups and its WAL are in PlanetScale's hands.\n"
        "State: Nothing was started.\n"
        "Hint: Restore to now and compare: pgrunbook run restore --target shop -p to=newest; then delete the branch.\n"
    )
    for more in (("create", "--incremental"), ("receive",)):
        code, _, err = command("backup", *more, "--target", "shop")
        assert (code, err.partition("\n")[0]) == (3, f'target "shop" has no backup {" ".join(more)}')
    sweep(shop)


@pytest.mark.slow
def test_a_target_that_cannot_be_asked_hides_no_other(
    shop: Target, planetscale: Service, tmp_path: Path, command: Command
) -> None:
    """Of all targets the rest is listed; its error is told, and the exit code says that something is missing."""
    with (tmp_path / "targets.toml").open("a") as file:
        file.write('[other]\nserver = "nowhere"\n')
    planetscale.tell(revoked=True)
    for words in (("list",), ("list", "--json"), ("clean",)):
        code, out, err = command("branch", *words)
        assert code == 1
        assert out == {"list": "No branch.\n", "clean": ""}.get(words[-1], '{\n "branches": []\n}\n')
        assert err.startswith("could not list the branches of database acme/branchy: PlanetScale does not accept")
    planetscale.tell(revoked=False)
    assert command("branch", "list", "--target", shop.name) == (0, "No branch.\n", "")


@pytest.mark.slow
def test_branches_of_a_target_that_is_declared_no_more_are_told_of(
    shop: Target, tmp_path: Path, command: Command
) -> None:
    """Where they are stood in its section: the error says so, and other branches are listed."""
    record = Branch(target="gone", name="dev", provider="planetscale", owner="me", made_at=datetime.now(UTC))
    registry.write(record)
    code, out, err = command("branch", "list")
    registry.forget(record)
    assert (code, out) == (1, "No branch.\n")
    assert err == (
        'target "gone" is not at PlanetScale any more, and has branches there\n'
        "Detail: Where they are stood in its section of targets.toml.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Declare it again as it was, to delete them: pgrunbook branch list.\n"
    )
    assert shop.name in (tmp_path / "targets.toml").read_text()

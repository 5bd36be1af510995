"""Requests to PlanetScale's API: each failure is one clear error, nothing is done twice, no token is told."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgrunbook.branches.planetscale import client as clients
from pgrunbook.branches.planetscale import service_token
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.branches.planetscale.client import Client
from pgrunbook.config.targets import Planetscale
from pgrunbook.errors import Blocked, Broken, Refused, RunbookError, Unreachable, WrongInput
from planetscale_api.service import Service
from planetscale_api.web import TOKEN

SHOP = Planetscale(organization="acme", database="shop")
NOTHING = "State: At PlanetScale nothing was made or changed by this; the database is as it was."
IN_DOUBT = "State: It is not known whether PlanetScale has done it; the database is as it was."
READ, ROLES = r"/branches/main$", r"/branches/main/roles$"


@pytest.fixture
def api(planetscale: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API, with pauses that are a hundredth as long."""
    assert planetscale
    monkeypatch.setattr(clients, "PAUSE_S", clients.PAUSE_S / 100)
    with Api(SHOP, Client(timeout_s=2.0)) as found:
        yield found


HANGS = pytest.param({"hang_s": 2.5}, marks=pytest.mark.slow)


def fault(method: str, path: str, **what: Any) -> dict[str, Any]:
    return {"method": method, "path": path, **what}


ERROR = '{"code": "internal", "message": "Something went wrong"}'
OUTCOMES = {
    "401": (
        {"status": 401, "body": '{"code": "unauthorized", "message": "The access token is invalid"}'},
        WrongInput,
        ("could not read branch \"main\" of database acme/shop: PlanetScale does not accept the service token\n"
        "Detail: HTTP 401, unauthorized: The access token is invalid.\n"
        f"{NOTHING}\n"
        "Hint: It comes from PLANETSCALE_SERVICE_TOKEN_ID and PLANETSCALE_SERVICE_TOKEN. Make another in the "
        "organization's settings, if it was deleted, and set PLANETSCALE_SERVICE_TOKEN_ID and "
        "PLANETSCALE_SERVICE_TOKEN, or PLANETSCALE_SERVICE_TOKEN_FILE."),
    ),
    "403": (
        {"status": 403, "body": '{"code": "forbidden", "message": "No access"}'},
        Refused,
        ("could not read branch \"main\" of database acme/shop: the service token of PlanetScale may not do that\n"
        "Detail: HTTP 403, forbidden: No access.\n"
        f"{NOTHING}\n"
        "Hint: Give the token tokenid1 what it lacks on this database. All that pgrunbook uses: read_branch, "
        "create_branch, delete_branch, restore_backup, restore_production_branch_backup, write_backups, "
        "delete_backups, create_branch_password, create_production_branch_password, delete_branch_password."),
    ),
    "422": (
        {"status": 422, "body": '{"errors": [{"namespace": "x", "name": "ttl", "errors": ["is too long", "is odd"]}]}'},
        WrongInput,
        ("could not read branch \"main\" of database acme/shop: PlanetScale refused it\n"
        "Detail: HTTP 422, ttl is too long, is odd.\n"
        f"{NOTHING}\n"
        "Hint: Correct what it names, then run this again."),
    ),
    "429": (
        {"status": 429, "headers": {"Retry-After": "0"}, "body": '{"code": "rate_limited", "message": "Slow down"}'},
        Blocked,
        ("could not read branch \"main\" of database acme/shop at PlanetScale: its rate limit is reached in 5 "
        "attempts\n"
        "Detail: HTTP 429, rate_limited: Slow down. It allows 600 requests in a minute for all who use this "
        "organization's tokens.\n"
        f"{NOTHING}\n"
        "Hint: Wait a minute, then run this again."),
    ),
    "500": (
        {"status": 500, "body": ERROR},
        Unreachable,
        ("could not read branch \"main\" of database acme/shop at PlanetScale in 5 attempts\n"
        "Detail: HTTP 500, internal: Something went wrong.\n"
        f"{NOTHING}\n"
        "Hint: Look at https://www.planetscalestatus.com, then run this again."),
    ),
    "HTML with 502": (
        {"status": 502, "type": "text/html", "body": "<html>Bad gateway</html>"},
        Unreachable,
        ("could not read branch \"main\" of database acme/shop at PlanetScale in 5 attempts\n"
        "Detail: HTTP 502 (text/html, no JSON).\n"
        f"{NOTHING}\n"
        "Hint: Look at https://www.planetscalestatus.com, then run this again."),
    ),
    "HTML with 200": (
        {"status": 200, "type": "text/html", "body": "<html>Please log in</html>"},
        Unreachable,
        ("could not read branch \"main\" of database acme/shop at PlanetScale: it did not answer with JSON\n"
        "Detail: HTTP 200, text/html, 26 bytes.\n"
        f"{NOTHING}\n"
        "Hint: A proxy or a login page may stand in between: check the network, then run this again."),
    ),
    "a redirect": (
        {"status": 302, "headers": {"Location": "/elsewhere"}, "type": "text/html"},
        WrongInput,
        ("could not read branch \"main\" of database acme/shop: PlanetScale refused it\n"
        "Detail: HTTP 302.\n"
        f"{NOTHING}\n"
        "Hint: Correct what it names, then run this again."),
    ),
    "a field that lacks": (
        {"status": 200, "body": '{"id": "b1", "name": "main", "ready": true, "state": "ready", "production": "maybe"}'},
        Broken,
        ("could not read branch \"main\" of database acme/shop at PlanetScale: its answer is not as its documentation "
        "says\n"
        "Detail: production: Input should be a valid boolean, unable to interpret input; created_at: Field required.\n"
        "State: It is not known whether PlanetScale has done it; the database is as it was.\n"
        "Hint: Look at it in PlanetScale's own console; a newer version of pgrunbook may know the API of today."),
    ),
    "half of a JSON": (
        {"status": 200, "body": '{"id": "b1", '},
        Broken,
        ("could not read branch \"main\" of database acme/shop at PlanetScale: its answer is not as its documentation "
        "says\n"
        "Detail: the file: Invalid JSON: EOF while parsing a value at line 1 column 13.\n"
        "State: It is not known whether PlanetScale has done it; the database is as it was.\n"
        "Hint: Look at it in PlanetScale's own console; a newer version of pgrunbook may know the API of today."),
    ),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("name", OUTCOMES)
def test_each_failure_is_one_clear_error(api: Api, planetscale: Service, name: str) -> None:
    """Its full text: what was to be done, what PlanetScale says, what is made there, and what to do."""
    what, kind, text = OUTCOMES[name]
    planetscale.tell(faults=[fault("GET", READ, times=9, **what)])
    with pytest.raises(RunbookError) as told:
        api.branch("main")
    assert type(told.value) is kind
    assert str(told.value) == text


def test_what_is_absent_is_told_as_such(api: Api) -> None:
    """A branch may be absent; where its backups are listed, it has to be there."""
    assert api.branch("nowhere") is None
    assert api.delete_branch("nowhere") is False
    with pytest.raises(WrongInput) as told:
        api.backups("nowhere")
    assert str(told.value) == (
        'could not list the backups of branch "nowhere" of database acme/shop: PlanetScale knows no such thing, or '
        "does not show it to this token\n"
        "Detail: HTTP 404, not_found: Not Found.\n"
        f"{NOTHING}\n"
        "Hint: Check organization, database and branch in targets.toml, and the accesses of the token."
    )


@pytest.mark.parametrize("what", [HANGS, {"cut": True}, {"status": 503, "type": "text/plain", "body": "x"}])
def test_what_passes_is_tried_again(api: Api, planetscale: Service, what: dict[str, Any]) -> None:
    """A timeout, a lost connection, an overload: the third attempt succeeds."""
    planetscale.tell(faults=[fault("GET", READ, times=2, **what)])
    found = api.branch("main")
    assert found is not None
    assert found.production
    assert len(planetscale.log()) == 3


@pytest.mark.slow
def test_retry_after_is_heeded(api: Api, planetscale: Service) -> None:
    """In seconds, as PlanetScale gives it; a date that is past means at once."""
    later = [{"Retry-After": "1"}, {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}]
    planetscale.tell(faults=[fault("GET", READ, status=429, headers=headers) for headers in later])
    began = time.monotonic()
    assert api.branch("main") is not None
    assert 1.0 <= time.monotonic() - began < 1.9


@pytest.mark.slow
def test_the_rate_limit_is_waited_for(api: Api, planetscale: Service) -> None:
    """Also without Retry-After: the pauses before the last attempt are longer than the minute that counts."""
    planetscale.tell(faults=[fault("GET", READ, times=4, status=429, body=ERROR)])
    began = time.monotonic()
    assert api.branch("main") is not None
    assert time.monotonic() - began >= 60 / 100  # pauses are a hundredth here


def test_a_role_without_a_password_gets_one(api: Api, planetscale: Service) -> None:
    """A password is told once: where the answer has none, it is set anew."""
    facts = {"id": "x", "name": "pgrunbook-mute", "username": "u", "access_host_url": "h", "database_name": "d"}
    planetscale.tell(
        faults=[
            fault("POST", ROLES, body=json.dumps(facts)),
            fault("POST", "/x/reset$", body=json.dumps({**facts, "password": "p"})),
        ]
    )
    assert api.create_role("main", "pgrunbook-mute", ttl_s=60, inherits="postgres").password is not None


@pytest.mark.slow
@pytest.mark.parametrize("what", [{"status": 500, "body": ERROR}, {"cut": True}])
def test_a_branch_is_renamed_once(api: Api, planetscale: Service, what: dict[str, Any]) -> None:
    """Where the answer was lost, the second request finds the old name no more, and the new one is looked up."""
    api.create_branch("old")
    api.wait_ready("old")
    planetscale.tell(faults=[fault("PATCH", "/old$", done=True, **what)])
    assert api.rename_branch("old", "new").name == "new"
    assert api.delete_branch("new")
    with pytest.raises(WrongInput, match="PlanetScale knows no such thing"):
        api.rename_branch("old", "new")


def test_nobody_answers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there: the request was not sent, so nothing was made."""
    assert api.place == SHOP
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    monkeypatch.setenv(clients.NAMED_IN, f"http://127.0.0.1:{port}/v1")
    with Api(SHOP) as other, pytest.raises(Unreachable) as told:
        other.create_branch("dev")
    assert str(told.value) == (
        'could not create branch "dev" of database acme/shop at PlanetScale in 5 attempts\n'
        f"Detail: http://127.0.0.1:{port}/v1 cannot be reached (ConnectError: [Errno 111] Connection refused).\n"
        f"{NOTHING}\n"
        "Hint: Check the network and https://www.planetscalestatus.com, then run this again."
    )


@pytest.mark.parametrize("url", ["http://api.planetscale.com/v1", "ftp://localhost", "nonsense", "http://[x"])
def test_the_token_goes_nowhere_without_tls(monkeypatch: pytest.MonkeyPatch, planetscale: Service, url: str) -> None:
    """Another address is for tests, on this machine."""
    assert planetscale
    monkeypatch.setenv(clients.NAMED_IN, url)
    with pytest.raises(WrongInput) as told:
        Client()
    assert str(told.value) == (
        "cannot use PLANETSCALE_API_URL\n"
        f"Detail: It is {url}. It has to begin with https://; http:// is for this machine only.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Unset it: the address of the API is https://api.planetscale.com/v1."
    )


@pytest.mark.first_case
@pytest.mark.parametrize("what", [{"status": 500, "body": ERROR}, {"cut": True}, HANGS])
@pytest.mark.parametrize("done", [True, False])
def test_nothing_is_made_twice(api: Api, planetscale: Service, what: dict[str, Any], done: bool) -> None:
    """A role whose answer was lost is found by its name, and gets a password that we know; else it is made."""
    planetscale.tell(faults=[fault("POST", ROLES, done=done, **what)])
    name = f"pgrunbook-twice-{done}-{len(what)}-{'cut' in what}"
    made = api.create_role("main", name, ttl_s=60, inherits="postgres")
    assert made.password is not None
    assert "pscale_pw" not in repr(made) + str(made)
    in_api, on_server = planetscale.roles("shop")
    assert in_api.count(name) == len(on_server) == 1
    assert api.delete_role("main", made.id, successor="postgres")
    assert planetscale.roles("shop") == ([], [])
    assert api.delete_role("main", made.id, successor="postgres") is False


@pytest.mark.slow
def test_a_branch_is_made_waited_for_and_deleted(api: Api, planetscale: Service) -> None:
    """Also where the answer to its making was lost; one of that name that was there before is not taken for it."""
    planetscale.tell(faults=[fault("POST", "/branches$", done=True, status=500, body=ERROR)])
    made = api.create_branch("dev", parent_branch="main")
    assert (made.name, made.ready, made.state, made.parent_branch) == ("dev", False, "pending", "main")
    assert api.wait_ready("dev").ready
    with pytest.raises(WrongInput, match="Name has already been taken"):
        api.create_branch("dev")
    assert {one.name for one in api.branches()} == {"main", "dev"}
    assert api.delete_branch("dev") is True
    assert api.branch("dev") is None


@pytest.mark.slow
def test_waiting_has_an_end(api: Api, planetscale: Service) -> None:
    """A branch that does not become ready is told of, with what is to be done."""
    planetscale.tell(delay_s=2)
    api.create_branch("slow")
    with pytest.raises(Unreachable) as told:
        api.wait_ready("slow", within_s=0.6)
    assert str(told.value) == (
        'branch "slow" of database acme/shop is not ready after 1 s\n'
        "Detail: PlanetScale is still at work on it.\n"
        "State: The database is as it was.\n"
        "Hint: Look at it in PlanetScale's console, then run this again."
    )
    planetscale.tell(delay_s=0.2)
    api.wait_ready("slow")
    assert api.delete_branch("slow")


def test_lists_are_read_to_their_end(api: Api, planetscale: Service) -> None:
    """Three pages of two; a page that fails in between is asked for again."""
    for number in range(5):
        api.create_role("main", f"pgrunbook-page-{number}", ttl_s=60, inherits="postgres")
    planetscale.log()
    planetscale.tell(faults=[fault("GET", ROLES, status=500, body=ERROR)])
    found = api.roles("main")
    assert [one.name for one in found] == [f"pgrunbook-page-{number}" for number in range(5)]
    assert [re.findall(r"\?page=(\d)", line) for line in planetscale.log()] == [["1"], ["1"], ["2"], ["3"]]
    for one in found:
        api.delete_role("main", one.id, successor="postgres")


@pytest.mark.slow
def test_a_backup_is_taken_kept_and_deleted(api: Api, planetscale: Service) -> None:
    """It is waited for; the one that a new database begins with is listed too."""
    begun = api.create_backup("main", "pgrunbook-one", keep_days=3)
    done = api.wait_backup("main", begun.id)
    assert (done.name, done.state) == ("pgrunbook-one", "success")
    assert done.size is not None
    assert done.size > 1_000_000
    assert done.expires_at is not None
    assert (done.expires_at - done.created_at).days == 3
    assert [one.name for one in api.backups("main")] == ["scheduled", "pgrunbook-one"]
    assert api.delete_backup("main", done.id)
    assert not api.delete_backup("main", done.id)
    assert planetscale.log()


def test_the_schema_of_a_branch_is_read(api: Api, planetscale: Service) -> None:
    """Each table, as SQL."""
    with planetscale.admin("shop") as conn:
        conn.execute("CREATE TABLE public.asked (id integer)")
        found = api.schema("main", "postgres.public")
        conn.execute("DROP TABLE public.asked")
    assert [one.name for one in found] == ["asked"]
    assert "CREATE TABLE public.asked (\n    id integer\n);" in found[0].raw


def test_another_kind_of_database_is_refused(api: Api, planetscale: Service) -> None:
    """Vitess speaks MySQL."""
    assert api.database().kind == "postgresql"
    planetscale.tell(faults=[fault("GET", "/databases/shop$", status=200, body='{"name": "shop", "kind": "mysql"}')])
    with pytest.raises(WrongInput) as told:
        api.database()
    assert str(told.value) == (
        "database acme/shop at PlanetScale is not a database of PostgreSQL\n"
        "Detail: It is of the kind mysql.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name a PostgreSQL database in targets.toml."
    )


def test_a_token_lies_in_a_file_that_others_cannot_read(
    planetscale: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is refused, as is a file without a token, or none at all."""
    assert planetscale
    for name in (service_token.ID, service_token.TOKEN):
        monkeypatch.delenv(name)
    with pytest.raises(WrongInput) as lacks:
        Client()
    assert str(lacks.value) == (
        "could not find the service token of PlanetScale\n"
        "Detail: Neither PLANETSCALE_SERVICE_TOKEN_ID with PLANETSCALE_SERVICE_TOKEN, nor "
        "PLANETSCALE_SERVICE_TOKEN_FILE is set.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Set both for this process, or write ID:TOKEN into a file of mode 0600 and name it in "
        "PLANETSCALE_SERVICE_TOKEN_FILE."
    )
    file = tmp_path / "token"
    file.write_text(":".join(TOKEN) + "\n")
    file.chmod(0o600)
    monkeypatch.setenv(service_token.FILE, str(file))
    with Api(SHOP) as api:
        assert api.branch("main") is not None
    file.chmod(0o640)
    with pytest.raises(Refused) as told:
        Client()
    assert str(told.value) == (
        "refused to use the service token of PlanetScale: others can read it\n"
        f"Detail: {file} has mode 0640.\n"
        "State: Nothing changed in the database.\n"
        f"Hint: chmod 600 {file}; and make another token, where somebody may have read this one."
    )
    file.chmod(0o600)
    for text in ("", "one", ":two", "one:", "o n:e", "one:two\nthree", "öne:two"):
        file.write_text(text)
        with pytest.raises(WrongInput, match="cannot use the service token of PlanetScale") as wrong:
            Client()
        assert f"What {file} holds is not an ID and a token, each one word." in str(wrong.value)
    monkeypatch.setenv(service_token.ID, "only")
    monkeypatch.delenv(service_token.FILE)
    with pytest.raises(WrongInput, match="PLANETSCALE_SERVICE_TOKEN is not set"):
        Client()


def test_the_token_is_told_nowhere(api: Api, planetscale: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log at its most talkative, nor in an error that quotes what came back, nor in any repr."""
    caplog.set_level(logging.DEBUG)
    told_back = {"code": "bad_request", "message": f"odd: {':'.join(TOKEN)}, {TOKEN[1]}"}
    echo = {"status": 400, "body": json.dumps(told_back)}
    planetscale.tell(faults=[fault("GET", READ, **echo), fault("GET", READ, times=9, cut=True)])
    texts = []
    for _ in range(2):
        with pytest.raises(RunbookError) as told:
            api.branch("main")
        texts += [str(told.value), repr(told.value.__cause__), repr(told.value.__context__)]
    assert "odd: ***, ***" in texts[0]
    assert TOKEN[1] not in "".join([*texts, caplog.text, repr(api.client.token), repr(vars(api))])


def test_the_accesses_of_a_token_are_asked_of_the_api(api: Api, planetscale: Service) -> None:
    """A token that lacks one is told of with PlanetScale's own words; nothing is made."""
    planetscale.tell(accesses=["read_branch"])
    with pytest.raises(Refused, match="does not have the access create_branch"):
        api.create_branch("dev")
    assert api.branch("dev") is None
    planetscale.tell(revoked=True)
    with pytest.raises(WrongInput, match="PlanetScale does not accept the service token"):
        api.branch("main")


def test_the_api_of_the_tests_is_strict(planetscale: Service) -> None:
    """What its documentation does not name is refused: else these tests would prove nothing."""
    with Client() as client, Api(SHOP, client) as api:
        for body in ({"seed": 1}, {"cluster_name": "PS_10"}, {"restore_point": "yesterday"},
                     {"restore_point": "2026-01-15 10:30:00+00"}, {"kind": "oracle"}, {"kind": 5}):  # fmt: skip
            with pytest.raises(WrongInput, match="HTTP 422, invalid_params"):
                api.create_branch("dev", **body)
        with pytest.raises(WrongInput, match="cluster_size is required"):
            api.create_branch("dev", backup_id="x")
        with pytest.raises(WrongInput, match="HTTP 422, invalid_params: sort"):
            list(client.all(type(api.branches()[0]), *api._path, "branches", doing="x", sort="up"))
        assert [one.name for one in api.branches()] == ["main"]
    assert planetscale.log()

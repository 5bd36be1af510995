"""The API itself: its addresses, who may ask, what a request may hold, and the faults that a test asks for.

A test governs it with POST /control, which the real one does not have.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import tornado.web
from pydantic import ValidationError

from planetscale_api import provider as providers
from planetscale_api import shapes
from planetscale_api.provider import ORGANIZATION, Provider, Wrong

TOKEN = ("tokenid1", "pscale_tkn_Zm9vYmFy")
ACCESSES = {
    "read_branch", "create_branch", "delete_branch", "restore_backup", "restore_production_branch_backup",
    "write_backups", "delete_backups", "create_branch_password", "create_production_branch_password",
    "delete_branch_password",
}  # fmt: skip
Answer = tuple[int, object]


class Api:
    """The state of the server beside that of the provider."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.accesses = set(ACCESSES)
        self.is_revoked = False
        self.faults: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.per_page = 25
        self.rate = 600
        self._recent: deque[float] = deque()

    def control(self, wanted: dict[str, Any]) -> object:
        """Do what a test asks for."""
        facts: dict[str, Any] = {}
        for name, value in wanted.items():
            match name:
                case "faults":
                    self.faults = list(value)
                case "revoked":
                    self.is_revoked = value
                case "accesses":
                    self.accesses = ACCESSES if value is None else set(value)
                case "per_page" | "rate":
                    setattr(self, name, value)
                case "delay_s" | "unready_s" | "archive_lag_s":
                    setattr(self.provider, name, value)
                case "add_database":
                    self.provider.add_database(**value)
                case "log":
                    facts["log"], self.asked = self.asked, []
                case "where":
                    branch = self.provider.branch(*value)
                    facts["where"] = [str(branch.cluster.dir), branch.cluster.host]
                case "roles":
                    branch = self.provider.branch(*value)
                    with branch.cluster.admin() as conn:
                        query = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pscale\\_api\\_%'"
                        facts["roles"] = [[one.name for one in branch.roles], [row[0] for row in conn.execute(query)]]
                case _:
                    raise AssertionError(name)
        return facts

    def admit(self, header: str) -> None:
        """See that the one who asks may ask, and not too often."""
        if self.is_revoked or header != ":".join(TOKEN):
            raise Wrong(401, "unauthorized", "The access token is invalid")
        now = time.monotonic()
        while self._recent and self._recent[0] < now - 60:
            self._recent.popleft()
        if len(self._recent) >= self.rate:
            raise Wrong(429, "rate_limited", "Too many requests")
        self._recent.append(now)

    def fault(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the fault that a request meets, and count it."""
        for fault in self.faults:
            if fault["method"] == method and re.search(fault["path"], path) and fault.get("times", 1) > 0:
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                fault["times"] = fault.get("times", 1) - 1
                return fault
        return None

    def may(self, access: str) -> None:
        """See that the token has an access."""
        if access not in self.accesses:
            raise Wrong(403, "forbidden", f"The service token does not have the access {access}")

    def answer(self, method: str, path: str, query: dict[str, str], body: object, url: str) -> Answer:
        """Return what a request is answered."""
        for verb, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and verb == method:
                with self.provider.lock:
                    return function(Call(self, query, body, url), *found.groups())
        raise Wrong(404, "not_found", "Not Found")


class Call:
    """One request, as the functions below see it."""

    def __init__(self, api: Api, query: dict[str, str], body: object, url: str) -> None:
        self.api, self.provider, self.url = api, api.provider, url
        self._query, self._body = query, body

    def query(self, model: type[Any]) -> Any:
        """Return what stands behind the question mark."""
        return _checked(model, self._query)

    def body(self, model: type[Any]) -> Any:
        """Return the body; nothing may stand behind the question mark."""
        _checked(shapes.Nothing, self._query)
        return _checked(model, self._body if self._body is not None else {})

    def bare(self) -> None:
        """See that there is neither."""
        self.query(shapes.Nothing)
        if self._body not in (None, {}):
            raise Wrong(422, "invalid_params", "no body is allowed")

    def page(self, query: Any, items: list[dict[str, Any]]) -> Answer:
        """Return a page of a list."""
        return 200, shapes.page(query, items, self.url, self.api.per_page)


def _checked(model: type[Any], given: object) -> Any:
    try:
        return model.model_validate_json(json.dumps(given))
    except ValidationError as exc:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}" for one in exc.errors())
        raise Wrong(422, "invalid_params", told) from exc


def show_database(call: Call, database: str) -> Answer:
    call.bare()
    branches = call.provider.database(database)
    kind = call.provider.kinds[database]
    facts = {"id": "db1", "name": database, "kind": kind, "state": "ready", "branches_count": len(branches)}
    return 200, shapes.unknown(facts)


def list_branches(call: Call, database: str) -> Answer:
    query = call.query(shapes.BranchesQuery)
    return call.page(query, [providers.branch_facts(one) for one in call.provider.database(database)])


def create_branch(call: Call, database: str) -> Answer:
    call.api.may("create_branch")
    body = call.body(shapes.BranchBody)
    if body.restore_point or body.backup_id:
        call.api.may("restore_production_branch_backup")
    return 201, providers.branch_facts(call.provider.create_branch(database, body))


def show_branch(call: Call, database: str, branch: str) -> Answer:
    call.api.may("read_branch")
    call.bare()
    return 200, providers.branch_facts(call.provider.branch(database, branch))


def change_branch(call: Call, database: str, branch: str) -> Answer:
    found, wanted = call.provider.branch(database, branch), call.body(shapes.BranchPatch)
    if wanted.new_name and any(one.name == wanted.new_name for one in call.provider.database(database)):
        raise Wrong(422, "unprocessable", "Name has already been taken")
    found.name = wanted.new_name or found.name
    if wanted.deletion_protected is not None:
        found.protected = wanted.deletion_protected
    return 200, providers.branch_facts(found)


def delete_branch(call: Call, database: str, branch: str) -> Answer:
    call.api.may("delete_branch")
    descendants = call.query(shapes.BranchDeletion).delete_descendants == "true"
    call.provider.delete_branch(database, call.provider.branch(database, branch), descendants=descendants)
    return 204, None


def read_schema(call: Call, database: str, branch: str) -> Answer:
    within, _, schema = call.query(shapes.SchemaQuery).namespace.partition(".")
    found = call.provider.branch(database, branch).cluster.schema(within, schema)
    return 200, {"data": [{"name": name, "raw": raw, "html": f"<pre>{raw}</pre>"} for name, raw in found]}


def list_backups(call: Call, database: str, branch: str) -> Answer:
    query, found = call.query(shapes.BackupsQuery), call.provider.branch(database, branch)
    backups = [one for one in found.backups if query.state in (None, one.state)]
    return call.page(query, [providers.backup_facts(found, one) for one in backups])


def create_backup(call: Call, database: str, branch: str) -> Answer:
    call.api.may("write_backups")
    found = call.provider.branch(database, branch)
    made = call.provider.create_backup(found, call.body(shapes.BackupBody))
    return 201, providers.backup_facts(found, made)


def show_backup(call: Call, database: str, branch: str, backup: str) -> Answer:
    call.bare()
    found = call.provider.branch(database, branch)
    return 200, providers.backup_facts(found, call.provider.backup(found, backup))


def delete_backup(call: Call, database: str, branch: str, backup: str) -> Answer:
    call.api.may("delete_backups")
    call.bare()
    found = call.provider.branch(database, branch)
    found.backups.remove(call.provider.backup(found, backup))
    return 204, None


def list_roles(call: Call, database: str, branch: str) -> Answer:
    query, found = call.query(shapes.Paged), call.provider.branch(database, branch)
    return call.page(query, [providers.role_facts(found, one) for one in found.roles])


def create_role(call: Call, database: str, branch: str) -> Answer:
    found = call.provider.branch(database, branch)
    call.api.may("create_production_branch_password" if found.production else "create_branch_password")
    made = call.provider.create_role(found, call.body(shapes.RoleBody))
    return 200, providers.role_facts(found, made, with_password=True)


def show_role(call: Call, database: str, branch: str, role: str) -> Answer:
    call.bare()
    found = call.provider.branch(database, branch)
    return 200, providers.role_facts(found, call.provider.role(found, role))


def renew_role(call: Call, database: str, branch: str, role: str) -> Answer:
    call.bare()
    found = call.provider.branch(database, branch)
    call.provider.renew_role(found, call.provider.role(found, role))
    return 200, providers.role_facts(found, call.provider.role(found, role))


def reset_role(call: Call, database: str, branch: str, role: str) -> Answer:
    call.bare()
    found = call.provider.branch(database, branch)
    call.provider.reset_role(found, call.provider.role(found, role))
    return 200, providers.role_facts(found, call.provider.role(found, role), with_password=True)


def delete_role(call: Call, database: str, branch: str, role: str) -> Answer:
    """The documentation has the successor in the query, PlanetScale's client in the body."""
    call.api.may("delete_branch_password")
    in_query, in_body = call.query(shapes.Successor), _checked(shapes.Successor, call._body or {})
    if in_query.successor and in_body.successor and in_query.successor != in_body.successor:
        raise Wrong(422, "invalid_params", "two successors")
    found = call.provider.branch(database, branch)
    successor = in_query.successor or in_body.successor
    call.provider.delete_role(found, call.provider.role(found, role), successor)
    return 204, None


_P = f"/v1/organizations/{ORGANIZATION}/databases/([^/]+)"
_B = f"{_P}/branches/([^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", _P, show_database),
    ("GET", f"{_P}/branches", list_branches),
    ("POST", f"{_P}/branches", create_branch),
    ("GET", _B, show_branch),
    ("PATCH", _B, change_branch),
    ("DELETE", _B, delete_branch),
    ("GET", f"{_B}/schema", read_schema),
    ("GET", f"{_B}/backups", list_backups),
    ("POST", f"{_B}/backups", create_backup),
    ("GET", f"{_B}/backups/([^/]+)", show_backup),
    ("DELETE", f"{_B}/backups/([^/]+)", delete_backup),
    ("GET", f"{_B}/roles", list_roles),
    ("POST", f"{_B}/roles", create_role),
    ("GET", f"{_B}/roles/([^/]+)", show_role),
    ("POST", f"{_B}/roles/([^/]+)/renew", renew_role),
    ("POST", f"{_B}/roles/([^/]+)/reset", reset_role),
    ("DELETE", f"{_B}/roles/([^/]+)", delete_role),
]


class Handler(tornado.web.RequestHandler):
    """Any request."""

    SUPPORTED_METHODS = ("GET", "POST", "PATCH", "DELETE")

    def initialize(self, api: Api) -> None:
        self.api = api

    async def get(self) -> None:
        await self._served()

    post = patch = delete = get

    async def _served(self) -> None:
        request = self.request
        path, loop = request.path, asyncio.get_running_loop()
        if path == "/control":
            done = await loop.run_in_executor(None, self.api.control, json.loads(request.body))
            self.finish(json.dumps(done))
            return
        self.api.asked.append(f"{request.method} {request.uri} {request.body.decode()}".strip())
        fault = self.api.fault(str(request.method), path)
        try:
            self.api.admit(request.headers.get("Authorization", ""))
            if fault is None or fault.get("done"):
                query = {name: self.get_query_argument(name) for name in request.query_arguments}
                body = self._body()
                ask = (str(request.method), path, query, body, f"http://{request.host}{path}")
                status, facts = await loop.run_in_executor(None, lambda: self.api.answer(*ask))
            if fault is not None:
                await self._fail(fault)
                return
        except Wrong as exc:
            status, facts = exc.status, {"code": exc.code, "message": str(exc)}
            if status == 429:
                self.set_header("Retry-After", "1")
        self.set_status(status)
        if facts is not None:
            self.set_header("Content-Type", "application/json; charset=utf-8")
            self.write(json.dumps(facts))

    async def _fail(self, fault: dict[str, Any]) -> None:
        await asyncio.sleep(fault.get("hang_s", 0))
        if fault.get("cut"):
            self._finished = True
            self.request.connection.stream.close()  # type: ignore[union-attr]
            return
        self.set_status(fault.get("status", 200))
        for name, value in fault.get("headers", {}).items():
            self.set_header(name, value)
        self.set_header("Content-Type", fault.get("type", "application/json"))
        self.write(fault.get("body", ""))

    def _body(self) -> object:
        if not self.request.body:
            return None
        if self.request.method == "GET" or "json" not in self.request.headers.get("Content-Type", ""):
            raise Wrong(422, "invalid_params", "the body is not JSON, or not allowed")
        return json.loads(self.request.body)

    def log_request(self, *_: object) -> None:
        """Nothing is written to the terminal."""


def application(api: Api) -> tornado.web.Application:
    """Return the server's application."""
    return tornado.web.Application([(r"/.*", Handler, {"api": api})], log_function=lambda _: None)

"""What the API administers: one organization's databases, their branches, backups and roles."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from planetscale_api import shapes
from planetscale_api.cluster import OWNER, Cluster

ORGANIZATION = "acme"


class Wrong(Exception):
    """An error that the API answers with."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Backup:
    name: str
    id: str
    created_at: datetime
    expires_at: datetime
    state: str = "pending"
    size: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    restored: list[str] = field(default_factory=list)


@dataclass
class Role:
    name: str
    id: str
    username: str
    ttl: int
    inherits: list[str]
    created_at: datetime
    expires_at: datetime | None
    password: str


@dataclass
class Branch:
    name: str
    id: str
    cluster: Cluster
    created_at: datetime
    parent: Branch | None = None
    production: bool = False
    protected: bool = False
    state: str = "pending"
    failed: str = ""
    backups: list[Backup] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)


class Provider:
    """All of it, for one process; each call holds the lock, and what takes long goes on in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.databases: dict[str, list[Branch]] = {}
        self.kinds: dict[str, str] = {}
        self.lock = threading.RLock()
        self.delay_s = 0.2  # until a branch is ready
        self.unready_s = 0.0  # for how long a branch that is said to be ready lets nobody in
        self.archive_lag_s = 300.0
        self._numbers = 0

    def add_database(self, name: str, kind: str = "postgresql") -> None:
        """Make a database with its production branch, and the backup with which it begins."""
        self.kinds[name] = kind
        main = self._branch("main", None, production=True)
        self.databases[name] = [main]
        main.cluster.make()
        main.state = "ready"
        self._back_up(main, self._backup(main, "scheduled", timedelta(days=2)))

    def end(self) -> None:
        """Stop and remove every server."""
        with self.lock:
            for branches in self.databases.values():
                for branch in branches:
                    branch.cluster.destroy()

    def database(self, name: str) -> list[Branch]:
        """Return the branches of a database."""
        if name not in self.databases:
            raise Wrong(404, "not_found", "Not Found")
        return self.databases[name]

    def branch(self, database: str, name: str) -> Branch:
        """Return a branch."""
        for branch in self.database(database):
            if branch.name == name:
                return branch
        raise Wrong(404, "not_found", "Not Found")

    def create_branch(self, database: str, body: shapes.BranchBody) -> Branch:
        """Begin to make a branch."""
        branches = self.database(database)
        if any(one.name == body.name for one in branches):
            raise Wrong(422, "unprocessable", "Name has already been taken")
        if body.seed_data:
            raise Wrong(422, "unprocessable", "seed_data is not available for PostgreSQL databases")
        if body.backup_id and body.restore_point:
            raise Wrong(422, "invalid_params", "backup_id and restore_point exclude each other")
        if body.backup_id and body.parent_branch:  # as PlanetScale's own client has it
            raise Wrong(422, "invalid_params", "backup_id and parent_branch exclude each other")
        if body.backup_id and not body.cluster_size:
            raise Wrong(422, "invalid_params", "cluster_size is required with backup_id")
        parent = self.branch(database, body.parent_branch or "main")
        backup = self._chosen(database, parent, body)
        made = self._branch(body.name, parent)
        made.protected = body.deletion_protected
        branches.append(made)
        threading.Thread(target=self._make, args=(made, backup, body.restore_point), daemon=True).start()
        return made

    def delete_branch(self, database: str, branch: Branch, *, descendants: bool) -> None:
        """Remove a branch."""
        if branch.production or branch.protected:
            raise Wrong(422, "unprocessable", f"Branch {branch.name} is protected from deletion")
        below = [one for one in self.database(database) if one.parent is branch]
        if below and not descendants:
            raise Wrong(422, "unprocessable", f"Branch {branch.name} has descendants")
        for one in below:
            self.delete_branch(database, one, descendants=True)
        self.database(database).remove(branch)
        branch.cluster.destroy()

    def create_backup(self, branch: Branch, body: shapes.BackupBody) -> Backup:
        """Begin a backup."""
        self._ready(branch)
        hours = {"hour": 1, "day": 24, "week": 168, "month": 720, "year": 8760}[body.retention_unit]
        made = self._backup(branch, body.name or "manual", timedelta(hours=hours * body.retention_value))
        threading.Thread(target=self._back_up, args=(branch, made), daemon=True).start()
        return made

    def backup(self, branch: Branch, backup_id: str) -> Backup:
        """Return a backup."""
        for backup in branch.backups:
            if backup.id == backup_id:
                return backup
        raise Wrong(404, "not_found", "Not Found")

    def create_role(self, branch: Branch, body: shapes.RoleBody) -> Role:
        """Make a role."""
        self._ready(branch)
        now = datetime.now(UTC)
        until = now + timedelta(seconds=body.ttl) if body.ttl else None
        name = f"pscale_api_{secrets.token_hex(6)}.{branch.id}"
        role = Role(body.name, _id(), name, body.ttl, list(body.inherited_roles), now, until, _password())
        try:
            branch.cluster.create_role(name, role.password, until, role.inherits)
        except psycopg.Error as exc:
            raise Wrong(422, "unprocessable", str(exc).strip()) from exc
        branch.roles.append(role)
        return role

    def role(self, branch: Branch, role_id: str) -> Role:
        """Return a role."""
        for role in branch.roles:
            if role.id == role_id:
                return role
        raise Wrong(404, "not_found", "Not Found")

    def renew_role(self, branch: Branch, role: Role) -> None:
        """Let a role live as long again."""
        if role.ttl:
            role.expires_at = datetime.now(UTC) + timedelta(seconds=role.ttl)
            branch.cluster.change_role(role.username, until=role.expires_at)

    def reset_role(self, branch: Branch, role: Role) -> None:
        """Give a role another password."""
        role.password = _password()
        branch.cluster.change_role(role.username, password=role.password)

    def delete_role(self, branch: Branch, role: Role, successor: str | None) -> None:
        """Drop a role."""
        try:
            branch.cluster.drop_role(role.username, successor)
        except psycopg.Error as exc:
            raise Wrong(422, "unprocessable", str(exc).strip()) from exc
        branch.roles.remove(role)

    def _chosen(self, database: str, parent: Branch, body: shapes.BranchBody) -> tuple[Branch, Backup] | None:
        """Return the backup from which a branch is made, and whose it is."""
        if body.backup_id:
            for branch in self.database(database):
                for backup in branch.backups:
                    if backup.id == body.backup_id and backup.state == "success":
                        return branch, backup
            raise Wrong(404, "not_found", "Backup not found")
        if body.restore_point is None:
            return None
        latest = datetime.now(UTC) - timedelta(seconds=self.archive_lag_s)
        ended = [one for one in parent.backups if one.completed_at and one.completed_at <= body.restore_point]
        if body.restore_point > latest or not ended:
            raise Wrong(422, "unprocessable", "Restore point is not within the available range")
        return parent, max(ended, key=lambda one: one.completed_at or one.created_at)

    def _make(self, made: Branch, chosen: tuple[Branch, Backup] | None, at: datetime | None) -> None:
        try:
            time.sleep(self.delay_s)
            if chosen is None:
                made.cluster.make()
            else:
                made.cluster.restore(chosen[0].cluster, chosen[1].id, at)
                chosen[1].restored.append(made.name)
            if self.unready_s:
                made.cluster.stop()
                made.cluster.start(listens=False)
                threading.Thread(target=self._open, args=(made, self.unready_s), daemon=True).start()
            made.state = "ready"
        except Exception as exc:  # it is pending for ever, then
            made.failed = str(exc)

    def _open(self, made: Branch, after_s: float) -> None:
        time.sleep(after_s)
        with self.lock:
            if made.cluster.dir.is_dir():
                made.cluster.stop()
                made.cluster.start()

    def _back_up(self, branch: Branch, made: Backup) -> None:
        made.state, made.started_at = "running", datetime.now(UTC)
        made.size = branch.cluster.back_up(made.id)
        made.completed_at, made.state = datetime.now(UTC), "success"

    def _backup(self, branch: Branch, name: str, kept: timedelta) -> Backup:
        now = datetime.now(UTC)
        made = Backup(name, _id(), now, now + kept)
        branch.backups.append(made)
        return made

    def _branch(self, name: str, parent: Branch | None, *, production: bool = False) -> Branch:
        self._numbers += 1
        return Branch(name, _id(), Cluster(self.root, self._numbers), datetime.now(UTC), parent, production)

    def _ready(self, branch: Branch) -> None:
        if branch.state != "ready":
            raise Wrong(422, "unprocessable", f"Branch {branch.name} is not ready")


def branch_facts(branch: Branch) -> dict[str, Any]:
    """Return a branch as the API answers it."""
    ready = branch.state == "ready"
    return shapes.unknown({
        "id": branch.id,
        "name": branch.name,
        "created_at": shapes.moment(branch.created_at),
        "updated_at": shapes.moment(branch.created_at),
        "deleted_at": None,
        "restore_checklist_completed_at": None,
        "schema_last_updated_at": shapes.moment(branch.created_at),
        "kind": "postgresql",
        "state": branch.state,
        "ready": ready,
        "schema_ready": ready,
        "production": branch.production,
        "safe_migrations": False,
        "deletion_protected": branch.protected,
        "cluster_name": "PS_10",
        "parent_branch": branch.parent.name if branch.parent else None,
        "restored_from_branch": None,
        "actor": {"id": "actor1", "display_name": "Operator", "avatar_url": "", "type": "ServiceToken"},
        "region": {"slug": "us-east", "display_name": "US East", "provider": "AWS", "enabled": True},
        "html_url": f"https://app.planetscale.com/acme/shop/{branch.name}",
        "url": f"https://api.planetscale.com/v1/organizations/acme/databases/shop/branches/{branch.name}",
        "has_replicas": False,
        "mysql_address": None,
        "vtgate_size": None,
    })  # fmt: skip


def backup_facts(branch: Branch, backup: Backup) -> dict[str, Any]:
    """Return a backup as the API answers it."""
    return shapes.unknown({
        "id": backup.id,
        "name": backup.name,
        "state": backup.state,
        "size": backup.size,
        "created_at": shapes.moment(backup.created_at),
        "started_at": shapes.moment(backup.started_at),
        "completed_at": shapes.moment(backup.completed_at),
        "expires_at": shapes.moment(backup.expires_at),
        "protected": False,
        "required": False,
        "restored_branches": [{"name": name} for name in backup.restored],
        "backup_policy": None,
        "database_branch": {"id": branch.id, "name": branch.name},
    })  # fmt: skip


def role_facts(branch: Branch, role: Role, *, with_password: bool = False) -> dict[str, Any]:
    """Return a role as the API answers it."""
    return shapes.unknown({
        "id": role.id,
        "name": role.name,
        "access_host_url": branch.cluster.host,
        "private_access_host_url": None,
        "username": role.username,
        "base_username": role.username.partition(".")[0],
        "password": role.password if with_password else None,
        "database_name": "postgres",
        "ready": True,
        "created_at": shapes.moment(role.created_at),
        "expires_at": shapes.moment(role.expires_at),
        "ttl": role.ttl,
        "default": False,
        "inherited_roles": role.inherits,
        "successor_role": OWNER,
    })  # fmt: skip


def _id() -> str:
    return secrets.token_hex(6)


def _password() -> str:
    return f"pscale_pw_{secrets.token_urlsafe(24)}"

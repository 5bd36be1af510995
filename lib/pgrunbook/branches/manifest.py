"""The manifest of a base backup: every file of the server, with its size and its checksum, but for WAL.

Source: https://www.postgresql.org/docs/current/backup-manifest-format.html
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

FILE = "backup_manifest"
LAST_LINE = b'"Manifest-Checksum"'


class DamagedManifest(Exception):
    """The manifest is gone, or not as it was written."""


@dataclass(frozen=True)
class ManifestFile:
    """One file; ``crc32c`` is None where the manifest has no such checksum of it."""

    bytes: int
    crc32c: int | None


@dataclass(frozen=True)
class WalRange:
    """The WAL that a backup needs, on one timeline."""

    timeline: int
    start_lsn: str
    end_lsn: str


@dataclass(frozen=True)
class Manifest:
    """The files by their paths, and the ranges of WAL, the oldest first."""

    files: dict[str, ManifestFile]
    wal: tuple[WalRange, ...]


def read(folder: Path) -> Manifest:
    """Return the manifest of a base backup. Raises DamagedManifest."""
    try:
        text = (folder / FILE).read_bytes()
        told = json.loads(text)
        kept, _, _ = text.rpartition(LAST_LINE)
        if hashlib.sha256(kept).hexdigest() != told["Manifest-Checksum"]:
            raise DamagedManifest("its checksum is not the one at its end")
        files = {_path(one): ManifestFile(one["Size"], _crc32c(one)) for one in told["Files"]}
        wal = tuple(WalRange(one["Timeline"], one["Start-LSN"], one["End-LSN"]) for one in told["WAL-Ranges"])
    except OSError as exc:
        raise DamagedManifest(f"could not open file: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise DamagedManifest(f"the manifest cannot be read: {exc}") from exc
    return Manifest(files, wal)


def _path(entry: dict[str, str]) -> str:
    if "Path" in entry:
        return entry["Path"]
    return bytes.fromhex(entry["Encoded-Path"]).decode("utf-8", "surrogateescape")


def _crc32c(entry: dict[str, str]) -> int | None:
    if entry.get("Checksum-Algorithm") != "CRC32C":
        return None
    return int.from_bytes(bytes.fromhex(entry["Checksum"]), sys.byteorder)

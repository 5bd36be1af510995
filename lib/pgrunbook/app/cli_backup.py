"""The commands ``pgrunbook backup``: base backups taken, listed, verified and removed, and WAL received."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.app import terminal
from pgrunbook.errors import Refused

if TYPE_CHECKING:
    from pgrunbook.branches.backup_report import BackupReport
    from pgrunbook.branches.server import Server
    from pgrunbook.config.targets import Target

app = typer.Typer(no_args_is_help=True, help="Base backups: what a restore begins with.")

DAMAGED = 3
TargetName = Annotated[str, typer.Option("--target", help="The target, as targets.toml declares it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    target: TargetName = "",
    of_changes: Annotated[
        bool, typer.Option("--incremental", help="Only what changed since the last full one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a base backup of the target's server, and verify it; the WAL archived before is compressed."""
    from pgrunbook.branches import archive_compression, backup, backup_report, incremental

    if there := _at_planetscale(target, "create"):
        if of_changes:
            _planetscale().refuse(there, "create --incremental")
        made = _planetscale().create(there)
        if as_json:
            _write(_planetscale().report(there), as_json=True)
        else:
            sys.stdout.write(f"{made.id}: {made.bytes / 1024 / 1024:,.0f} MB, at PlanetScale\n")
        return
    chosen, server = _chosen(target, "create")
    of = None if chosen.server else chosen
    taken = incremental.take(server, of=of) if of_changes else backup.take_base_backup(server, of=of)
    archive_compression.compress(server)
    if as_json:
        _write(backup_report.report(target, server), as_json=True)
    else:
        size, stored = (f"{octets / 1024 / 1024:,.0f} MB" for octets in (taken.bytes, taken.stored_bytes))
        sys.stdout.write(f"{taken.id}: {size}, on disk {stored}, up to LSN {taken.stop_lsn}\n")


@app.command("list")
def list_(target: TargetName = "", as_json: AsJson = False) -> None:
    """List the base backups, and the ranges of time that can be restored."""
    from pgrunbook.branches import backup_report

    if there := _at_planetscale(target, "list"):
        _write(_planetscale().report(there), as_json=as_json)
        return
    _write(backup_report.report(target, _chosen(target, "list")[1]), as_json=as_json)


@app.command()
def verify(target: TargetName = "", as_json: AsJson = False) -> None:
    """Read every base backup and the archived WAL, and name what is damaged or missing.

    Exit codes: 0 all is whole, 1 it could not be read, 2 wrong use, 3 something is damaged or missing.
    """
    from pgrunbook.branches import backup_report

    if there := _at_planetscale(target, "verify"):
        _planetscale().refuse(there, "verify")
    _, server = _chosen(target, "verify")
    found = backup_report.verified(backup_report.report(target, server), server)
    _write(found, as_json=as_json)
    if found.damage:
        sys.exit(DAMAGED)


@app.command()
def expire(target: TargetName = "", as_json: AsJson = False) -> None:
    """Remove base backups beyond the target's keep_backups, and the WAL before those that stay.

    What a restore point needs that is younger than keep_days stays.
    """
    from pgrunbook.branches import backup_report, retention, wal_segments
    from pgrunbook.config import targets

    if there := _at_planetscale(target, "expire"):
        found = _planetscale().expire(there)
        _write(found, as_json=as_json)
        if not as_json:
            sys.stdout.write(f"removed: {len(found.removed_backups)} base backups\n")
        return
    chosen, server = _chosen(target, "expire")
    on_it = [one for one in targets.load_all().values() if one.server == server.name] or [chosen]
    gone = retention.expire(server, on_it)
    removed = {
        "removed_backups": tuple(one.id for one in gone.backups),
        "removed_segments": sum(wal_segments.NAME.fullmatch(name) is not None for name in gone.segments),
    }
    _write(backup_report.report(target, server).model_copy(update=removed), as_json=as_json)
    if not as_json:
        sys.stdout.write(f"removed: {len(gone.backups)} base backups, {removed['removed_segments']} WAL segments\n")
        for one, point in gone.needed:
            sys.stdout.write(
                f"{one.id} stays for restore point {point.name} of {point.created_at:%Y-%m-%dT%H:%M:%SZ}\n"
            )


@app.command()
def receive(
    target: TargetName = "",
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop the slot instead: its server keeps no WAL for us.")
    ] = False,
) -> None:
    """Receive the WAL of a target that is not on a server of ours, until it is stopped (for a systemd service).

    A replication slot keeps what is not received yet, up to the server's max_slot_wal_keep_size.
    """
    from pgrunbook.branches import received

    chosen = terminal.chosen(target, "backup receive")
    if chosen.planetscale is not None:
        _planetscale().refuse(chosen, "receive")
    if chosen.server is not None:
        raise Refused(
            f'target "{target}" needs nobody to receive its WAL',
            detail=f'Server "{chosen.server}" archives it by itself.',
            hint=f"pgrunbook backup list --target {target} shows what can be restored.",
        )
    if not drop:
        received.receive(chosen)
    elif received.stop_for_good(chosen):
        sys.stdout.write(f"dropped replication slot {received.slot(chosen)}\n")
    else:
        sys.stdout.write(f"there is no replication slot {received.slot(chosen)}\n")


def _at_planetscale(target: str, command: str) -> Target | None:
    """Return the target where it is at PlanetScale, None for another one."""
    chosen = terminal.chosen(target, f"backup {command}")
    return chosen if chosen.planetscale is not None else None


def _planetscale() -> ModuleType:
    """Return what makes backups at PlanetScale."""
    from pgrunbook.branches.planetscale import backups

    return backups


def _chosen(target: str, command: str) -> tuple[Target, Server]:
    from pgrunbook.branches import received

    chosen = terminal.chosen(target, f"backup {command}")
    return chosen, received.home(chosen)


def _write(found: BackupReport, *, as_json: bool) -> None:
    from pgrunbook.branches import wal_segments
    from pgrunbook.display.show import Table

    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
        return
    rows = [
        (
            one.id,
            f"{one.ended_at:%Y-%m-%d %H:%M:%SZ}",
            f"{one.bytes / 1024 / 1024:,.0f} MB",
            f"{one.stored_bytes / 1024 / 1024:,.0f} MB",
            one.stop_lsn,
            one.server_version,
            f"incremental, on {one.onto}" if one.onto else "full",
        )
        for one in found.backups
    ]
    headings = ["base backup", "ended", "size", "on disk", "up to LSN", "PostgreSQL", "kind"]
    sys.stdout.write(f"{Table(headings, rows, empty='No base backup.')!r}\n")
    for one in found.windows:
        form = "%Y-%m-%dT%H:%M:%SZ"
        lsns = f", LSN {one.earliest_lsn} to {one.latest_lsn}" if one.latest_lsn else ""
        sys.stdout.write(f"can be restored: {one.earliest_at:{form}} to {one.latest_at:{form}}{lsns}\n")
        if one.missing:
            sys.stdout.write(f"WAL is missing: {wal_segments.listed(one.missing)}\n")
    if found.damage is not None:
        sys.stdout.write("".join(f"{line}\n" for line in found.damage) or "all of it is whole\n")

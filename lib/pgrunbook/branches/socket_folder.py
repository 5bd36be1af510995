"""The folder of a server's unix socket, which nobody else may have made."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pgrunbook.branches.binaries import state_folder
from pgrunbook.errors import Refused


def make(folder: Path, owner: int) -> None:
    """Make the folder for the server's account, a user id. Raises Refused where others could listen there."""
    if folder.parent.name == "sockets":
        state_folder("sockets")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1, follow_symlinks=False)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != owner or facts.st_mode & 0o077:
        raise Refused(
            f"refused to put the server's socket into {folder}",
            detail=f"It is not a directory of user id {owner} with mode 0700: others could listen there.",
            hint="See whose it is, remove it, then start the server again.",
        )

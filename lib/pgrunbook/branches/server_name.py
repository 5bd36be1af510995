"""Names of embedded servers: what can be one, whose it is, and which there are."""

from __future__ import annotations

import re

from pgrunbook.branches import half_restored
from pgrunbook.config import paths
from pgrunbook.errors import WrongInput

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
OF_BRANCHES = re.compile(r"branch-[0-9]+-[0-9a-f]{6}")


def checked(name: str) -> str:
    """Return the name unchanged. Raises WrongInput for one not made of lower-case letters, digits, - and _."""
    if not NAME.fullmatch(name):
        raise WrongInput(
            f'"{name}" cannot be the name of a server',
            hint="Use 1 to 40 lower-case letters, digits, - and _, beginning with a letter or a digit.",
        )
    return name


def refuse_branch_name(name: str) -> None:
    """Raise WrongInput for a name of our branches: the next rehearsal would remove a server that has it."""
    if OF_BRANCHES.fullmatch(name):
        raise WrongInput(
            f'"{name}" cannot be the name of a server that stays',
            detail="Names like branch-1-0a1b2c are those of branches, which prepare removes.",
            hint="Choose another name, as restored-1.",
        )


def server_names() -> list[str]:
    """Return the names of the existing embedded servers, sorted; of half restored and half removed ones, too."""
    folder = paths.state_dir() / "servers"
    found = {path.parent.name for kind in ("data", half_restored.MARK) for path in folder.glob(f"*/{kind}")}
    return sorted(name for name in found | {path.stem for path in folder.glob("*.gone")} if NAME.fullmatch(name))

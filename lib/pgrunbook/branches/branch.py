"""A branch that somebody asked for: whose it is, what for, how old, how large, and until when it is kept."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pgrunbook.branches.server_name import OF_BRANCHES
from pgrunbook.config.targets import OF_BRANCH
from pgrunbook.errors import WrongInput

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
ProviderName = Literal["cluster", "connection", "planetscale"]


class BranchState(StrEnum):
    """How a branch stands."""

    READY = "ready"
    STOPPED = "stopped"  # it is started when somebody connects
    BEING_MADE = "being made"
    HALF_MADE = "half made"  # whoever made it was killed: ``pgrunbook branch clean`` removes it
    GONE = "gone"  # its server was removed otherwise


class Branch(BaseModel):
    """A branch of a target. ``full_name`` is its name as a target.

    ``of`` is the moment that it was made of: "now", or a point in time as somebody wrote it. ``parent`` is the branch
    of the same target that it was made from, "" for the target itself. ``server`` is the embedded server that it is on,
    ``spare_server`` is one that is to go when it is made anew: the new one until that is done, then the old one.
    ``provider_id`` is what its provider knows it by; ``role`` is who its sessions log in as. ``masked`` are the columns
    whose values it does not have; ``has_data``, ``rows`` and ``is_durable`` are what was asked for. ``is_of_ours`` is
    true for one that a rehearsal has made, and removes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    name: str
    provider: ProviderName
    state: BranchState = BranchState.BEING_MADE
    owner: str
    purpose: str = ""
    made_at: datetime
    expires_at: datetime | None = None
    of: str = "now"
    parent: str = ""
    database: str = ""
    role: str = ""
    superuser: str = ""
    size_bytes: int | None = None
    masked: tuple[str, ...] = ()
    server: str | None = None
    spare_server: str | None = None
    provider_id: str | None = None
    has_data: bool = True
    rows: int | None = None
    is_durable: bool = False
    is_of_ours: bool = False

    @property
    def full_name(self) -> str:
        """Its name where a target's is asked for."""
        return f"{self.target}{OF_BRANCH}{self.name}"

    def is_expired(self, now: datetime) -> bool:
        """Tell whether it is kept for nobody any more."""
        return self.expires_at is not None and self.expires_at <= now


def checked(name: str) -> str:
    """Return the name of a branch unchanged. Raises WrongInput for one that is none, or looks like one of ours."""
    if OF_BRANCHES.fullmatch(name):
        raise WrongInput(
            f'"{name}" cannot be the name of a branch',
            detail="Names like branch-1-0a1b2c are those of rehearsals, which remove such branches.",
            hint="Choose another name, as dev-migration.",
        )
    if not NAME.fullmatch(name):
        raise WrongInput(
            f'"{name}" cannot be the name of a branch',
            hint="Use 1 to 40 lower-case letters, digits and -, beginning and ending with a letter or a digit.",
        )
    return name


class BranchReport(BaseModel):
    """What ``pgrunbook branch list --json`` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    branches: tuple[Branch, ...]

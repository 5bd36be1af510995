"""What makes branches: one protocol, which each provider keeps as far as it states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pgrunbook.branches.branch import Branch, ProviderName
from pgrunbook.branches.recovery_target import Point
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused


class Capability(StrEnum):
    """What a provider may be able to do, as a refusal names it."""

    NOW = "a branch of now with its data"
    RESTORE_POINT = "a branch at a restore point"
    LSN = "a branch at an LSN"
    TIME = "a branch at a time"
    MASKING = "masked columns"
    SAMPLE = "a sample of the rows"
    RESET = "making a branch anew"
    PROMOTE = "a branch that becomes a database of its own"
    BACKUP = "base backups"


@dataclass(frozen=True)
class Wanted:
    """What somebody asks of a new branch.

    ``at`` is None for now. ``has_data`` is False for the schema alone. ``rows`` is how many rows of each table are
    copied at most, beside those that they reference; None for all. ``is_durable`` makes it write to the disk for good.
    """

    name: str
    owner: str
    purpose: str = ""
    expires_at: datetime | None = None
    at: Point | None = None
    has_data: bool = True
    rows: int | None = None
    is_durable: bool = False


class Provider(Protocol):
    """A maker of branches. Where one fails, nothing of it is left, and the target is as it was."""

    name: ProviderName
    can: frozenset[Capability]
    instead: Mapping[Capability, str]  # what is to be done where it cannot

    def create(self, target: Target, wanted: Wanted, /) -> Branch:
        """Make a branch, and return it when it lets sessions in. Raises Refused where the name is taken."""

    def branches(self, target: Target, /) -> Sequence[Branch]:
        """Return the branches of a target as they are now, oldest first; those that somebody is making, too."""

    def target(self, target: Target, branch: Branch, /) -> Target:
        """Return a branch as a target; one that is stopped is started. ``target`` is what it is a branch of."""

    def delete(self, target: Target, branch: Branch, /) -> None:
        """Remove a branch with all that belongs to it; one that is gone is no error."""

    def reset(self, target: Target, branch: Branch, /) -> Branch:
        """Make a branch anew, of the same moment, and return it; until that is done the old one stays."""

    def promote(self, target: Target, branch: Branch, /) -> str:
        """Make a branch a database of its own; return, as a sentence, where it is and how programs are led there."""


def need(provider: Provider, target: Target, *capabilities: Capability) -> None:
    """Raise Refused, before anything starts, where a provider lacks what is asked of it."""
    lacking = [one for one in capabilities if one not in provider.can]
    if lacking:
        raise Refused(
            f'target "{target.name}" cannot have {" and ".join(lacking)}',
            detail=f"Its branches are made by the provider {provider.name}, which can do: "
            f"{', '.join(sorted(provider.can))}.",
            state="Nothing was started.",
            hint=" ".join(filter(None, (provider.instead.get(one, "") for one in lacking)))
            or "Ask for what it can do; docs/branches.md has the table of providers.",
        )


def of_point(at: Point | None) -> Capability:
    """Return what a provider must be able to do for a branch at a point."""
    if at is None:
        return Capability.NOW
    return Capability.TIME if at.time else Capability.LSN if at.lsn else Capability.RESTORE_POINT

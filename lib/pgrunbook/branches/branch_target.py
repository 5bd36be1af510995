"""A database on an embedded server, as a session of one of its roles reaches it."""

from __future__ import annotations

from pgrunbook.config.targets import Target
from pgrunbook.database.address import AS_SUPERUSER

POSTGRES = "postgres"
# What every cluster has, and can also be a target.
OF_EVERY_CLUSTER = (POSTGRES, "template1")


class BranchTarget(Target):
    """A database on a branch's server.

    Sessions log in as ``role``, with ``options`` of the target's address; ``superuser`` measures, and sees every row.
    """

    role: str = POSTGRES
    superuser: str = POSTGRES
    options: str = ""

    def conninfo(self) -> dict[str, str]:
        """Return libpq's keywords for it."""
        return {**super().conninfo(), "user": self.role, "options": self.options}

    def as_superuser(self) -> BranchTarget:
        """Return the same database, reached by who sees every row and lock."""
        return self.model_copy(update={"role": self.superuser, "options": AS_SUPERUSER})


def branch_target(
    target: Target, name: str, server: str, database: str, *, role: str, superuser: str, options: str
) -> BranchTarget:
    """Return a database of a branch as a target, which is migrated as its source is."""
    own = {"name": name, "server": server, "database": database, "service": None, "url_from": None}
    own["planetscale"] = None
    spared = {"protected": False, "restore_points": False, "approval": False, "window": None}
    facts = {**target.model_dump(), **own, **spared, "role": role, "superuser": superuser, "options": options}
    return BranchTarget.model_validate(facts)

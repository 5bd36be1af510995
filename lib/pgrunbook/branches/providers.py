"""Which provider makes the branches of a target."""

from __future__ import annotations

from pgrunbook.branches import backup, branch_server, received, registry, server_branches
from pgrunbook.branches.branch import Branch
from pgrunbook.branches.planetscale.branches import PlanetscaleBranches
from pgrunbook.branches.provider import Provider
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_branches import ServerBranches
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput


def of_target(target: Target) -> Provider:
    """Return the provider of a target: ``cluster`` where its files or backups are ours, else by how it is reached."""
    if target.planetscale is not None:
        return PlanetscaleBranches()
    is_ours = target.server is not None or backup.list_base_backups(received.kept_of(target))
    return ServerBranches("cluster" if is_ours else "connection")


def of_branch(branch: Branch) -> Provider:
    """Return the provider that has made a branch."""
    return PlanetscaleBranches() if branch.provider == "planetscale" else ServerBranches(branch.provider)


def find(target: Target, name: str) -> Branch:
    """Return a branch of a target as it is now. Raises WrongInput where there is none of that name."""
    there = branches(target)
    found = next((one for one in there if one.name == name), None)
    if found is not None:
        return found
    known = [one.name for one in there]
    raise WrongInput(
        f'target "{target.name}" has no branch "{name}"',
        detail=f"Its branches are {', '.join(known)}." if known else "It has no branch.",
        hint=f"Make it: pgrunbook branch create --target {target.name} {name}; or correct the name.",
    )


def target_of(target: Target, name: str) -> Target:
    """Return a branch of a target as a target; one that is stopped is started.

    Raises WrongInput where there is none of that name, Unreachable where it does not start.
    """
    found = find(target, name)
    return of_branch(found).target(target, found)


def branches(target: Target) -> list[Branch]:
    """Return the branches of a target as they are now, oldest first, by whatever provider they were made."""
    makers = {one.provider: of_branch(one) for one in registry.branches(target.name)}
    if target.planetscale is not None:  # others make branches there, too
        makers["planetscale"] = PlanetscaleBranches()
    found = [one for maker in makers.values() for one in maker.branches(target)]
    return sorted(found, key=lambda one: one.made_at)


def with_rehearsals(target: Target) -> list[Branch]:
    """Return the branches of a target, and behind them those that rehearsals have made of it and of them."""
    found = branches(target)
    names = {target.name, *(one.full_name for one in found)}
    ours = [one for one in branch_server.of_rehearsals() if one.target in names]
    sized = [one.model_copy(update={"size_bytes": server_branches.size_bytes(Server(str(one.server)))}) for one in ours]
    return [*found, *sized]


def known_targets(name: str = "") -> list[Target]:
    """Return the target of that name; or all, also those that are declared no more and have branches yet."""
    if name:
        return [targets.load(name)]
    declared = targets.load_all()
    lost = {one.target: one.server for one in registry.branches() if one.target not in declared}
    # Where such a target is, nobody knows any more: only its branches are reached.
    return [*declared.values(), *(Target(name=one, server=server) for one, server in lost.items())]

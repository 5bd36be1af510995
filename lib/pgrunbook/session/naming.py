"""What a name of a target means: a section of targets.toml, or a branch of one, as ``demo@dev-migration``.

What makes branches is imported only where one is named: it costs every command that names none.
"""

from __future__ import annotations

from pgrunbook.config import targets
from pgrunbook.config.targets import OF_BRANCH, Target


def target(name: str) -> Target:
    """Return the target of that name; a branch that is stopped is started.

    Raises WrongInput when the target is not declared or has no such branch, Unreachable when that does not start.
    """
    of, _, branch = name.partition(OF_BRANCH)
    found = targets.load(of)
    if OF_BRANCH not in name:
        return found
    from pgrunbook.branches import providers

    return providers.target_of(found, branch)


def is_known(name: str) -> bool:
    """Tell whether a target of that name is declared, and has the branch. Raises WrongInput for a wrong file."""
    of, _, branch = name.partition(OF_BRANCH)
    found = targets.load_all().get(of)
    if found is None or OF_BRANCH not in name:
        return found is not None
    from pgrunbook.branches import providers

    return any(one.name == branch for one in providers.branches(found))

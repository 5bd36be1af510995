"""What a name of a target means: a section of targets.toml, or a branch of one, as ``demo@dev-migration``.

What makes branches is imported only where one is named: it costs every command that names none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgrunbook.config import targets
from pgrunbook.config.targets import OF_BRANCH, Target


def target(name: str) -> Target:
    """Return the target of that name; a branch that is stopped is started.

    Raises WrongInput when the target is not declared or has no such branch, Unreachable when that does not start.
    """
    of, _, branch = name.partition(OF_BRANCH)
    found = _with_login(targets.load(of))
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


def targets_of_file() -> list[Target]:
    """Return every declared target, in the order of their names. Raises WrongInput for a wrong file."""
    return [_with_login(one) for _, one in sorted(targets.load_all().items())]


@contextmanager
def login_of_run(name: str, run_id: str, note: Callable[..., object]) -> Iterator[None]:
    """Let a run on a target have one login at its provider, which is deleted when the body ends, whatever happens.

    ``note`` gets an event where it cannot be deleted.
    """
    of, _, branch = name.partition(OF_BRANCH)
    place = targets.load(of).planetscale
    if place is None:
        yield
        return
    from pgrunbook.branches.planetscale import login

    with login.of_run(run_id, note):
        login.hold_for_run(place.model_copy(update={"branch": branch}) if branch else place)
        yield


def _with_login(target: Target) -> Target:
    if target.planetscale is None:
        return target
    from pgrunbook.branches.planetscale import login

    return login.of_target(target)

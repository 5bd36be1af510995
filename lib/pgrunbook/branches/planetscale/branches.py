"""Branches at PlanetScale: each a server of its own there, which costs money as long as it is there.

1. A record says that the branch is being made.
2. A branch of now is restored from a backup that is taken for it, and deleted then; one at a time by PlanetScale
   itself. One without rows gets the target's schema from a dump, where PlanetScale has not copied it.
3. It is ready when PlanetScale says so, and it lets us in.
4. The record says that it is ready. Where anything before fails, branch and backup are deleted, and then the record.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pgrunbook.branches import registry
from pgrunbook.branches.branch import Branch, BranchState, ProviderName, checked
from pgrunbook.branches.planetscale import login, moments, schema_load
from pgrunbook.branches.planetscale.answers import PlanetscaleBranch
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.branches.planetscale.login import PlanetscaleTarget
from pgrunbook.branches.provider import Capability, Wanted, need, of_point
from pgrunbook.branches.recovery_target import parse_point
from pgrunbook.config.targets import OF_BRANCH, Planetscale, Target
from pgrunbook.errors import Refused, RunbookError, Unreachable, WrongInput

log = logging.getLogger(__name__)

NOW = "now"
OURS = "pgrunbook-"  # how the names of our backups begin
STATES = {"sleeping": BranchState.STOPPED, "sleep_in_progress": BranchState.STOPPED}
MAKING = timedelta(minutes=10)  # between the record and the branch, and between two clocks
TAKEN_AWAY = "The target was only read; what was made of the branch at PlanetScale is deleted."
LEFT = (
    "The target was only read. A branch and a backup may be left at PlanetScale: when it answers again, "
    "pgrunbook branch clean removes them."
)
ANEW = "-anew"  # behind the name of a branch that takes the place of another


class PlanetscaleBranches:
    """The provider ``planetscale``."""

    name: ProviderName = "planetscale"
    can = frozenset({Capability.NOW, Capability.TIME, Capability.RESET, Capability.BACKUP})
    instead: Mapping[Capability, str] = {
        Capability.RESTORE_POINT: "PlanetScale restores to a time: --at 2026-01-15T10:30:00Z; the record of a run has "
        "the time before its change.",
        Capability.LSN: "PlanetScale restores to a time: --at 2026-01-15T10:30:00Z.",
        Capability.PROMOTE: "A branch becomes production in PlanetScale's console (its size and replicas); then lead "
        "programs to it by new credentials, and write its name into the target's section of targets.toml.",
        Capability.MASKING: "PlanetScale copies whole backups: make the branch without rows (--schema-only), or on a "
        "target of the same database that is reached as a service.",
        Capability.SAMPLE: "PlanetScale copies whole backups: leave --rows out, or make it without any: --schema-only.",
    }

    def create(self, target: Target, wanted: Wanted) -> Branch:
        """Make a branch, and return it when it lets sessions in.

        Raises Refused where the name is taken, WrongInput and Refused for a time that cannot be restored, and what
        :mod:`failure` raises. Nothing of the branch is left then.
        """
        asked = [of_point(wanted.at)]
        asked += [Capability.SAMPLE] if wanted.rows is not None else []
        asked += [Capability.MASKING] if target.masking and wanted.has_data else []
        need(self, target, *asked)
        root, _, parent = target.name.partition(OF_BRANCH)
        made = Branch(
            target=root, name=checked(wanted.name), provider=self.name, owner=wanted.owner, purpose=wanted.purpose,
            made_at=datetime.now(UTC), expires_at=wanted.expires_at, of=wanted.at.spelled() if wanted.at else NOW,
            parent=parent, has_data=wanted.has_data, is_durable=True,
        )  # fmt: skip
        with Api(_place(target)) as api:
            at = _moment(api, made)
            with self._kept(), registry.making(made, lambda left: _remove(api, target, left)):
                if api.branch(made.name) is not None:
                    raise Refused(
                        f'{api.name} at PlanetScale has a branch "{made.name}"',
                        detail="Somebody else has made it: there is no record of it here.",
                        state="Nothing was started.",
                        hint="Choose another name.",
                    )
                return self._made(api, target, made, made.name, at)

    def branches(self, target: Target) -> Sequence[Branch]:
        """Return the branches of a target as they are now, oldest first; those that others have made there, too."""
        root = target.name.partition(OF_BRANCH)[0]
        place = _place(target)
        with Api(place) as api:
            there = {one.name: one for one in api.branches() if one.name != place.branch and not one.production}
        known = [one for one in registry.branches(root) if one.provider == self.name]
        found = [_as_it_is(one, there.get(one.name)) for one in known]
        names = {one.name for one in known}
        found += [_of_others(root, one) for one in there.values() if one.name not in names]
        return sorted(found, key=lambda one: one.made_at)

    def target(self, target: Target, branch: Branch) -> Target:
        """Return a branch as a target. Raises Unreachable where it is gone."""
        with Api(_place(target)) as api:
            there = api.branch(branch.name)
        if there is None or branch.provider_id not in (None, there.id):
            raise Unreachable(
                f'branch "{branch.full_name}" is gone',
                detail="PlanetScale does not have it any more.",
                hint=f"Forget it: pgrunbook branch delete {branch.full_name}.",
            )
        return _target(target, branch)

    def delete(self, target: Target, branch: Branch) -> None:
        """Delete a branch at PlanetScale, and what was made for it; another one that has its name now stays."""
        with Api(_place(target)) as api, registry.held(branch.full_name):
            _remove(api, target, branch)
            registry.forget(branch)

    def reset(self, target: Target, branch: Branch) -> Branch:
        """Make a branch anew beside the old one, delete that, and give the new one its name. Raises as create."""
        if registry.branch(branch.target, branch.name) is None:
            raise Refused(
                f'cannot make branch "{branch.full_name}" anew: it is not known what it was made of',
                detail="It was not made by pgrunbook.",
                state="It is as it was.",
                hint=f"Make one of your own: pgrunbook branch create --target {branch.target} NAME.",
            )
        name = f"{branch.name}{ANEW}"
        anew = branch.model_copy(update={"made_at": datetime.now(UTC), "provider_id": None})
        with Api(_place(target)) as api, registry.held(branch.full_name):
            if registry.branch(branch.target, name) is None:  # what a killed reset has left
                api.delete_branch(name)
            made = self._made(api, target, anew, name, _moment(api, branch))
            api.delete_branch(branch.name)
            api.rename_branch(name, branch.name)
            api.wait_ready(branch.name)
            return made

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the record of a branch that could not be taken away, by which ``pgrunbook branch clean`` finds it."""
        self._left: Branch | None = None
        try:
            yield
        finally:
            if self._left is not None:
                registry.write(self._left)

    def promote(self, target: Target, _: Branch) -> str:
        """Raise Refused: that is done at PlanetScale."""
        need(self, target, Capability.PROMOTE)
        raise AssertionError("it cannot be promoted")

    def _made(self, api: Api, target: Target, made: Branch, name: str, at: str | None) -> Branch:
        """Make the branch under a name; where that fails, delete it and what was made for it."""
        source, branch = api.place.branch, _target(target, made, name)
        before = registry.branch(made.target, made.name)
        backup_name = f"{_backup_name(made)}{secrets.token_hex(4)}"
        wanted: dict[str, object] = {"parent_branch": source}
        if at is not None:
            wanted |= {"restore_point": at, "cluster_size": api.place.cluster_size}
        try:
            if at is None and made.has_data:
                backup = api.create_backup(source, backup_name, keep_days=1)
                wanted = {"backup_id": api.wait_backup(source, backup.id).id, "cluster_size": api.place.cluster_size}
            made = made.model_copy(update={"made_at": datetime.now(UTC)})
            if before is None or before.state is BranchState.BEING_MADE:
                registry.write(made)
            made = made.model_copy(update={"provider_id": api.create_branch(name, **wanted).id})
            api.wait_ready(name)
            branch.conninfo()  # it lets sessions in
            if at is None and not made.has_data:
                schema_load.load(target, branch)
            login.forget(place_of(target, name))
            _delete_backups(api, backup_name)
            ready = made.model_copy(update={"state": BranchState.READY, "role": api.place.role})
            registry.write(ready)
        except BaseException as exc:
            # One that PlanetScale has refused may be somebody else's.
            is_ours = made.provider_id is not None or not isinstance(exc, WrongInput)
            is_away = _take_away(api, name if is_ours else "", backup_name)
            self._left = None if is_away or before is None or before.state is BranchState.READY else made
            if isinstance(exc, RunbookError):
                exc.state = TAKEN_AWAY if is_away else LEFT
            raise
        return ready


def _moment(api: Api, branch: Branch) -> str | None:
    """Return the moment of a branch as the API takes it, None for now. Raises WrongInput and Refused."""
    return None if branch.of == NOW else moments.restorable(api, parse_point(branch.of))


def _is_of(branch: Branch, there: PlanetscaleBranch) -> bool:
    """Tell whether a branch there is that of a record; one whose maker was killed is known by its time."""
    if branch.provider_id is not None:
        # One that was to take its place, when its maker was killed, has no record of its own.
        is_anew = there.name == f"{branch.name}{ANEW}" and registry.branch(branch.target, there.name) is None
        return branch.provider_id == there.id or is_anew
    return abs(there.created_at - branch.made_at) < MAKING


def place_of(target: Target, name: str) -> Planetscale:
    """Return where a branch of a target is."""
    return _place(target).model_copy(update={"branch": name})


def _place(target: Target) -> Planetscale:
    if target.planetscale is None:
        raise WrongInput(
            f'target "{target.name}" is not at PlanetScale any more, and has branches there',
            detail="Where they are stood in its section of targets.toml.",
            hint="Declare it again as it was, to delete them: pgrunbook branch list.",
        )
    return target.planetscale


def _target(target: Target, branch: Branch, name: str = "") -> PlanetscaleTarget:
    """Return a branch as a target: its source's folder, history and limits hold, and nothing of it is protected."""
    own = {"name": branch.full_name, "planetscale": place_of(target, name or branch.name), "protected": False}
    spared = {"approval": False, "window": None, "cutover_service_file": None}
    return PlanetscaleTarget(**{**dict(target), **own, **spared})


def _as_it_is(one: Branch, there: PlanetscaleBranch | None) -> Branch:
    if one.state is BranchState.BEING_MADE:
        state = BranchState.BEING_MADE if registry.is_held(one.full_name) else BranchState.HALF_MADE
    elif there is None or one.provider_id not in (None, there.id):
        state = BranchState.GONE
    else:
        state = _state(there)
    return one.model_copy(update={"state": state})


def _of_others(root: str, there: PlanetscaleBranch) -> Branch:
    return Branch(
        target=root, name=there.name, provider="planetscale", owner=there.actor.display_name if there.actor else "",
        state=_state(there), made_at=there.created_at, purpose="not made by pgrunbook", provider_id=there.id,
        of="",
    )  # fmt: skip


def _remove(api: Api, target: Target, branch: Branch) -> None:
    """Delete a branch, one that was to take its place, and the backups that were taken for it."""
    for name in (branch.name, f"{branch.name}{ANEW}"):
        there = api.branch(name)
        if there is not None and _is_of(branch, there):
            login.forget(place_of(target, name))
            api.delete_branch(name)
    _delete_backups(api, _backup_name(branch))


def _state(there: PlanetscaleBranch) -> BranchState:
    return BranchState.READY if there.ready else STATES.get(there.state, BranchState.BEING_MADE)


def _backup_name(branch: Branch) -> str:
    """Return how the names of the backups that are taken for a branch begin, and of no others."""
    return f"{OURS}{branch.name}-{hashlib.sha256(branch.full_name.encode()).hexdigest()[:8]}-"


def _delete_backups(api: Api, name: str) -> None:
    """Delete the backups whose names begin so."""
    for backup in api.backups(api.place.branch):
        if backup.name.startswith(name):
            api.delete_backup(api.place.branch, backup.id)


def _take_away(api: Api, name: str, backup_name: str) -> bool:
    """Delete what was made of a branch, "" for none; return False where that fails."""
    try:
        if name:
            login.forget(api.place.model_copy(update={"branch": name}))
            api.delete_branch(name)
        _delete_backups(api, backup_name)
    except RunbookError as exc:
        log.warning('could not delete what was made of branch "%s": %s', name or backup_name, exc.message)
        return False
    return True

"""The databases that runbooks may touch, as ``targets.toml`` declares them, without secrets."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pgrunbook.config import paths, regular_file
from pgrunbook.config.secret_patterns import SECRET_NAME, SECRET_VALUE
from pgrunbook.config.window import ChangeWindow
from pgrunbook.errors import WrongInput

HistoryKind = Literal[
    "auto", "drizzle", "dbmate", "plain", "atlas", "diesel", "flyway", "golang-migrate", "goose", "node-pg-migrate",
    "prisma", "sqlx", "supabase",
]  # fmt: skip
OF_BRANCH = "@"  # in the name of a branch of a target: demo@dev-migration
Milliseconds = Annotated[int, Field(ge=1, le=86_400_000, strict=True)]
OneOrMore = BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
Words = Annotated[tuple[str, ...], OneOrMore]
LookNumber = Literal[
    "waiting", "longest_wait_s", "active", "longest_statement_s", "idle_in_transaction", "longest_idle_s",
    "connections", "lag_bytes", "kept_bytes", "dead_rows", "batch_rows_per_s",
]  # fmt: skip
PlanetscaleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
WAYS = ("server", "service", "url_from", "planetscale")  # to reach a target
Action = Literal["warn", "webhook", "pause", "abort"]


class Threshold(BaseModel):
    """A number of a look at the server (``database.vitals``), and what is done while it is above a limit.

    It fires when the number has been above for ``for_s`` seconds; a number that cannot be seen is not above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: LookNumber
    above: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    for_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    does: Annotated[tuple[Action, ...], OneOrMore] = ("warn",)


class Planetscale(BaseModel):
    """A branch of a PostgreSQL database at PlanetScale, by its names there.

    ``role`` owns what migrations make: a run's own role inherits it, and acts as it. ``sslrootcert`` is the file with
    the certificates that are trusted, by default the system's. A branch is made with ``cluster_size``.
    ``login_ttl_s`` is how long a role lives that nobody deletes, renewed by each session after half of that.
    ``archive_lag_s`` is how old a moment has to be before it can be restored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    organization: PlanetscaleName
    database: PlanetscaleName
    branch: PlanetscaleName = "main"
    role: Annotated[str, Field(min_length=1, max_length=63)] = "postgres"
    port: Annotated[int, Field(ge=1, le=65_535, strict=True)] = 5432
    sslrootcert: str = "system"
    cluster_size: Annotated[str, Field(pattern=r"^[A-Z0-9_]+$")] = "PS_10"
    login_ttl_s: Annotated[int, Field(ge=60, le=604_800, strict=True)] = 43_200
    archive_lag_s: Annotated[int, Field(ge=0, le=86_400, strict=True)] = 300


class Constant(BaseModel):
    """A value that every row of a masked column gets, as PostgreSQL writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    constant: str


MaskRule = Literal["null", "hash"] | Constant


class Target(BaseModel):
    """One database, and how it is migrated.

    Exactly one way to reach it: ``server`` (the embedded server of that name), ``service`` (libpq's
    pg_service.conf), ``url_from`` (the name of an environment variable that holds the connection URL), or
    ``planetscale`` (a branch there; ``branches.planetscale`` gets its login).

    ``design_rules`` are the ids of the design rules that are switched on; ``review.hazards.design`` defines
    them, and "all" is all of them. With ``safe_migrations`` a migration that drops what is in use is refused,
    unless the operator names the object. ``batch_rows`` is how many rows a safe form changes in a transaction.
    ``lock_patience_ms`` is how long in all a step waits for old transactions in its way to end before it requests
    its lock anyway; ``lock_timeout_ms`` then bounds how long it waits for the lock.
    With ``publish_records`` publications FOR ALL TABLES may send schema pgrunbook: all readers pass it over.
    ``keep_days`` is how long the undo data of a migration is kept at least, and what its restore points need.
    ``keep_backups`` is how many base backups are kept at least. ``recovery_time_s`` is how long a restore may take.
    When restore cuts over, ``cutover_service`` (the target's name by default) in ``cutover_service_file`` is led to the
    restored server, and the command ``cutover_hook`` is called.
    ``thresholds`` are what monitor acts on; ``webhook_from`` names the environment variable that holds the address of
    a chat's webhook.
    ``masking`` has a rule for each column ("table.column") whose values a branch that somebody makes does not get.
    With ``time_writes`` a critical query that writes is executed, and aborted; else it is only planned.
    With ``approval`` (where it is protected, unless it says otherwise) somebody else approves each change; ``window``
    says when it may be changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    server: str | None = None
    service: str | None = None
    url_from: str | None = None
    planetscale: Planetscale | None = None
    database: str | None = None
    migrations: Path | None = None
    history: HistoryKind = "auto"
    history_schema: str | None = None
    history_table: str | None = None
    protected: bool = False
    approval: Annotated[bool, Field(strict=True)] | None = None
    window: ChangeWindow | None = None
    restore_points: bool = True
    publish_records: Annotated[bool, Field(strict=True)] = False
    lock_timeout_ms: Milliseconds = 2_000
    statement_timeout_ms: Milliseconds = 60_000
    attempts: Annotated[int, Field(ge=1, le=100, strict=True)] = 5
    lock_patience_ms: Milliseconds = 60_000
    batch_rows: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 1_000
    keep_days: Annotated[int, Field(ge=1, le=3650, strict=True)] = 30
    keep_backups: Annotated[int, Field(ge=1, le=1000, strict=True)] = 3
    cutover_service_file: Path | None = None
    cutover_service: str | None = None
    cutover_hook: Words = ()
    recovery_time_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    safe_migrations: Annotated[bool, Field(strict=True)] = False
    design_rules: Words = ()
    critical_queries: dict[str, str] = {}
    time_writes: Annotated[bool, Field(strict=True)] = False
    masking: dict[str, MaskRule] = {}
    thresholds: tuple[Threshold, ...] = ()
    webhook_from: str | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether somebody has to approve what is changed in it."""
        return self.protected if self.approval is None else self.approval

    @model_validator(mode="after")
    def _can_be_restored_to_its_points(self) -> Target:
        if self.planetscale is not None and self.restore_points:
            raise ValueError("restore_points cannot be true: PlanetScale restores to a time, which is recorded instead")
        return self

    @model_validator(mode="after")
    def _knows_its_webhook(self) -> Target:
        if self.webhook_from is None and any("webhook" in one.does for one in self.thresholds):
            raise ValueError("a threshold calls a webhook, and webhook_from names no environment variable")
        return self

    def webhook(self) -> str | None:
        """Return the address that a threshold calls, None where none does.

        Raises WrongInput when the environment variable is not set, or holds no address of the web.
        """
        if not any("webhook" in one.does for one in self.thresholds):
            return None
        url = os.environ.get(self.webhook_from or "", "")
        if not url.startswith(("https://", "http://")):
            lacks = "holds no http(s) address" if url else "is not set"
            raise WrongInput(
                f'could not find the webhook of target "{self.name}"',
                detail=f"The environment variable {self.webhook_from} {lacks}.",
                hint='Set it for this process, or take "webhook" out of the target\'s thresholds.',
            )
        return url

    def conninfo(self) -> dict[str, str]:
        """Return libpq's keywords for this target; a URL from the environment is under ``conninfo``.

        Raises WrongInput when the environment variable is not set.
        """
        if self.server is not None:
            # Every keyword is given: the operator's PGPORT and PGHOSTADDR are meant for other servers.
            return {
                "host": str(paths.socket_dir(self.server)),
                "hostaddr": "",
                "port": "5432",
                "user": "postgres",
                "dbname": self.database or "postgres",
            }
        found = {"dbname": self.database} if self.database else {}
        if self.service is not None:
            return {"service": self.service, **found}
        if self.planetscale is not None:
            raise WrongInput(
                f'target "{self.name}" at PlanetScale has no login here',
                detail="A login is made by who loads the target with session.naming.",
                hint="Report this, with the command.",
            )
        url = os.environ.get(self.url_from or "")
        if not url:
            raise WrongInput(
                f'could not find the address of target "{self.name}"',
                detail=f"The environment variable {self.url_from} is not set.",
                hint="Set it for this process, or name a libpq service in targets.toml instead.",
            )
        return {"conninfo": url, **found}


def targets_file() -> Path:
    """Return the path of ``targets.toml``: PGRUNBOOK_TARGETS, or the one of the project."""
    named = os.environ.get("PGRUNBOOK_TARGETS")
    return Path(named).resolve() if named else paths.project_dir() / "targets.toml"


def load(name: str) -> Target:
    """Return the target of that name.

    Raises WrongInput when the file cannot be read, the name is not declared or an option is wrong.
    """
    targets = load_all()
    if name not in targets:
        raise WrongInput(
            f'target "{name}" is not declared',
            detail=f"{targets_file()} declares {', '.join(sorted(targets)) or 'no target'}.",
            hint=f"Add a section [{name}] to it, or correct the name.",
        )
    return targets[name]


def load_all() -> dict[str, Target]:
    """Return every declared target by its name. Raises WrongInput as :func:`load` does."""
    path = targets_file()
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise WrongInput(f"could not read {path}", detail=str(exc)) from exc
    return {name: _target(path, name, options) for name, options in sections.items()}


def _target(path: Path, name: str, options: object) -> Target:
    if OF_BRANCH in name:
        raise WrongInput(
            f'target "{name}" in {path} is not valid',
            detail="A name with @ is that of a branch: demo@dev-migration.",
            hint="Rename the section.",
        )
    if not isinstance(options, dict):
        raise WrongInput(f'"{name}" in {path} is not a section', hint=f"Write [{name}] and its options below.")
    _refuse_secrets(path, name, options)
    if "name" in options:
        raise WrongInput(
            f'target "{name}" in {path} is not valid',
            detail="name: the section's heading is the name.",
            hint="Remove the option, or rename the section.",
        )
    ways = [way for way in WAYS if way in options]
    if len(ways) != 1:
        raise WrongInput(
            f'target "{name}" must name exactly one of {", ".join(WAYS[:-1])} and {WAYS[-1]}',
            detail=f"{path} names {', '.join(ways) or 'none of them'}.",
        )
    # PlanetScale restores to a time: nothing there finds a restore point by its name.
    defaults = {"restore_points": False} if "planetscale" in options else {}
    try:
        target = Target(name=name, **{**defaults, **options})
    except ValidationError as exc:
        raise WrongInput(f'target "{name}" in {path} is not valid', detail=regular_file.told(exc)) from exc
    # Folders are relative to targets.toml, so that a run means the same from every working directory.
    given = {"migrations": target.migrations, "cutover_service_file": target.cutover_service_file}
    return target.model_copy(update={key: path.parent / file for key, file in given.items() if file is not None})


def _refuse_secrets(path: Path, name: str, options: dict[str, object]) -> None:
    for key, value in options.items():
        if isinstance(value, dict) and key == "masking":
            continue  # the names of columns, which are told to nobody's harm
        if isinstance(value, dict):
            _refuse_secrets(path, name, value)
        if SECRET_NAME.search(key) or (isinstance(value, str) and SECRET_VALUE.search(value)):
            raise WrongInput(
                f'option "{key}" of target "{name}" looks like a secret',
                detail=f"{path} is read by everybody who runs a runbook, and copied into records.",
                hint="Use service (with a passfile), or url_from with the name of an environment variable.",
            )

"""The parameters of each procedure, as models; light, so that the command line can check them before all else loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pgrunbook.config.secret_patterns import SECRET_NAME, SECRET_VALUE
from pgrunbook.errors import WrongInput
from pgrunbook.sql import places

LAST = "last-restore-point"
NEWEST = "newest"
ALL, NONE = "all", "none"


def _listed(given: object) -> object:
    """Return a list that a notebook gives, or the command line: comma-separated, or JSON where a name has a comma."""
    if isinstance(given, str):
        given = _json(given, list) if given.startswith("[") else [part for part in given.split(",") if part.strip()]
    if not isinstance(given, list | tuple):
        raise PydanticCustomError("not_a_list", "It should be a list")
    return tuple(given)


def _numbered(given: object) -> object:
    """Return a list of numbers that a notebook gives, or the command line: 1,2."""
    found = _listed(given)
    texts = [str(number).strip() for number in found] if isinstance(found, tuple) else []
    if any(not re.fullmatch("[1-9][0-9]*", text) for text in texts):
        raise PydanticCustomError("not_numbers", "It should be a list of numbers")
    return tuple(map(int, texts))


def _one_or_listed(given: object) -> object:
    """Return a list that a notebook gives, or the command line: one text, which may hold commas, or JSON."""
    if isinstance(given, str) and not given.lstrip().startswith("["):
        return (given,) if given.strip() else ()
    return _listed(given.lstrip() if isinstance(given, str) else given)


def _mapped(given: object) -> object:
    return _json(given, dict) if isinstance(given, str) else given


def _json(given: str, kind: type) -> object:
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise PydanticCustomError("not_json", "It is not a JSON {kind}", {"kind": "list" if kind is list else "object"})
    return found


def _place(given: str) -> str:
    if places.parsed(given) is None and not re.fullmatch(r"way-back:\S.*", given):
        raise PydanticCustomError("not_a_place", "A statement is named as migration:line, as 0004_x:2")
    return given


def _digest(given: str) -> str:
    if not re.fullmatch("([0-9a-f]{12,64})?", given):
        raise PydanticCustomError("not_a_digest", "It should be the digest of a plan, or its first 12 digits or more")
    return given


Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Place = Annotated[Word, AfterValidator(_place)]
Names = Annotated[tuple[Word, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[Word, ...], BeforeValidator(_one_or_listed)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbered)]
Places = Annotated[tuple[Place, ...], BeforeValidator(_listed)]
Digest = Annotated[str, AfterValidator(_digest)]
Reasons = Annotated[dict[Place, Word], BeforeValidator(_mapped)]
# The boxes of the migration checklist.
Box = Literal[
    "schema changes reviewed by team", "migration tested in development branch", "rollback script prepared and tested",
    "performance impact assessed", "monitoring alerts configured", "documentation updated",
    "customer impact evaluated",
]  # fmt: skip
BOXES: tuple[Box, ...] = get_args(Box)
TakenOn = Annotated[dict[Box, Word], BeforeValidator(_mapped)]


class Parameters(BaseModel):
    """The parameters of every procedure. Unknown names are refused; nothing is converted but text to lists."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    target: str


class Prepare(Parameters):
    """The parameters of prepare.

    ``allow_loss`` names objects that may be lost in safe-migrations mode, ``accept`` the gates (each by its
    statement) that the operator accepts, ``safe_forms_off`` statements to run as they are written, with the reason.
    The rehearsal is ``with_data`` up to ``most_mb``, under ``load`` transactions a second. With ``keep`` the plan
    captures what a migration destroys, so that rollback can revert it. A down script is taken where it leads back, and
    in any case with ``prefer_down_scripts``; nothing is captured for its migration then. The smallest tables, up
    to ``checksum_mb`` together, are summed; each check of rows against the schema takes ``check_timeout_s`` at most.
    """

    generate: bool = False
    rehearse: bool = True
    with_data: bool = True
    most_mb: int = Field(default=5_000, ge=1)
    load: int = Field(default=0, ge=0, le=10_000)
    keep: bool = True
    prefer_down_scripts: bool = False
    accept: Places = ()
    allow_loss: Names = ()
    safe_forms_off: Reasons = {}
    out_of_order: bool = False
    max_transaction_age_s: int = Field(default=300, ge=1, le=86_400)
    checksum_mb: int = Field(default=1_000, ge=0)
    check_timeout_s: int = Field(default=30, ge=1, le=3_600)


class Migrate(Parameters):
    """The parameters of migrate.

    ``approved`` is the digest of the plan that somebody approved, or its first digits; the rest is as in prepare.
    """

    approved: Digest = ""
    accept: Places = ()
    safe_forms_off: Reasons = {}
    out_of_order: bool = False
    max_transaction_age_s: int = Field(default=300, ge=1, le=86_400)


class Validate(Parameters):
    """The parameters of validate.

    Where nobody ``others_write``, rows that no data statement explains are a problem. With ``analyze`` statistics that
    are missing are made. ``took_on`` names who has taken on a box of the checklist. Each check of rows against the
    schema, and each assertion, takes ``check_timeout_s`` at most.
    """

    of_run: str = ""
    max_slowdown: float = Field(default=2.0, ge=1.0, le=1000.0)
    others_write: bool = True
    analyze: bool = False
    check_timeout_s: int = Field(default=30, ge=1, le=3_600)
    took_on: TakenOn = {}


class Rollback(Parameters):
    """The parameters of rollback: how many of the last migrations, or all of one run, or ``steps`` of one migration.

    ``on_conflict`` decides on rows that a migration has changed and somebody else since: ``stop`` refuses,
    ``keep`` leaves them, ``restore`` overwrites them. The rollback is tried ``with_data`` up to ``most_mb``. A down
    script that prepare has not chosen is taken with ``prefer_down_scripts``.
    """

    migrations: int = Field(default=1, ge=1, le=1000)
    of_run: str = ""
    migration: str = ""
    steps: Numbers = ()
    on_conflict: Literal["stop", "keep", "restore"] = "stop"
    lose_rows: bool = False
    prefer_down_scripts: bool = False
    with_data: bool = True
    most_mb: int = Field(default=5_000, ge=1)


class Restore(Parameters):
    """The parameters of restore: the point (a restore point's name, an LSN, a time with zone), and a server's name.

    The point may also be ``last-restore-point``, or ``newest``: where the WAL of the target ends now.
    ``of_run`` goes on with what an earlier run has restored. ``compare`` names the tables that are compared with those
    of today: ``all``, ``none``, or some.

    ``salvage`` names the tables whose old rows come back, ``salvage_where`` a condition for some of them.
    ``salvage_rows`` is "missing" for rows that are gone, "changed" to overwrite those that differ, too;
    ``salvage_triggers`` says whether triggers of the application stay silent or fire. It is tried ``with_data`` up to
    ``most_mb``. With ``cut_over`` people and programs are led to the restored server: ``carry`` names the tables whose
    rows are brought there as they are today, or ``all``.
    """

    to: str = LAST
    of_run: str = ""
    name: str = ""
    compare: Names = (ALL,)
    salvage: Names = ()
    salvage_where: Annotated[dict[Word, Word], BeforeValidator(_mapped)] = {}
    salvage_rows: Literal["missing", "changed"] = "missing"
    salvage_triggers: Literal["silent", "fire"] = "silent"
    with_data: bool = True
    most_mb: int = Field(default=5_000, ge=1)
    cut_over: bool = False
    carry: Names = ()


class Drill(Parameters):
    """The parameters of drill: it tries what this run has restored, and has no choice but the target."""


class Purge(Parameters):
    """The parameters of purge: which items of undo data to drop.

    By age, by number, or everything; where none is named, the items that nobody needs any more. ``force`` purges
    items that are still needed, too.
    """

    older_than_days: int = Field(default=0, ge=0, le=3650)
    ids: tuple[Annotated[int, Field(ge=1)], ...] = ()
    everything: bool = False
    force: bool = False

    @field_validator("ids", mode="before")
    @classmethod
    def _numbers(cls, given: object) -> object:
        parts = _listed(given)
        assert isinstance(parts, tuple)  # noqa: S101 - what is no list was refused
        return tuple(int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts)

    @field_validator("ids", "everything")
    @classmethod
    def _one_of(cls, given: object, info: ValidationInfo) -> object:
        if given and any(value for name, value in info.data.items() if name in ("older_than_days", "ids")):
            raise PydanticCustomError("one_of", "Name only one of older_than_days, ids and everything")
        return given


class Contract(Parameters):
    """The parameters of contract: the columns that a person lets go, as schema.table.column, or all."""

    accept: Names = ()


class Rollout(Parameters):
    """The parameters of rollout: its ``name``, that of its file in rollouts/, and what a person decides.

    ``accept`` names the stages that a person lets begin, and ``remove`` to let the flag go. ``do`` leads it on, pauses
    or resumes it, takes the newest stage back, or abandons it: all stages go back. While a stage is held the metric is
    watched for ``watch_s`` seconds at most; another run goes on where this one ends.
    """

    name: str = ""
    accept: Names = ()
    do: Literal["go-on", "pause", "resume", "step-back", "abandon"] = "go-on"
    watch_s: float = Field(default=600.0, ge=0, le=604_800)


class Swap(Parameters):
    """The parameters of swap: the table, and the SQL of its new ``shape``: {table} is the new one, {old} that of today.

    ``values`` fills columns by expressions over the old table, ``back`` the other way; ``cutover`` may be a time.
    The copy waits as a backfill does. Where the log takes more than ``most_log_mb`` (0: a fifth of the table, 256 at
    least), the swap is taken away.
    """

    table: str = ""
    shape: str = ""
    do: Literal["swap", "back", "finish", "abandon"] = "swap"
    cutover: str = "now"
    order_by: Names = ()
    values: Annotated[dict[Word, Word], BeforeValidator(_mapped)] = {}
    back: Annotated[dict[Word, Word], BeforeValidator(_mapped)] = {}
    leave: Names = ()
    keep_hours: int = Field(default=24, ge=0, le=8_760)
    attempts: int = Field(default=10, ge=1, le=1_000)
    latency_ms: float = Field(default=20.0, gt=0, le=60_000)
    workers: int = Field(default=2, ge=1, le=16)
    max_lag_s: float = Field(default=30.0, ge=0, le=86_400)
    max_transaction_age_s: int = Field(default=600, ge=0, le=86_400)
    patience_s: int = Field(default=1_800, ge=0, le=604_800)
    most_log_mb: int = Field(default=0, ge=0, le=100_000_000)
    force: bool = False


class Monitor(Parameters):
    """The parameters of monitor: for how long to watch, and how often to look, in seconds."""

    watch_s: float = Field(default=60.0, ge=0, le=86_400)
    interval_s: float = Field(default=1.0, ge=0.2, le=3_600)


class Troubleshoot(Parameters):
    """The parameters of troubleshoot: what a person has chosen in its tables.

    ``end_session`` is the key of one session, and ``how`` it is ended; ``repair`` are the keys of repairs of the
    history, ``remove`` those of leftovers; ``analyze`` names tables whose statistics are made anew, ``reindex`` indexes
    that are built anew. ``explain`` names critical queries, or gives texts, that are planned; those of
    ``explain_analyze`` are executed once, within ``explain_timeout_s``, and aborted. Without any it only looks.
    """

    end_session: str = ""
    how: Literal["cancel", "terminate", "rollback prepared", "commit prepared"] = "cancel"
    repair: Names = ()
    remove: Names = ()
    analyze: Names = ()
    reindex: Names = ()
    explain: Texts = ()
    explain_analyze: Texts = ()
    explain_timeout_s: int = Field(default=60, ge=1, le=3_600)


class Backfill(Parameters):
    """The parameters of backfill: the columns of a table to ``fill``, each with the expression over its row.

    ``where`` leaves rows out. With ``keep_in_sync`` a trigger fills what is written meanwhile; ``back`` are columns and
    expressions for programs that write the filled columns; with ``leave_in_sync`` the trigger stays. ``order`` is that
    of the batches. Rows that the server refuses ``stop`` it, or up to ``most_bad_rows`` are passed over (``skip``).
    With ``undo_data`` the old values are captured. ``do`` is ``back`` to bring those of the run ``of_run`` back, where
    ``on_conflict`` decides on rows that somebody has changed since, or ``abandon`` to take what is left of it away.

    The throttle aims at ``latency_ms`` of others, ``batch_ms`` and ``most_batch_rows``. It waits for ``patience_s``
    while ``wait_while`` gives more than 0, or ``max_lag_s`` or ``max_transaction_age_s`` is passed.
    """

    table: str = ""
    fill: Annotated[dict[Word, Word], BeforeValidator(_mapped)] = {}
    where: str = ""
    back: Annotated[dict[Word, Word], BeforeValidator(_mapped)] = {}
    do: Literal["fill", "back", "abandon"] = "fill"
    of_run: str = ""
    undo_data: bool = False
    on_conflict: Literal["stop", "keep", "restore"] = "stop"
    keep_in_sync: bool = True
    leave_in_sync: bool = False
    order: Literal["auto", "key", "pages"] = "auto"
    bad_rows: Literal["stop", "skip"] = "stop"
    most_bad_rows: int = Field(default=1_000, ge=1, le=100_000)
    latency_ms: float = Field(default=20.0, gt=0, le=60_000)
    batch_ms: float = Field(default=50.0, ge=1, le=10_000)
    most_batch_rows: int = Field(default=20_000, ge=1, le=1_000_000)
    wait_while: str = ""
    max_lag_s: float = Field(default=30.0, ge=0, le=86_400)
    max_transaction_age_s: int = Field(default=600, ge=0, le=86_400)
    patience_s: int = Field(default=1_800, ge=0, le=604_800)


_MODELS = (
    Prepare, Migrate, Validate, Rollback, Restore, Drill, Purge, Contract, Rollout, Swap, Monitor, Troubleshoot,
    Backfill,
)  # fmt: skip
OF: dict[str, type[Parameters]] = {model.__name__.lower(): model for model in _MODELS}


def checked(
    procedure: str, model: type[Parameters], given: Mapping[str, object], *, from_text: bool = False
) -> Parameters:
    """Return the parameters as the procedure's model; with ``from_text`` each is given as text.

    Raises WrongInput when one is unknown, missing, mistyped, out of range or looks like a secret.
    """
    for name, value in given.items():
        if SECRET_NAME.search(name) or any(SECRET_VALUE.search(text) for text in _texts(value)):
            raise WrongInput(
                f'parameter "{name}" looks like a secret',
                detail="Parameters are written into the record in clear.",
                hint="Name a target; targets.toml names a libpq service or an environment variable.",
            )
    try:
        return model.model_validate_strings(given) if from_text else model.model_validate(given)
    except ValidationError as exc:
        raise WrongInput(
            f"the parameters of {procedure} are wrong",
            detail="; ".join(_wrong(error) for error in exc.errors()),
            hint=f"{procedure} knows: {', '.join(model.model_fields)}.",
        ) from None


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list() | tuple():
            for part in value:
                yield from _texts(part)
        case dict():
            yield from _texts([*value.keys(), *value.values()])


def _wrong(error: ErrorDetails) -> str:
    name, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "extra_forbidden":
        return f"{name} is not known"
    if error["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}"

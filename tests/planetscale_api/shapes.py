"""What the documentation allows in a request, and what it says an answer has.

Source: schemas/openapi.yaml of planetscale/terraform-provider-planetscale
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
InheritedRole = Literal[
    "pg_checkpoint", "pg_create_subscription", "pg_maintain", "pg_monitor", "pg_read_all_data", "pg_read_all_settings",
    "pg_read_all_stats", "pg_signal_backend", "pg_stat_scan_tables", "pg_use_reserved_connections",
    "pg_write_all_data", "postgres",
]  # fmt: skip
BackupState = Literal["pending", "running", "success", "failed", "canceled", "ignored"]
Moment = Annotated[AwareDatetime, Field(strict=False)]


def _rfc3339(given: object) -> object:
    if not (isinstance(given, str) and len(given) >= 20 and given[10] == "T"):
        raise ValueError("is not a time of RFC 3339")
    return given


class Asked(BaseModel):
    """What a request may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Asked):
    """No parameter, or no body."""


class Paged(Asked):
    page: Annotated[int, Field(ge=1, strict=False)] = 1
    per_page: Annotated[int, Field(ge=1, le=100, strict=False)] = 0


class BranchesQuery(Paged):
    q: str = ""
    production: str = ""
    safe_migrations: str = ""
    order: Literal["asc", "desc"] = "asc"


class Storage(Asked):
    minimum_storage_bytes: int | None = None
    maximum_storage_bytes: int | None = None


class BranchBody(Asked):
    name: Name
    parent_branch: str | None = None
    backup_id: str | None = None
    region: str | None = None
    restore_point: Annotated[Moment, BeforeValidator(_rfc3339)] | None = None
    seed_data: Literal["last_successful_backup"] | None = None
    cluster_size: str | None = None
    major_version: str | None = None
    storage: Storage | None = None
    deletion_protected: bool = False
    create_database_if_missing: bool = False
    kind: Literal["mysql", "postgresql"] | None = None


class BranchPatch(Asked):
    new_name: Name | None = None
    deletion_protected: bool | None = None


class BranchDeletion(Asked):
    delete_descendants: str = ""


class SchemaQuery(Asked):
    namespace: Annotated[str, Field(pattern=r"^[^.]+\.[^.]+$")]


class BackupsQuery(Paged):
    state: BackupState | None = None
    running_at: str = ""
    production: str = ""
    policy: str = ""
    all: str = ""


class BackupBody(Asked):
    name: str | None = None
    retention_unit: Literal["hour", "day", "week", "month", "year"] = "day"
    retention_value: Annotated[int, Field(ge=1, le=1000)] = 2
    emergency: bool = False


class RoleBody(Asked):
    name: str
    ttl: Annotated[int, Field(ge=0)] = 0
    inherited_roles: list[InheritedRole] = []
    with_replication: bool = False
    require_where_on_delete: str = "off"
    require_where_on_update: str = "off"


class Successor(Asked):
    successor: str | None = None


def moment(at: datetime | None) -> str | None:
    """Return a time as the API writes it."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def page(query: Paged, items: list[dict[str, Any]], url: str, usual: int) -> dict[str, Any]:
    """Return a page of a list."""
    size = query.per_page or usual
    pages = max(1, -(-len(items) // size))
    following, before = query.page + 1, query.page - 1
    return {
        "type": "list",
        "current_page": query.page,
        "per_page": size,
        "next_page": following if following <= pages else None,
        "next_page_url": f"{url}?page={following}" if following <= pages else None,
        "prev_page": before or None,
        "prev_page_url": f"{url}?page={before}" if before else None,
        "total_count": len(items),
        "total_pages": pages,
        "data": items[before * size : query.page * size],
    }


def unknown(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with fields that the documentation does not have yet."""
    return {"a_field_of_tomorrow": {"x": [1]}, **facts, "another_new_field": None}

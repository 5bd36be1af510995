"""What PlanetScale's API answers, as far as we need it: other fields are ignored, a missing one is an error.

Source: https://planetscale.com/docs/api/reference, openapi.yaml of planetscale/terraform-provider-planetscale
"""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict

Item = TypeVar("Item", bound=BaseModel)

POSTGRES = "postgresql"
SUCCESS, RUNNING = "success", ("pending", "running")  # of a backup


class Answer(BaseModel):
    """An object of the API."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Page(Answer, Generic[Item]):
    """A page of a list; ``next_page`` is None on the last."""

    next_page: int | None
    data: list[Item]


class PlanetscaleDatabase(Answer):
    """A database at PlanetScale: a family of branches, each a server of its own."""

    name: str
    kind: str


class Actor(Answer):
    """Who has made a branch."""

    display_name: str = ""


class PlanetscaleBranch(Answer):
    """A branch at PlanetScale: a server of its own."""

    id: str
    name: str
    ready: bool
    state: str
    production: bool
    created_at: AwareDatetime
    parent_branch: str | None = None
    actor: Actor | None = None


class PlanetscaleBackup(Answer):
    """A backup of a branch; ``size`` is in bytes. A time is restored from the newest that ended before it."""

    id: str
    name: str
    state: str
    created_at: AwareDatetime
    size: int | None = None
    completed_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    protected: bool = False
    required: bool = False


class PlanetscaleRole(Answer):
    """A role of a branch; its password is told once, when it is made or reset."""

    id: str
    name: str
    username: str
    access_host_url: str
    database_name: str
    expires_at: AwareDatetime | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"PlanetscaleRole(id={self.id!r}, name={self.name!r})"

    __str__ = __repr__


class TableSchema(Answer):
    """The definition of a table, as the API has it."""

    name: str
    raw: str


class Tables(Answer):
    """The tables of a schema; this list has no pages."""

    data: list[TableSchema]

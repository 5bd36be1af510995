"""What each procedure is told, as a model: light, so that the command line can check it before anything else loads."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pgrunbook.errors import WrongInput
from pgrunbook.target import SECRET_NAME, SECRET_VALUE

LAST = "last-restore-point"


class Parameters(BaseModel):
    """What every procedure is told. Unknown names are refused, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    target: str


class Prepare(Parameters):
    """What prepare is told."""

    generate: bool = False
    rehearse: bool = True
    out_of_order: bool = False
    max_transaction_age_s: int = Field(default=300, ge=1, le=86_400)


class Migrate(Parameters):
    """What migrate is told."""

    out_of_order: bool = False
    max_transaction_age_s: int = Field(default=300, ge=1, le=86_400)


class Validate(Parameters):
    """What validate is told."""

    of_run: str = ""
    max_slowdown: float = Field(default=2.0, ge=1.0, le=1000.0)


class Rollback(Parameters):
    """What rollback is told: how many of the last migrations, or all that one run applied."""

    migrations: int = Field(default=1, ge=1, le=1000)
    of_run: str = ""
    lose_rows: bool = False


class Restore(Parameters):
    """What restore is told: the point (a restore point's name, an LSN, a time with zone), and a name."""

    to: str = LAST
    name: str = ""


OF: dict[str, type[Parameters]] = {
    "prepare": Prepare,
    "migrate": Migrate,
    "validate": Validate,
    "rollback": Rollback,
    "restore": Restore,
}


def checked(
    procedure: str, model: type[Parameters], given: Mapping[str, object], *, from_text: bool = False
) -> Parameters:
    """Return the parameters as the procedure's model has them; with ``from_text`` each is given as text.

    Raises WrongInput when one is unknown, missing, mistyped, out of range or looks like a secret.
    """
    for name, value in given.items():
        if SECRET_NAME.search(name) or (isinstance(value, str) and SECRET_VALUE.search(value)):
            raise WrongInput(
                f'parameter "{name}" looks like a secret',
                detail="Parameters are written into the record in clear.",
                hint="Name a target; targets.toml names a libpq service or an environment variable.",
            )
    try:
        return model.model_validate_strings(given) if from_text else model.model_validate(given)
    except ValidationError as exc:
        raise WrongInput(
            f"the parameters of {procedure} are not right",
            detail="; ".join(_wrong(error) for error in exc.errors()),
            hint=f"{procedure} knows: {', '.join(model.model_fields)}.",
        ) from None


def _wrong(error: ErrorDetails) -> str:
    name, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "extra_forbidden":
        return f"{name} is not known"
    if error["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}"

"""The service token with which we ask PlanetScale: from the environment or a file, in no parameter, log or record."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pgrunbook.config import regular_file
from pgrunbook.errors import NOTHING_CHANGED, Refused, WrongInput

ID, TOKEN, FILE = "PLANETSCALE_SERVICE_TOKEN_ID", "PLANETSCALE_SERVICE_TOKEN", "PLANETSCALE_SERVICE_TOKEN_FILE"


@dataclass(frozen=True)
class ServiceToken:
    """A service token; ``origin`` says where it was found."""

    id: str
    value: str = field(repr=False)
    origin: str = ""

    def header(self) -> str:
        """Return the value of the header Authorization, which has no scheme.

        Source: https://planetscale.com/docs/api/reference/service-tokens
        """
        return f"{self.id}:{self.value}"


def read() -> ServiceToken:
    """Return the token of the environment, else that of the file which the environment names.

    Raises WrongInput where there is none, or the file does not hold ID:TOKEN; Refused where others can read the file.
    """
    token_id, value, named = (os.environ.get(name, "") for name in (ID, TOKEN, FILE))
    if token_id and value:
        return ServiceToken(*_checked(token_id, value, f"{ID} and {TOKEN}"), origin=f"{ID} and {TOKEN}")
    if not named:
        raise WrongInput(
            "could not find the service token of PlanetScale",
            detail=f"{ID if value else TOKEN if token_id else f'Neither {ID} and {TOKEN} nor {FILE}'} is not set."
            if token_id or value
            else f"Neither {ID} with {TOKEN}, nor {FILE} is set.",
            hint=f"Set both for this process, or write ID:TOKEN into a file of mode 0600 and name it in {FILE}.",
        )
    path = Path(named)
    text = regular_file.read(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Refused(
            "refused to use the service token of PlanetScale: others can read it",
            detail=f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}.",
            state=NOTHING_CHANGED,
            hint=f"chmod 600 {path}; and make another token, where somebody may have read this one.",
        )
    token_id, _, value = text.strip().partition(":")
    return ServiceToken(*_checked(token_id, value, str(path)), origin=str(path))


def _checked(token_id: str, value: str, origin: str) -> tuple[str, str]:
    """Return both without blanks around them; what cannot stand in a header is refused before it is sent."""
    found = token_id.strip(), value.strip()
    if not all(part and part.isascii() and part.isprintable() and " " not in part for part in found):
        raise WrongInput(
            "cannot use the service token of PlanetScale",
            detail=f"What {origin} holds is not an ID and a token, each one word.",
            hint=f"Set {ID} and {TOKEN}, or write ID:TOKEN, in one line, into the file that {FILE} names.",
        )
    return found

"""What can go wrong between us and PlanetScale's API: one error for each, which says what is made there."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pgrunbook.branches.planetscale.service_token import FILE, ID, TOKEN, ServiceToken
from pgrunbook.config import regular_file
from pgrunbook.errors import Blocked, Broken, Refused, RunbookError, Unreachable, WrongInput

if TYPE_CHECKING:
    import httpx

NOTHING_MADE = "At PlanetScale nothing was made or changed by this; the database is as it was."
IN_DOUBT = "It is not known whether PlanetScale has done it; the database is as it was."
RATE = "600 requests in a minute"
ACCESSES = (
    "read_branch, create_branch, delete_branch, restore_backup, restore_production_branch_backup, write_backups, "
    "delete_backups, create_branch_password, create_production_branch_password, delete_branch_password"
)
MOST_CHARS = 300


class Final(Exception):
    """An answer after which the same request cannot succeed, with the error for the operator."""

    def __init__(self, error: RunbookError, code: int) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_absent = code == 404
        self.is_about_values = code in (400, 409, 422)  # a name that is taken, among others


class Passing(Exception):
    """A failure after which the same request may succeed; ``in_doubt`` where it may have been done."""

    def __init__(
        self, error: RunbookError, why: str, *, in_doubt: bool, after_s: float | None = None, is_rate: bool = False
    ) -> None:
        super().__init__(why)
        self.error, self.why, self.in_doubt, self.after_s, self.is_rate = error, why, in_doubt, after_s, is_rate

    def told(self, attempts: int, *, state: str) -> RunbookError:
        """Return the error for the operator, after the last attempt."""
        self.error.message = f"{self.error.message} in {attempts} attempts"
        self.error.state = state
        return self.error


def not_made(in_doubt: bool) -> str:
    """Return the state after a request that failed."""
    return IN_DOUBT if in_doubt else NOTHING_MADE


def check(doing: str, answer: httpx.Response, token: ServiceToken) -> None:
    """Raise what an answer stands for, unless it is a success with JSON in it, or with nothing in it."""
    code = answer.status_code
    if 200 <= code < 300:
        if answer.content and "json" not in answer.headers.get("content-type", ""):
            raise _no_json(doing, answer)
        return
    told = f"HTTP {code}{_message(answer, token)}"
    if code == 429 or code >= 500:
        raise _passing(doing, code, told, answer)
    raise Final(_final(doing, code, told, token), code)


def unanswered(doing: str, exc: httpx.HTTPError, base: str) -> Exception:
    """Return the error for a request that got no answer."""
    import httpx

    unsent = isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    why = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    error = Unreachable(
        f"could not {doing} at PlanetScale",
        detail=f"{base} {'cannot be reached' if unsent else 'gave no whole answer'} ({why}).",
        state=NOTHING_MADE,
        hint="Check the network and https://www.planetscalestatus.com, then run this again.",
    )
    if isinstance(exc, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.TooManyRedirects):
        return error
    return Passing(error, why, in_doubt=not unsent)


def unexpected(doing: str, exc: ValidationError) -> RunbookError:
    """Return the error for an answer that lacks what we need; its values are not told."""
    return Broken(
        f"could not {doing} at PlanetScale: its answer is not as its documentation says",
        detail=f"{regular_file.told(exc)[:MOST_CHARS]}.",
        state=IN_DOUBT,
        hint="Look at it in PlanetScale's own console; a newer version of pgrunbook may know the API of today.",
    )


def in_doubt(other: RunbookError) -> Unreachable:
    """Return the error for a request that may have been done, where looking whether it was has failed, too."""
    return Unreachable(other.message, detail=other.detail, state=IN_DOUBT, hint=other.hint)


def endless(doing: str, pages: int) -> RunbookError:
    """Return the error for a list that has no end."""
    return Broken(f"could not {doing} at PlanetScale: the list goes on after {pages} pages", state=NOTHING_MADE)


def _passing(doing: str, code: int, told: str, answer: httpx.Response) -> Passing:
    if code == 429:
        error: RunbookError = Blocked(
            f"could not {doing} at PlanetScale: its rate limit is reached",
            detail=f"{told}. It allows {RATE} for all who use this organization's tokens.",
            hint="Wait a minute, then run this again.",
        )
        error.section = ""
        after_s = _after_s(answer.headers.get("retry-after", ""))
        return Passing(error, told, in_doubt=False, after_s=after_s, is_rate=True)
    error = Unreachable(
        f"could not {doing} at PlanetScale",
        detail=f"{told}.",
        hint="Look at https://www.planetscalestatus.com, then run this again.",
    )
    return Passing(error, told, in_doubt=True, after_s=_after_s(answer.headers.get("retry-after", "")))


def _final(doing: str, code: int, told: str, token: ServiceToken) -> RunbookError:
    told = f"{told}."
    if code == 401:
        return WrongInput(
            f"could not {doing}: PlanetScale does not accept the service token",
            detail=told,
            state=NOTHING_MADE,
            hint=f"It comes from {token.origin or ID}. Make another in the organization's settings, if it was deleted, "
            f"and set {ID} and {TOKEN}, or {FILE}.",
        )
    if code == 403:
        return Refused(
            f"could not {doing}: the service token of PlanetScale may not do that",
            detail=told,
            state=NOTHING_MADE,
            hint=f"Give the token {token.id} what it lacks on this database. All that pgrunbook uses: {ACCESSES}.",
        )
    if code == 404:
        return WrongInput(
            f"could not {doing}: PlanetScale knows no such thing, or does not show it to this token",
            detail=told,
            state=NOTHING_MADE,
            hint="Check organization, database and branch in targets.toml, and the accesses of the token.",
        )
    return WrongInput(
        f"could not {doing}: PlanetScale refused it",
        detail=told,
        state=NOTHING_MADE,
        hint="Correct what it names, then run this again.",
    )


def _no_json(doing: str, answer: httpx.Response) -> RunbookError:
    kind = answer.headers.get("content-type", "") or "no type"
    return Unreachable(
        f"could not {doing} at PlanetScale: it did not answer with JSON",
        detail=f"HTTP {answer.status_code}, {kind}, {len(answer.content):,} bytes.",
        state=IN_DOUBT if answer.request.method != "GET" else NOTHING_MADE,
        hint="A proxy or a login page may stand in between: check the network, then run this again.",
    )


def _message(answer: httpx.Response, token: ServiceToken) -> str:
    """Return what an error's body says, in one line, without the token; "" where it says nothing that we can read."""
    try:
        body = json.loads(answer.content)
    except ValueError:
        return f" ({answer.headers.get('content-type', '') or 'no type'}, no JSON)" if answer.content else ""
    found = _texts(body)
    text = " ".join(": ".join(found).split())[:MOST_CHARS]
    for secret in (token.header(), token.value):
        text = text.replace(secret, "***")
    return f", {text}".rstrip(".") if text else ""


def _texts(body: object) -> list[str]:
    """Return code and message of an error, or those of each field that is wrong."""
    if not isinstance(body, dict):
        return []
    errors = body.get("errors")
    if isinstance(errors, list):
        return [
            "; ".join(
                f"{one.get('name', '')} {', '.join(map(str, one.get('errors') or []))}".strip()
                for one in errors
                if isinstance(one, dict)
            )
        ]
    return [str(body[key]) for key in ("code", "message") if body.get(key)]


def _after_s(text: str) -> float | None:
    """Return how long Retry-After says to wait: in seconds, or until a date; None where it says nothing."""
    if re.fullmatch(r"\d{1,6}", text.strip()):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

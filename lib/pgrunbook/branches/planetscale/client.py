"""Requests to PlanetScale's API: repeated where that is safe, bounded, and each failure told as one error of ours.

1. A GET, PATCH or DELETE is repeated after 429, 5xx, a lost connection or a timeout.
2. A POST is repeated where it was not done: after 429, or where no connection came about. After 5xx, a lost connection
   or a timeout it may have been done: what it makes is looked up by name first.
3. ``Retry-After`` is heeded, up to a limit; else the pause doubles, and is longer after 429.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError

from pgrunbook.branches.planetscale import failure, service_token
from pgrunbook.branches.planetscale.answers import Page
from pgrunbook.branches.planetscale.service_token import ServiceToken
from pgrunbook.errors import RunbookError, WrongInput

log = logging.getLogger(__name__)

Found = TypeVar("Found", bound=BaseModel)
URL, NAMED_IN = "https://api.planetscale.com/v1", "PLANETSCALE_API_URL"
LOCAL = ("127.0.0.1", "localhost", "::1")
ATTEMPTS = 5
LONGER = 11  # after 429: all attempts together outlast the minute in which requests are counted
PAUSE_S, MOST_PAUSE_S = 0.5, 60.0
CONNECT_TIMEOUT_S, TIMEOUT_S = 10.0, 30.0
MOST_PAGES = 1_000


class Client:
    """A session with the API, for one thread. Raises WrongInput or Refused where there is no token that can be used."""

    def __init__(self, token: ServiceToken | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        import httpx  # 0.3 s, which only these targets need

        self.token = token or service_token.read()
        self._http = httpx.Client(
            headers={"Authorization": self.token.header(), "Accept": "application/json"},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            trust_env=True,
        )
        self._base = _base_url()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, model: type[Found], *path: str, doing: str, **query: str) -> Found:
        """Return one object. Raises as :mod:`failure` says."""
        return self._fit(model, self._sure("GET", path, doing, query=query), doing)

    def find(self, model: type[Found], *path: str, doing: str) -> Found | None:
        """Return one object, None where there is none."""
        told = self._repeated("GET", path, doing)
        return None if told is None else self._fit(model, told, doing)

    def all(self, model: type[Found], *path: str, doing: str, **query: str) -> Iterator[Found]:
        """Yield the objects of a list, page by page."""
        page: int | None = 1
        for _ in range(MOST_PAGES):
            told = self._sure("GET", path, doing, query={**query, "page": str(page)})
            found = self._fit(Page[model], told, doing)  # type: ignore[valid-type]
            yield from found.data
            page = found.next_page
            if page is None:
                return
        raise failure.endless(doing, MOST_PAGES)

    def patch(self, model: type[Found], *path: str, doing: str, body: Mapping[str, object]) -> Found | None:
        """Change an object, and return it; None where there is no such object."""
        told = self._repeated("PATCH", path, doing, body=body)
        return None if told is None else self._fit(model, told, doing)

    def delete(self, *path: str, doing: str, query: Mapping[str, str] | None = None) -> bool:
        """Delete an object; return False where there was none any more."""
        return self._repeated("DELETE", path, doing, query=query, body=query) is not None

    def post(
        self,
        model: type[Found],
        *path: str,
        doing: str,
        body: Mapping[str, object],
        made: Callable[[], Found | None],
    ) -> Found:
        """Make an object, once, and return it; ``made`` looks for it after an attempt whose outcome is not known."""
        in_doubt = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._fit(model, self._once("POST", path, doing, attempt, body=body), doing)
            except failure.Passing as exc:
                in_doubt = in_doubt or exc.in_doubt
                if in_doubt:
                    found = self._look(made, exc)
                    if found is not None:
                        return found
                if attempt == ATTEMPTS:
                    raise exc.told(ATTEMPTS, state=failure.NOTHING_MADE) from exc
                _pause(exc, attempt, doing)
            except failure.Final as exc:
                # A name that is taken may be so by an attempt of ours, which was done after all.
                found = self._look(made, None) if in_doubt and exc.is_about_values else None
                if found is None:
                    raise exc.error from None
                return found
        raise AssertionError("the last attempt returns or raises")

    def post_to(self, model: type[Found], *path: str, doing: str) -> Found | None:
        """Do to an object what may be done twice, and return it; None where there is no such object."""
        told = self._repeated("POST", path, doing)
        return None if told is None else self._fit(model, told, doing)

    def _look(self, made: Callable[[], Found | None], exc: failure.Passing | None) -> Found | None:
        try:
            return made()
        except RunbookError as other:
            raise failure.in_doubt(other) from exc

    def _sure(
        self,
        method: str,
        path: tuple[str, ...],
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        found = self._repeated(method, path, doing, query=query, body=body, is_sure=True)
        assert found is not None  # noqa: S101 - what is absent is an error then
        return found

    def _repeated(
        self,
        method: str,
        path: tuple[str, ...],
        doing: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        is_sure: bool = False,
    ) -> bytes | None:
        """Send a request until it is answered; return the body, None where there is no such thing."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(method, path, doing, attempt, query=query, body=body)
            except failure.Final as exc:
                if exc.is_absent and not is_sure:
                    return None
                raise exc.error from None
            except failure.Passing as exc:
                if attempt == ATTEMPTS:
                    in_doubt = exc.in_doubt and method != "GET"
                    raise exc.told(ATTEMPTS, state=failure.not_made(in_doubt)) from exc
                _pause(exc, attempt, doing)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self,
        method: str,
        path: tuple[str, ...],
        doing: str,
        attempt: int,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        """Send a request once; return the body of the answer, b"" for none."""
        import httpx

        url = "/".join([self._base, *(quote(part, safe="") for part in path)])
        if method != "GET":
            log.info("%s at PlanetScale (attempt %d of %d)", doing, attempt, ATTEMPTS)
        try:
            answer = self._http.request(method, url, params=query, json=body)
        except httpx.HTTPError as exc:
            raise failure.unanswered(doing, exc, self._base) from None  # its request holds the token
        except httpx.InvalidURL as exc:
            raise _wrong_url(self._base, str(exc)) from None
        failure.check(doing, answer, self.token)
        return answer.content

    def _fit(self, model: type[Found], told: bytes, doing: str) -> Found:
        try:
            return TypeAdapter(model).validate_json(told)
        except ValidationError as exc:
            raise failure.unexpected(doing, exc) from None  # it quotes the answer, which may hold a password


def _pause(exc: failure.Passing, attempt: int, doing: str) -> None:
    first_s = PAUSE_S * LONGER if exc.is_rate else PAUSE_S
    grown = first_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - not to come back all at once
    pause_s = min(MOST_PAUSE_S, grown if exc.after_s is None else exc.after_s)
    log.info("PlanetScale could not %s: %s; tried again in %.1f s", doing, exc.why, pause_s)
    time.sleep(pause_s)


def _base_url() -> str:
    """Return the address of the API; only one on this machine may do without TLS: the token goes there."""
    url = os.environ.get(NAMED_IN) or URL
    try:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
    except ValueError:
        is_safe = False
    if not is_safe:
        raise _wrong_url(url, "It has to begin with https://; http:// is for this machine only.")
    return url.rstrip("/")


def _wrong_url(url: str, why: str) -> WrongInput:
    return WrongInput(
        f"cannot use {NAMED_IN}",
        detail=f"It is {url}. {why}",
        hint=f"Unset it: the address of the API is {URL}.",
    )

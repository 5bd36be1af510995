"""Files at a URL, through fsspec: an S3 bucket, a folder of another disk. It comes with the extra ``s3``.

Who may write there is known to the environment (AWS_ACCESS_KEY_ID, a profile, a role of the machine), to no record.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pgrunbook.errors import Refused, Unreachable, WrongInput

STATE = "Nothing was copied; nothing changed in the database."
_LIBRARIES = {"s3": "s3fs", "file": "fsspec"}
_CONNECT_S, _READ_S, _ATTEMPTS = 5, 60, 3


class Remote:
    """A place below a URL, whose files are named as paths below it."""

    def __init__(self, url: str) -> None:
        refuse(url)
        import fsspec

        self.url = url.rstrip("/")
        scheme = urlsplit(url).scheme
        options: dict[str, Any] = {"use_listings_cache": False}
        if scheme == "s3":
            limits = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": {"max_attempts": _ATTEMPTS}}
            # fsspec keeps a client for each set of options: a server that the environment names anew is another one.
            server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            options |= {"config_kwargs": limits, "endpoint_url": server}
        self._is_local = scheme == "file"
        with told(url):
            self._files = fsspec.filesystem(scheme, **options)
            self._root = str(self._files._strip_protocol(self.url))

    def put(self, name: str, source: Path | bytes) -> None:
        """Write a file: it is there as a whole, or not at all. Raises Unreachable."""
        place = self._place(name)
        with told(self.url):
            half = f"{place}.{secrets.token_hex(4)}.half" if self._is_local else place  # an object is whole by itself
            if self._is_local:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                self._files.pipe_file(half, source)
            else:
                self._files.put_file(str(source), half)
            if self._is_local:
                Path(half).replace(place)

    def get(self, name: str, file: Path) -> None:
        """Read a file into one here. Raises Unreachable, Refused for a name that leads out of the place."""
        place = self._place(name)
        with told(self.url):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.get_file(place, str(file))

    def is_there(self, name: str) -> bool:
        """Tell whether a file is there. Raises Unreachable."""
        place = self._place(name)
        with told(self.url):
            return bool(self._files.isfile(place))

    def names(self, below: str = "") -> list[str]:
        """Return the names of all files below a name, [] where there is none. Raises Unreachable."""
        root = self._place(below)
        with told(self.url):
            if not self._files.exists(root):
                return []
            skip = len(self._root) + 1
            return sorted(str(one)[skip:] for one in self._files.find(root))

    def _place(self, name: str) -> str:
        """Return where a file lies. A bucket takes any key: whoever writes there may have named one ``../x``."""
        if name and any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
            raise Refused(
                f"{self.url} holds a name that leads out of it",
                detail=f"It is {name[:200]!r}: nobody but a stranger has put it there.",
                state="Nothing was read there or written here by that name; nothing changed in the database.",
                hint="See who may write there, and remove it.",
            )
        return f"{self._root}/{name}" if name else self._root


def refuse(url: str) -> None:
    """See that a URL is one that we can take: without a secret, of a kind whose library is there.

    Raises WrongInput.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise WrongInput(
            "the URL of a copy holds more than a place",
            detail=f"{parts.scheme}://... has a user, a key or options in it; a URL stands in records.",
            state=STATE,
            hint="Name the place alone, as s3://bucket/prefix; keys stand in the environment (AWS_ACCESS_KEY_ID), or "
            "in a profile.",
        )
    library = _LIBRARIES.get(parts.scheme)
    if library is None or not (parts.netloc or parts.path.strip("/")):
        raise WrongInput(
            f'"{url}" is no place for records',
            state=STATE,
            hint="It is s3://bucket/prefix, or file:///folder.",
        )
    missing = next((one for one in ("fsspec", library) if importlib.util.find_spec(one) is None), "")
    if missing:
        raise WrongInput(
            f"could not reach {url}: {missing} is not installed",
            detail="It comes with the extra s3, which is not needed for anything else.",
            state=STATE,
            hint="Install it: pip install 'pgrunbook[s3]'",
        )


@contextmanager
def told(url: str) -> Iterator[None]:
    """Make the errors of a file system ours. Raises Unreachable, Refused where it does not let us."""
    try:
        yield
    except (PermissionError, ImportError) as exc:
        raise Refused(
            f"{url} does not let us in",
            detail=_said(exc),
            state=STATE,
            hint="See who may write there (AWS_ACCESS_KEY_ID, AWS_PROFILE, the rights of the bucket).",
        ) from exc
    except Exception as exc:  # botocore's errors have no root that fsspec would name
        raise Unreachable(
            f"could not reach {url}",
            detail=_said(exc),
            state=STATE,
            hint="See whether it answers (AWS_ENDPOINT_URL names another server than Amazon's), then try again.",
        ) from exc


def _said(exc: Exception) -> str:
    text = " ".join(str(exc).split())[:300] or type(exc).__name__
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return f"{text.rstrip('.')}."

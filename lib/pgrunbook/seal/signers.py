"""The team's public keys: the file ``signers``, in the format of ssh's allowed_signers (man ssh-keygen).

A line: the names of a person, options, the key. ``valid-before`` is the moment from which a key is revoked or expired:
what it signed earlier stays good.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgrunbook.config import regular_file, targets
from pgrunbook.errors import WrongInput
from pgrunbook.record.files import write_atomically
from pgrunbook.seal import public_key
from pgrunbook.seal.public_key import KIND, PublicKey

NAMESPACE = "pgrunbook"
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
_OPTION = re.compile(r'^(?P<name>[a-z-]+)(?:="(?P<value>[^"]*)")?$', re.I)
_MOMENT = re.compile(r"^\d{8}(\d{4}(\d{2})?)?Z?$")


@dataclass(frozen=True)
class Signer:
    """A person and a key of theirs, and from when until when it is good."""

    name: str
    key: PublicKey
    valid_after: datetime | None = None
    valid_before: datetime | None = None

    def lacks(self, moment: datetime) -> str:
        """Return why the key is not good for a signature of that moment, "" where it is."""
        if self.valid_after is not None and moment < self.valid_after:
            return f"the key of {self.name} is good from {self.valid_after:%Y-%m-%d %H:%M}Z on"
        if self.valid_before is not None and moment >= self.valid_before:
            return f"the key of {self.name} was revoked or expired at {self.valid_before:%Y-%m-%d %H:%M}Z"
        return ""


def path() -> Path:
    """Return where the file lies: PGRUNBOOK_SIGNERS, or ``signers`` beside targets.toml."""
    named = os.environ.get("PGRUNBOOK_SIGNERS")
    return Path(named).resolve() if named else targets.targets_file().parent / "signers"


def load(file: Path | None = None) -> Mapping[str, Signer] | None:
    """Return the signers by the fingerprint of their key, None where there is no file.

    Raises WrongInput for a line that ssh would not take, or that says what we cannot check.
    """
    chosen = file or path()
    if not regular_file.is_there(chosen):
        return None
    found: dict[str, Signer] = {}
    for number, line in enumerate(regular_file.read(chosen).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            signer = _parsed(line, f"{chosen}, line {number}")
            if signer is not None:
                if signer.key.fingerprint in found:
                    raise _wrong(f"{chosen}, line {number}", f"{signer.key.fingerprint} stands in it twice")
                found[signer.key.fingerprint] = signer
    return found


def add(name: str, key: PublicKey, file: Path | None = None) -> None:
    """Add a person's key to the file. Raises WrongInput where the key stands in it, or the name is none."""
    chosen = file or path()
    if not re.fullmatch(r"[^\s\",#!*?]+", name):
        raise WrongInput(f'"{name}" cannot be the name of a signer', hint="Take a mail address, or a login.")
    there = load(chosen) or {}
    if key.fingerprint in there:
        raise WrongInput(
            f"{key.fingerprint} stands in {chosen.name} already",
            detail=f"It is the key of {there[key.fingerprint].name}.",
        )
    before = regular_file.read(chosen) if regular_file.is_there(chosen) else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    _write(chosen, f'{before}{gap}{name} namespaces="{NAMESPACE}" {key.text}\n')


def revoke(fingerprint: str, moment: datetime, file: Path | None = None) -> Signer:
    """Make a key bad from a moment on, up to whole seconds, and return whose it is; what it signed before stays good.

    Raises WrongInput where it does not stand in the file, or was revoked earlier.
    """
    chosen = file or path()
    moment = (moment + timedelta(microseconds=999_999)).replace(microsecond=0)
    signer = (load(chosen) or {}).get(fingerprint)
    if signer is None:
        raise WrongInput(f"{fingerprint} does not stand in {chosen}", hint="See them with: pgrunbook key list")
    if signer.valid_before is not None and signer.valid_before <= moment:
        raise WrongInput(f"{fingerprint} was revoked at {signer.valid_before:%Y-%m-%d %H:%M}Z already")
    lines = []
    for line in regular_file.read(chosen).splitlines():
        mine = not line.lstrip().startswith("#") and signer.key.text in line
        lines.append(_revoked(line, moment) if mine else line)
    _write(chosen, "\n".join(lines) + "\n")
    return signer


def _revoked(line: str, moment: datetime) -> str:
    words = _WORD.findall(line)
    at = words.index(KIND)
    options = [o for o in words[1:at] for o in _options(o) if not o.lower().startswith("valid-before")]
    options.append(f'valid-before="{moment.astimezone(UTC):%Y%m%d%H%M%S}Z"')
    return " ".join([words[0], ",".join(options), *words[at:]])


def _write(chosen: Path, text: str) -> None:
    write_atomically(chosen, text)
    chosen.chmod(0o644)


def _parsed(line: str, place: str) -> Signer | None:
    words = _WORD.findall(line)
    at = next((n for n, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))), 0)
    if at < 1 or len(words) < at + 2:
        raise _wrong(place, "a line is: name, options, kind of key, key")
    facts: dict[str, str] = {}
    for word in words[1:at]:
        for option in _options(word):
            match = _OPTION.match(option)
            name = match["name"].lower() if match else ""
            if match is None or name not in ("namespaces", "valid-after", "valid-before"):
                raise _wrong(place, f"option {option[:60]} is not known")
            facts[name] = match["value"] or ""
    if "namespaces" in facts and NAMESPACE not in re.split(r"\s*,\s*", facts["namespaces"]):
        return None  # a key for something else: git, for example
    after, before = (_moment(facts[n], place) if n in facts else None for n in ("valid-after", "valid-before"))
    return Signer(words[0].strip('"'), public_key.parsed(words[at], words[at + 1], place=place), after, before)


def _options(word: str) -> list[str]:
    return [part for part in re.findall(r'(?:[^,"]|"[^"]*")+', word) if part]


def _moment(text: str, place: str) -> datetime:
    """Return the moment of valid-after or valid-before; without Z it is in this machine's zone, as for ssh."""
    if not _MOMENT.match(text):
        raise _wrong(place, f'"{text[:40]}" is no moment (YYYYMMDD[HHMM[SS]][Z])')
    digits = text.rstrip("Z").ljust(14, "0")
    try:
        plain = datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - the zone comes below
    except ValueError as exc:
        raise _wrong(place, f'"{text}" is no moment') from exc
    return plain.replace(tzinfo=UTC) if text.endswith("Z") else plain.astimezone(UTC)


def _wrong(place: str, why: str) -> WrongInput:
    return WrongInput(
        "could not read the signers",
        detail=f"{place}: {why}.",
        hint='A line is: name namespaces="pgrunbook" ssh-ed25519 AAAA... (see docs/records.md).',
    )

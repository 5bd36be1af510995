"""Secrets of a plan: what is frozen shows ``***`` in their place, and an HMAC by which it is known again.

The key of the HMAC lies in the state directory (``config.secret_key``), so that nobody who has the record can try
passwords against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pgrunbook.config import secret_key
from pgrunbook.errors import Refused
from pgrunbook.plan.plan import Change, HiddenText, Plan
from pgrunbook.sql import secrets, statements


def hidden(plan: Plan) -> Plan:
    """Return a plan whose secrets are masked; the same where it has none. Raises RecordFailed as ``secret_key``."""
    changes = tuple(map(_hidden, plan.changes))
    return plan if changes == plan.changes else plan.model_copy(update={"changes": changes})


def revealed(change: Change, texts: Iterable[tuple[str, str]]) -> Change:
    """Return a change with its secrets as the folder holds them; ``texts`` are its files' names and texts.

    Raises Refused where the key is not here, and where a secret is another one than when the plan was made.
    """
    if not change.secrets:
        return change
    check_key(change.migration, [one.hmac for one in change.secrets])
    known = {secrets.keyed(spelling): spelling for file, text in texts for spelling in _spellings(text, file)}
    body = change.model_dump()
    for one in reversed(change.secrets):
        if one.hmac not in known:
            raise _changed(change)
        _fill(body, one, known[one.hmac])
    found = Change.model_validate(body | {"secrets": ()})
    if any(secrets.fingerprint(step.sql) != step.sha256 for step in found.steps):
        raise _changed(change)
    return found


def check_key(migration: str, hashes: Iterable[str]) -> None:
    """See that what was hashed with a key can be hashed again. Raises Refused where it was another key."""
    names = {name for text in hashes if (name := secrets.key_of(text))}
    if not names:
        return
    key = secret_key.read()
    here = secret_key.name_of(key) if key else ""
    if names != {here}:
        is_there = f"holds key {here}" if here else "is not there"
        raise Refused(
            f"could not check the secrets of {migration}",
            detail=f"They were hashed with key {', '.join(sorted(names))}; {secret_key.path()} {is_there}.",
            hint="Put the key file back, or copy it from the machine that made the plan; "
            "or start a new run here, whose plan is made with the key that is here.",
        )


def _hidden(change: Change) -> Change:
    found: list[HiddenText] = []
    body = _masked(change.model_dump(exclude={"secrets"}), "", found)
    return Change.model_validate(body | {"secrets": found}) if found else change


def _masked(value: Any, field: str, found: list[HiddenText]) -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner, f"{field}.{key}".lstrip("."), found) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, f"{field}.{place}", found) for place, inner in enumerate(value)]
    if not isinstance(value, str) or not secrets.spans(value):
        return value
    text, end = "", 0
    for span in secrets.spans(value):
        text += value[end : span.start]
        hashed = secrets.keyed(value[span.start : span.end])
        found.append(HiddenText(field=field, at=len(text), mask=span.mask, hmac=hashed))
        text, end = text + span.mask, span.end
    return text + value[end:]


def _fill(body: Any, one: HiddenText, secret: str) -> None:
    *path, last = [int(part) if part.isdecimal() else part for part in one.field.split(".")]
    for part in path:
        body[part] = list(body[part]) if isinstance(body[part], tuple) else body[part]
        body = body[part]
    body[last] = body[last][: one.at] + secret + body[last][one.at + len(one.mask) :]


def _spellings(text: str, file: str) -> Iterator[str]:
    """Give the secrets of a file as they are spelled there, and as what was made of its statements may spell them."""
    for part in (text, *(statement.sql for statement in statements.parse(text, file))):
        for span in secrets.spans(part):
            yield part[span.start : span.end]
            yield span.value
            yield span.value.replace("'", "''")
            yield span.value.replace("\\", "\\\\").replace("'", "''")


def _changed(change: Change) -> Refused:
    return Refused(
        f"a secret of {change.migration} is not the one that the plan was made with",
        detail="The plan holds an HMAC of each secret, and the text in the migrations folder has another one.",
        hint="Put the file back as it was, or start a new run, whose plan is made of the new text.",
    )

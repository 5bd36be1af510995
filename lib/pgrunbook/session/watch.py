"""A watch over a server: looks whose numbers are kept, concerns and thresholds that are noted, and what these do.

The monitor notebook and command use it, and the runner beside a release.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from pgrunbook.config import regular_file
from pgrunbook.config.targets import Target, Threshold
from pgrunbook.database import control, vitals
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import LEASE_S, Command
from pgrunbook.database.own_work import Paces
from pgrunbook.database.sqlstate import said
from pgrunbook.database.vitals import Concern, Urgency, Vitals
from pgrunbook.errors import RunbookError
from pgrunbook.record import files
from pgrunbook.session.webhook import Webhook

SAMPLES = "samples.jsonl"
COMMANDS = (Command.PAUSE, Command.ABORT)


@dataclass
class SeenConcern:
    """A concern over time: when it was seen first and last, and how often."""

    concern: Concern
    first: datetime
    last: datetime
    times: int = 1


@dataclass
class _Alarm:
    """A threshold over time: since when its number is above, whether it has fired, when its command was given last."""

    since: datetime | None = None
    fired: bool = False
    asked_at: float = 0.0


@dataclass
class ServerWatch:
    """Looks again and again at a target; ``note`` gets events as a journal does, ``folder`` keeps the numbers.

    With ``acts`` thresholds call the webhook, and give commands to batches; without it they are noted only.
    ``samples`` are the numbers so far, where they are kept; ``known`` the concerns; ``given`` the commands.
    """

    target: Target
    note: Callable[..., object]
    folder: Path | None = None
    acts: bool = True
    samples: list[dict[str, Any]] = field(default_factory=list)
    known: dict[tuple[str, str], SeenConcern] = field(default_factory=dict)
    given: set[Command] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Raises WrongInput where a threshold calls a webhook whose address is not there."""
        self._alarms = [(one, _Alarm()) for one in self.target.thresholds]
        url = self.target.webhook() if self.acts else None
        self._webhook = Webhook(url, self.note) if url else None
        self._paces = Paces()

    def look(self, conn: Connection) -> Vitals:
        """Look once, keep its numbers, note what is new, and do what thresholds say.

        Raises psycopg's errors where the connection is lost, RecordFailed where nothing can be written.
        """
        conn.prepare_threshold = 1  # the same questions again and again: to plan them was half of their cost
        seen = vitals.look(conn, self._paces)
        numbers = seen.numbers()
        if self.folder is not None:
            self.samples.append(numbers)
            files.append_line(self.folder / SAMPLES, json.dumps(numbers))
        found = vitals.concerns(seen)
        for one in found:
            self._note_concern(one, seen.at)
        for threshold, alarm in self._alarms:
            self._judge(conn, threshold, alarm, numbers, found)
        return seen

    def close(self) -> None:
        """End the watch: what the webhook has not got yet is posted, for some seconds at most."""
        if self._webhook is not None:
            self._webhook.close()

    def _note_concern(self, one: Concern, at: datetime) -> None:
        """Note a concern once; what is only longer there is the same."""
        if (there := self.known.get(one.key)) is not None:
            there.concern, there.last, there.times = one, at, there.times + 1
            return
        self.known[one.key] = SeenConcern(one, at, at)
        self.note("concern", urgency=one.urgency.name.lower(), what=one.what, detail=one.detail, todo=one.todo)

    def _judge(
        self, conn: Connection, one: Threshold, alarm: _Alarm, numbers: dict[str, Any], found: Sequence[Concern]
    ) -> None:
        value, at = numbers[one.number], datetime.fromisoformat(numbers["at"])
        if value is None or value <= one.above:
            alarm.since = None
            if alarm.fired:
                alarm.fired = False
                self._over(conn, one)
            return
        alarm.since = alarm.since or at
        if (at - alarm.since).total_seconds() < one.for_s:
            return
        is_new, alarm.fired = not alarm.fired, True
        if is_new:
            self._fire(one, value, found)
        if self.acts and (is_new or time.monotonic() - alarm.asked_at > LEASE_S / 3):
            alarm.asked_at = time.monotonic()
            self._command(one, lambda command: self._ask(conn, command, f"{_told(one)}: it is {value:,.10g}"))

    def _ask(self, conn: Connection, command: Command, reason: str) -> None:
        control.ask(conn, command, reason)
        self.given.add(command)

    def _fire(self, one: Threshold, value: float, found: Sequence[Concern]) -> None:
        self.note("threshold", number=one.number, value=value, above=one.above, for_s=one.for_s, does=list(one.does))
        if self._webhook is not None and "webhook" in one.does:
            urgent = [f" {c.what}: {c.todo}." for c in found if c.urgency is Urgency.NOW][:1]
            does = [f" Batches are asked to {command}." for command in COMMANDS if command in one.does]
            told = "".join([*does, *urgent])
            self._webhook.send(f"{self.target.name}: {_told(one)}: it is {value:,.10g}.{told}")

    def _over(self, conn: Connection, one: Threshold) -> None:
        self.note("threshold-over", number=one.number, above=one.above)
        if self._webhook is not None and "webhook" in one.does:
            self._webhook.send(f"{self.target.name}: over: {_told(one)}.")
        others = [other for other, alarm in self._alarms if alarm.fired and "pause" in other.does]
        if self.acts and "pause" in one.does and not others:
            self._command(one, lambda _: control.withdraw(conn))

    def _command(self, one: Threshold, give: Callable[[Command], None]) -> None:
        """Give the commands of a threshold; one that cannot be given is noted, and the watch goes on."""
        for command in COMMANDS:
            if command not in one.does:
                continue
            try:
                give(command)
            except psycopg.Error as exc:
                self.note("command-failed", command=command, number=one.number, detail=said(exc))
            except RunbookError as exc:
                self.note("command-failed", command=command, number=one.number, detail=" ".join(exc.lines()))


def kept_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the numbers of the looks that a run's folder keeps, oldest first; a line that a crash cut off is none.

    Raises WrongInput for a file that cannot be read.
    """
    path = folder / SAMPLES
    lines = regular_file.read_bytes(path).split(b"\n")[:-1] if regular_file.is_there(path) else []
    return [json.loads(line) for line in lines if line.endswith(b"}")]


def _told(one: Threshold) -> str:
    lasting = f" for {one.for_s:,.10g} s" if one.for_s else ""
    return f"{one.number.replace('_', ' ')} above {one.above:,.10g}{lasting}"

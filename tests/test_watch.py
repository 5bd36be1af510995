"""A watch: its thresholds fire, call the webhook, and give commands that batches obey; nothing stalls or fails it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args
from urllib.request import urlopen

import psycopg
import pytest

from acting import wait_until
from conftest import ROOT, do
from pgrunbook.app.metrics import HELP, Metrics
from pgrunbook.config.targets import LookNumber, Target
from pgrunbook.database import control
from pgrunbook.database.connection import connect
from pgrunbook.database.control import Command, Order
from pgrunbook.database.vitals import look
from pgrunbook.errors import WrongInput
from pgrunbook.session import webhook
from pgrunbook.session.watch import ServerWatch
from pgrunbook.session.webhook import Webhook
from test_vitals import NOTHING

Project = Callable[..., Target]
Run = Callable[..., tuple[int, str, str]]
HOOK = "PGRUNBOOK_TEST_HOOK"


class Notes(list[dict[str, Any]]):
    """Events as a journal gets them."""

    def __call__(self, event: str, **facts: object) -> None:
        """Take an event."""
        self.append({"event": event, **facts})

    def of(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names."""
        return [one for one in self if one["event"] in names]


class Chat(ThreadingHTTPServer):
    """A chat's webhook: keeps what is posted, answers with the next of ``answers``; 0 is to hang."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.posted: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Its address, with a secret in it as chats have."""
        return f"http://127.0.0.1:{self.server_port}/services/T0/s3cr3tpart"


class Post(BaseHTTPRequestHandler):
    """One post."""

    server: Chat

    def do_POST(self) -> None:
        """Keep it, and answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(json.loads(body))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if not answer:
            self.server.over.wait(30)
            return
        self.send_response(answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    """A webhook whose address is in the environment."""
    with Chat() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(HOOK, server.url)
        monkeypatch.setattr(webhook, "PAUSE_S", 0.01)
        monkeypatch.setattr(webhook, "TIMEOUT_S", 0.2)
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@contextmanager
def waiting(target: Target) -> Iterator[None]:
    """One session waits for another's lock."""
    with psycopg.connect(**target.conninfo()) as head, psycopg.connect(**target.conninfo()) as waiter:
        head.execute("LOCK t")

        def wait() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                waiter.execute("SELECT FROM t")

        thread = threading.Thread(target=wait)
        thread.start()
        yield
        waiter.cancel_safe()
        thread.join()


def test_threshold_fires_once_commands_are_renewed_and_end_with_it(project: Project, chat: Chat) -> None:
    """In the journal and the chat once; the batches are asked to pause as long as it lasts, and to go on then."""
    rule = {"number": "waiting", "above": 0, "does": ["webhook", "pause"]}
    target = project(folder={}, thresholds=[rule], webhook_from=HOOK)
    do(target, "CREATE TABLE t (id int)")
    notes = Notes()
    watch = ServerWatch(target, notes)
    with connect(target) as conn:
        watch.look(conn)
        assert (notes.of("threshold"), control.standing(conn)) == ([], None)
        with waiting(target):
            wait_until(lambda: watch.look(conn).waiting)
            watch.look(conn)
            assert control.standing(conn) == Order(Command.PAUSE, "waiting above 0: it is 1", "postgres")
        wait_until(lambda: not watch.look(conn).waiting)
        assert control.standing(conn) is None
    watch.close()
    (fired,) = notes.of("threshold")
    assert (fired["number"], fired["value"], fired["does"]) == ("waiting", 1, ["webhook", "pause"])
    assert len(notes.of("threshold-over")) == 1
    assert watch.given == {Command.PAUSE}
    first, second = (one["text"] for one in chat.posted)
    assert first.startswith("demo: waiting above 0: it is 1. Batches are asked to pause.")
    assert second == "demo: over: waiting above 0."


def test_threshold_fires_only_when_it_lasts(project: Project) -> None:
    """What is above for a moment is none; and nothing is commanded where it only warns, or does not act."""
    warns = {"number": "connections", "above": 0, "for_s": 0.1}
    rules = [warns, {"number": "connections", "above": 0, "does": "abort"}]
    target = project(folder={}, thresholds=rules)
    notes = Notes()
    watch = ServerWatch(target, notes, acts=False)
    with connect(target) as conn:
        watch.look(conn)
        assert [one["does"] for one in notes.of("threshold")] == [["abort"]]
        time.sleep(0.11)
        watch.look(conn)
        assert [one["does"] for one in notes.of("threshold")] == [["abort"], ["warn"]]
        assert control.standing(conn) is None
    watch.close()


def test_number_that_cannot_be_seen_is_not_above(project: Project) -> None:
    """No standby is no lag."""
    target = project(folder={}, thresholds=[{"number": "lag_bytes", "above": 0}])
    notes = Notes()
    with connect(target) as conn:
        ServerWatch(target, notes).look(conn)
    assert notes.of("threshold") == []


def test_command_that_cannot_be_given_is_noted_and_the_watch_goes_on(project: Project) -> None:
    """A replica, a role without the right: the reason is in the journal."""
    target = project(folder={}, thresholds=[{"number": "connections", "above": 0, "does": "pause"}])
    notes = Notes()
    watch = ServerWatch(target, notes)
    with connect(target) as conn:
        conn.execute("SET default_transaction_read_only = on")
        assert watch.look(conn).connections["used"] >= 1
    (failed,) = notes.of("command-failed")
    assert failed["command"] == "pause"
    assert "read-only transaction" in failed["detail"]


def test_webhook_is_tried_again_and_its_address_is_never_told(chat: Chat) -> None:
    """A chat that fails twice gets it at the third attempt; a secret in the text is masked."""
    chat.answers = [500, 503]
    notes = Notes()
    hook = Webhook(chat.url, notes)
    hook.send("ALTER ROLE app PASSWORD 'hunter22x'")
    hook.close()
    assert notes == [{"event": "webhook-called", "text": "ALTER ROLE app PASSWORD 'hunter22x'", "attempt": 3}]
    assert len(chat.posted) == 3
    assert "hunter22x" not in chat.posted[0]["text"]
    chat.answers = [404, 404, 404]
    hook = Webhook(chat.url, notes)
    hook.send("b")
    hook.close()
    assert notes[-1] == {"event": "webhook-failed", "text": "b", "why": "it answers 404, 3 times"}
    assert "s3cr3tpart" not in str(notes)


def test_webhook_that_hangs_stalls_nobody(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending returns at once, the end waits for some time only, and what was lost is noted."""
    monkeypatch.setattr(webhook, "MOST_WAITING", 2)
    chat.answers = [0] * 9
    notes = Notes()
    hook = Webhook(chat.url, notes)
    began = time.monotonic()
    for number in range(5):
        hook.send(f"message {number}")
    assert time.monotonic() - began < 0.1
    hook.close(wait_s=0.1)
    assert time.monotonic() - began < 1
    assert {one["why"] for one in notes} == {"2 messages wait already", "it had not answered 0 s after the end"}
    wait_until(lambda: any("it cannot be reached (TimeoutError), 3 times" in str(one) for one in notes))


def test_address_of_a_webhook_is_asked_for_before_anything_begins(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing, or none of the web: file:// reads files."""
    target = project(folder={}, thresholds=[{"number": "waiting", "above": 0, "does": "webhook"}], webhook_from=HOOK)
    with pytest.raises(WrongInput) as caught:
        ServerWatch(target, Notes())
    assert str(caught.value) == (
        'could not find the webhook of target "demo"\n'
        f"Detail: The environment variable {HOOK} is not set.\n"
        "State: Nothing changed in the database.\n"
        'Hint: Set it for this process, or take "webhook" out of the target\'s thresholds.'
    )
    monkeypatch.setenv(HOOK, "file:///etc/passwd")
    with pytest.raises(WrongInput, match="could not find the webhook"):
        ServerWatch(target, Notes())


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"number": "cpu", "above": 1}, "thresholds.0.number"),
        ({"number": "waiting", "above": -1}, "thresholds.0.above"),
        ({"number": "waiting", "above": 1, "for_s": -1}, "thresholds.0.for_s"),
        ({"number": "waiting", "above": 1, "does": "kill"}, "thresholds.0.does"),
        ({"number": "waiting"}, "thresholds.0.above"),
        ({"number": "waiting", "above": 1, "does": "webhook"}, "webhook_from names no environment variable"),
    ],
)
def test_threshold_that_is_wrong_is_refused(project: Project, rule: dict[str, object], told: str) -> None:
    """Its place is named."""
    with pytest.raises(WrongInput) as caught:
        project(folder={}, thresholds=[rule])
    assert told in str(caught.value)


def test_every_number_of_a_look_has_a_threshold_and_a_metric() -> None:
    """None is forgotten, and none is there that a look does not have."""
    numbers = set(NOTHING.numbers()) - {"at"}
    assert set(get_args(LookNumber)) == numbers - {"took_ms"}
    assert set(HELP) == numbers


def test_metrics_are_served_for_prometheus_on_the_loopback(project: Project) -> None:
    """Each number by target; what cannot be seen is NaN; a port that is taken is refused."""
    target = project(folder={})
    metrics = Metrics("demo", 0)
    try:
        with connect(target) as conn:
            seen = look(conn)
        metrics.set(seen)
        with urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        with pytest.raises(WrongInput, match=f"could not listen on 127.0.0.1, port {metrics.port}"):
            Metrics("demo", metrics.port)
    finally:
        metrics.close()
    assert f'pgrunbook_connections{{target="demo"}} {float(seen.connections["used"])}' in text
    assert 'pgrunbook_lag_bytes{target="demo"} NaN' in text
    assert 'pgrunbook_concerns{target="demo",urgency="now"} 0.0' in text


@pytest.mark.slow
def test_command_tells_what_fired_with_the_look(project: Project, command: Run) -> None:
    """As text and as JSON; one look does nothing, several ask the batches to pause."""
    target = project(folder={}, thresholds=[{"number": "connections", "above": 0, "does": "pause"}])
    code, out, _ = command("monitor", "--target", "demo", "--once")
    assert code == 0
    assert "threshold: number connections, value" in out
    with connect(target) as conn:
        assert control.standing(conn) is None
        code, out, _ = command("monitor", "--target", "demo", "--json", "--interval", "0.2", "--for", "0.5")
        (order,) = [control.standing(conn)]
    told = [one for line in out.splitlines() for one in json.loads(line)["events"]]
    assert [one["event"] for one in told] == ["threshold"], "once, however many looks"
    assert order is not None
    assert order.command is Command.PAUSE


def test_command_tells_what_became_of_the_webhook_after_its_last_look(
    project: Project, command: Run, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is retried while nobody looks any more: that it failed is told all the same."""
    monkeypatch.setattr(webhook, "PAUSE_S", 0.2)
    chat.answers += [500] * webhook.ATTEMPTS
    rule = {"number": "connections", "above": 0, "does": "webhook"}
    project(folder={}, thresholds=[rule], webhook_from=HOOK)
    code, out, err = command("monitor", "--target", "demo", "--interval", "0.2", "--for", "0.1")
    assert (code, "webhook-failed" in out) == (0, False)
    assert err.startswith("webhook-failed: text demo: connections above 0: it is ")
    assert err.rstrip().endswith("why it answers 500, 3 times")


def test_dashboard_of_the_example_asks_for_every_metric_and_for_no_other() -> None:
    """examples/grafana/monitor.json joins what is served."""
    dashboard = json.loads((ROOT / "examples" / "grafana" / "monitor.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for one in panel["targets"]
        for name in re.findall(r"pgrunbook_(\w+)", one["expr"])
    }
    assert asked == {*HELP, "concerns", "looked_at"}

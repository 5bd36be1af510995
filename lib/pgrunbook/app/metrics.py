"""What monitor sees, for Prometheus: a number of each look, and how many concerns there are by urgency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgrunbook.errors import WrongInput

if TYPE_CHECKING:
    from pgrunbook.database.vitals import Vitals

HELP = {
    "took_ms": "what the look itself took, in milliseconds",
    "waiting": "sessions that wait for a lock",
    "longest_wait_s": "how long the first of them has waited, in seconds",
    "active": "client sessions that run a statement",
    "longest_statement_s": "how long the oldest of them has run, in seconds",
    "idle_in_transaction": "sessions idle in a transaction",
    "longest_idle_s": "how long the oldest of these transactions is open, in seconds",
    "connections": "client connections",
    "lag_bytes": "WAL that the standby furthest behind has not replayed",
    "kept_bytes": "WAL that one replication slot keeps at most",
    "dead_rows": "dead rows of the tables that have the most",
    "batch_rows_per_s": "rows that batches of pgrunbook change, by the second",
}


class Metrics:
    """An endpoint ``/metrics``; what cannot be seen is NaN, and ``pgrunbook_looked_at`` tells how old the rest is."""

    def __init__(self, target: str, port: int, address: str = "127.0.0.1") -> None:
        """Open the endpoint. Raises WrongInput where the port cannot be had."""
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._numbers = {
            name: Gauge(f"pgrunbook_{name}", told, ["target"], registry=registry).labels(target)
            for name, told in HELP.items()
        }
        self._concerns = Gauge("pgrunbook_concerns", "concerns by urgency", ["target", "urgency"], registry=registry)
        self._looked_at = Gauge(
            "pgrunbook_looked_at", "when it was looked at last, in seconds since 1970", ["target"], registry=registry
        ).labels(target)
        self._target = target
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as exc:
            raise WrongInput(
                f"could not listen on {address}, port {port}",
                detail=f"{exc.strerror or exc}.",
                hint="Name another --metrics-port, or end what listens there.",
            ) from exc

    @property
    def port(self) -> int:
        """The port, also where 0 asked for any."""
        return self._server.server_port

    def set(self, seen: Vitals) -> None:
        """Take the numbers of a look."""
        from pgrunbook.database.vitals import Urgency, concerns

        numbers = seen.numbers()
        for name, gauge in self._numbers.items():
            value = numbers[name]
            gauge.set(float("nan") if value is None else float(value))
        urgencies = [one.urgency for one in concerns(seen)]
        for urgency in Urgency:
            self._concerns.labels(self._target, urgency.name.lower()).set(urgencies.count(urgency))
        self._looked_at.set(seen.at.timestamp())

    def close(self) -> None:
        """Close the endpoint."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

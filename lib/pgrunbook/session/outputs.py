"""What a notebook's kernel sends to be shown and saved: masked before it leaves the kernel, whoever saves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgrunbook.record import door

SHOWN = frozenset(
    ("stream", "display_data", "update_display_data", "execute_result", "error", "execute_reply", "execute_input")
)
GUARDED = "masks_secrets"  # marks our way of sending
RECORDED = frozenset(
    ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")
)  # what a notebook shows of it

Listener = Callable[[str, Any, str], None]
_listeners: list[Listener] = []  # one: the recorder of this kernel


def listen(listener: Listener | None) -> None:
    """Call ``listener`` with kind, masked content and request of all that is shown from now on, instead of another."""
    _listeners[:] = [listener] if listener is not None else []


def guard() -> None:
    """Mask the secrets in all that this kernel shows from now on; outside of a kernel nothing is shown."""
    from IPython import get_ipython

    session = getattr(getattr(get_ipython(), "kernel", None), "session", None)
    if session is None or getattr(session.send, GUARDED, False):
        return
    send = session.send

    def masked_send(stream: Any, message: Any, content: Any = None, *given: Any, **options: Any) -> Any:
        if isinstance(message, str):
            kind, parent = message, given[0] if given else options.get("parent")
            content = shown = door.masked_output(content) if kind in SHOWN else content
        else:
            kind, parent = message["header"]["msg_type"], message["parent_header"]
            shown = door.masked_output(message["content"]) if kind in SHOWN else message["content"]
            message = {**message, "content": shown}
        for listener in _listeners if kind in RECORDED else ():
            listener(kind, shown, _request(parent))
        return send(stream, message, content, *given, **options)

    setattr(masked_send, GUARDED, True)
    session.send = masked_send


def _request(parent: Any) -> str:
    """Return the id of the request that a message answers: parents come as messages and as headers."""
    header = (parent or {}).get("header", parent) or {}
    return str(header.get("msg_id", ""))

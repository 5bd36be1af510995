"""What a notebook's kernel sends to be shown and saved: masked before it leaves the kernel, whoever saves it."""

from __future__ import annotations

from typing import Any

from pgrunbook.record import door

SHOWN = frozenset(
    ("stream", "display_data", "update_display_data", "execute_result", "error", "execute_reply", "execute_input")
)
GUARDED = "masks_secrets"  # marks our way of sending


def guard() -> None:
    """Mask the secrets in all that this kernel shows from now on; outside of a kernel nothing is shown."""
    from IPython import get_ipython

    session = getattr(getattr(get_ipython(), "kernel", None), "session", None)
    if session is None or getattr(session.send, GUARDED, False):
        return
    send = session.send

    def masked_send(stream: Any, message: Any, content: Any = None, *given: Any, **options: Any) -> Any:
        if isinstance(message, str):
            content = door.masked_output(content) if message in SHOWN else content
        elif message["header"]["msg_type"] in SHOWN:
            message = {**message, "content": door.masked_output(message["content"])}
        return send(stream, message, content, *given, **options)

    setattr(masked_send, GUARDED, True)
    session.send = masked_send

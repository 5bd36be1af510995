"""What a person tells the loops of a run that is at work: from another terminal, or from a notebook."""

from __future__ import annotations

from typing import Literal, get_args

from pgrunbook.database import control
from pgrunbook.database.connection import connect
from pgrunbook.database.control import Command
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.session import naming

Word = Literal["pause", "resume", "faster", "slower", "stop"]
TIMES = 1.5
STOP_LEASE_S = 60.0  # an abort is for the session that is at work: each of its batches is shorter


def tell(run_id: str, word: str, reason: str = "") -> str:
    """Let the loops of a run pause, resume, work faster or slower, or stop; return what holds now, as a sentence.

    ``run_id`` is its id, or the end of it. A pause holds until it is resumed; a run that was stopped goes on as any
    that was interrupted.

    Raises WrongInput for another word or run, and for one that is done; Unreachable where the run's target does not
    answer, and psycopg's errors.
    Locks: RowExclusiveLock on a table of schema pgrunbook, for a moment.
    """
    if word not in get_args(Word):
        raise WrongInput(f'"{word}" cannot be told to a run', hint=f"It is one of: {', '.join(get_args(Word))}.")
    run = runs.find(run_id)
    if run.status is Status.DONE:
        raise WrongInput(
            f"run {run.run_id} is done: nothing of it is at work", hint="See the runs with: pgrunbook runs"
        )
    why = reason or "a person asks for it"
    with connect(naming.target(run.target), purpose=f"throttle {run.run_id}") as conn:
        match word:
            case "pause":
                control.ask(conn, Command.PAUSE, why, run_id=run.run_id, lease_s=None)
                return f"{run.run_id}: its batches pause until: pgrunbook throttle {run.run_id} resume"
            case "stop":
                control.ask(conn, Command.ABORT, why, run_id=run.run_id, lease_s=STOP_LEASE_S)
                return f"{run.run_id}: it stops behind its next batch; it goes on with: {run.next_try}"
            case "resume":
                control.withdraw(conn, run_id=run.run_id)
                return f"{run.run_id}: its batches go on"
            case _:
                pace = control.change_pace(conn, run.run_id, TIMES if word == "faster" else 1 / TIMES)
                order = control.standing(conn, run_id=run.run_id)
                is_paused = order is not None and order.command is Command.PAUSE
                says = f"{run.run_id}: its batches work at {pace:.2f} times the pace that they choose"
                return f"{says}, once they are resumed: they are paused" if is_paused else says

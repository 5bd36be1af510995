"""A branch with the target's data that is made while something else is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do, rows
from pgrunbook.branches import copy_ahead
from pgrunbook.branches.copy_ahead import CopyAhead
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused
from test_data_branch import ENOUGH, branches

Project = Callable[..., Target]

COUNT = "SELECT count(*)::int FROM t"


@pytest.mark.slow
def test_a_copy_is_made_ahead_taken_once_and_gone(project: Project) -> None:
    """With its twin, as it was when it was begun; who asks again gets a new one."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    with copy_ahead.begun(target, 1, most_bytes=ENOUGH, goes_on=True) as ahead:
        assert ahead is not None
    with ahead.take() as first:
        assert first.twin is not None
        assert rows(first.safe, COUNT) == rows(first.twin.safe, COUNT) == [(1,)]
    assert branches() == []
    do(target, "INSERT INTO t VALUES (2)")
    with ahead.take() as second:
        assert rows(second.safe, COUNT) == [(2,)]
    assert branches() == []


@pytest.mark.slow
def test_a_copy_that_nobody_takes_is_removed(project: Project) -> None:
    """After an error in what is done meanwhile; and what hinders the copy is told to who takes it."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    with pytest.raises(ZeroDivisionError), copy_ahead.begun(target, 1, most_bytes=ENOUGH, goes_on=True):
        assert 1 / 0
    assert branches() == []
    ahead = CopyAhead(target, most_bytes=1)
    with pytest.raises(Refused, match="larger than allowed"), ahead.take():
        pass
    assert branches() == []


@pytest.mark.parametrize(("size_bytes", "goes_on"), [(copy_ahead.MOST_BYTES + 1, True), (1, False)])
def test_a_large_copy_or_one_that_somebody_waits_for_is_not_begun(
    project: Project, size_bytes: int, *, goes_on: bool
) -> None:
    """To give it up would take long, or it would be old."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    with copy_ahead.begun(target, size_bytes, most_bytes=ENOUGH, goes_on=goes_on) as ahead:
        assert ahead is None
    assert branches() == []

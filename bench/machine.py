"""What a result was measured on: the machine, what else ran on it, and every version."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.site import Site
from stack.java import find_java, java_version
from stack.ports import Name

LIBRARIES = (
    "aiokafka", "asyncpg", "clickhouse-connect", "cramjam", "faststream", "pydantic", "uvloop",
)  # fmt: skip


def machine() -> dict[str, str]:
    """The processor, its cores, the memory, the system, and how busy it was before the run."""
    load_1, load_5, _ = psutil.getloadavg()
    return {
        "processor": _processor(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before the run": f"{load_1:.1f} (1 min), {load_5:.1f} (5 min)",
    }


def versions(site: Site) -> dict[str, str]:
    """The servers of the local stack and the libraries that move events."""
    servers = {state.name: state.version for state in site.stack.status()}
    return {
        "Apache Kafka": f"{servers[Name.KAFKA]} on Java {java_version(find_java())}",
        "PostgreSQL": servers[Name.POSTGRES],
        "ClickHouse engine": f"chdb-core {servers[Name.CLICKHOUSE]}",
        "Python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())

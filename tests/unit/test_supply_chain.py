"""What the locks name can be listed, and looked up among known vulnerabilities."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parents[2]
VENV = os.path.relpath(sys.prefix, ROOT)  # make takes no name with a space in it


def make(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs `make` in the environment that runs the tests, without installing anything."""
    installed = f"{VENV}/.installed"
    return subprocess.run(
        ["make", "-o", installed, f"VENV={VENV}", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def locked(name: str) -> set[tuple[str, str]]:
    """Names and versions that a lock holds, for whatever machine."""
    found = re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    assert found
    return set(found)


def test_the_bill_of_materials_names_what_the_image_installs(tmp_path: Path) -> None:
    place = tmp_path / "bill" / "sbom.json"
    done = make("sbom", f"SBOM={place}")
    assert done.returncode == 0, done.stdout + done.stderr
    bill = json.loads(place.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    parts = {(part["name"], part["version"]) for part in bill["components"]}
    assert parts == locked("requirements-image.lock")
    for part in bill["components"]:
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"
        assert any(place["hashes"] for place in part["externalReferences"])


class _Osv(ThreadingHTTPServer):
    """A stand-in of OSV: answers queries, and knows of one vulnerability or of none."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: set[tuple[str, str]] = set()
        self.bad = ""


class _Answer(BaseHTTPRequestHandler):
    server: _Osv

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = query["package"]["name"]
        self.server.asked.add((name, query["version"]))
        package = {"name": name, "ecosystem": "PyPI"}
        known = {"id": "PYSEC-1", "summary": "Bad", "affected": [{"package": package}]}
        body = json.dumps({"vulns": [known]} if name == self.server.bad else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def osv() -> Iterator[_Osv]:
    with _Osv() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_everything_locked_is_looked_up_and_a_vulnerability_is_named(
    osv: _Osv, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{osv.server_port}/v1/query"
    done = make("audit", PIP_AUDIT_OSV_URL=address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert osv.asked <= locked("requirements.lock")
    assert {name for name, _ in osv.asked} >= {"aiokafka", "asyncpg", "fastapi", "pytest"}
    osv.bad = "aiokafka"
    lock = tmp_path / "one.lock"
    lock.write_text(f"aiokafka==0.14.0 --hash=sha256:{'0' * 64}\n")
    done = make("audit", f"LOCK={lock}", PIP_AUDIT_OSV_URL=address)
    assert done.returncode != 0
    assert "PYSEC-1" in done.stdout + done.stderr


def test_without_the_service_it_fails_and_says_so() -> None:
    done = make("audit", PIP_AUDIT_OSV_URL="http://127.0.0.1:9/v1/query")
    assert done.returncode != 0
    assert "127.0.0.1" in done.stderr

"""`tollgate schemas export`: writes what is missing, and with --check says what is old."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adapters.failures import Failure
from schemas.json_schema import documents
from tollgate.schemas_command import register


def run(*arguments: str) -> str:
    """What the command prints; its failure is raised as it is."""
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["schemas", "export", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_writes_every_document_and_then_finds_nothing_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "json"
    assert run(str(folder)).count("written") == len(documents())
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == documents()
    assert run(str(folder)).count("unchanged") == len(documents())
    assert run(str(folder), "--check").count("unchanged") == len(documents())


def test_check_names_the_old_file_and_writes_nothing(tmp_path: Path) -> None:
    run(str(tmp_path))
    old = tmp_path / "usage_event.v1.json"
    old.write_text("{}", encoding="utf-8")
    with pytest.raises(Failure, match=r"usage_event\.v1\.json is not up to date: run tollgate"):
        run(str(tmp_path), "--check")
    assert old.read_text(encoding="utf-8") == "{}"


def test_check_of_an_empty_folder_fails(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="is not up to date"):
        run(str(tmp_path / "none"), "--check")

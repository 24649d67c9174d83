"""The OpenAPI document: FastAPI's, with what it does not know about our errors."""

from typing import Any

from fastapi import FastAPI

from api.problems import MEDIA_TYPE, ProblemDocument

_PROBLEM = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}


def describe(app: FastAPI) -> None:
    """Makes the app's document say that errors are problem documents, by their media type."""
    written = app.openapi

    def document() -> dict[str, Any]:
        found = app.openapi_schema or written()
        for path in found["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    _as_problem(response)
        app.openapi_schema = found
        return found

    app.openapi = document  # type: ignore[method-assign]


def _as_problem(response: dict[str, Any]) -> None:
    content = response.get("content", {})
    if content.get("application/json", {}).get("schema") == _PROBLEM:
        content[MEDIA_TYPE] = content.pop("application/json")

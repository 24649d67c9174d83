"""Errors as `application/problem+json` (RFC 9457): one clear sentence, a closed set of kinds."""

from enum import StrEnum
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from adapters.failures import Failure
from adapters.idempotency import KeyConflict
from adapters.patience import Unavailable
from adapters.postgres import POISON
from core.holds import Denial

MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:tollgate:problem:"


class Kind(StrEnum):
    """What went wrong, for programs."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    KEY_CONFLICT = "idempotency-key-conflict"
    DENIED = "denied"
    CONFLICT = "conflict"
    TOO_LARGE = "too-large"
    TOO_MANY = "too-many-requests"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class ProblemDocument(BaseModel):
    """The body of every error."""

    type: str = Field(examples=["urn:tollgate:problem:denied"])
    title: str = Field(examples=["Insufficient credits"])
    status: int = Field(examples=[402])
    detail: str = Field("", examples=["12.5 credits can be promised"])
    code: str = Field("", examples=["insufficient_credits"])
    errors: list[dict[str, Any]] | None = Field(None, description="which fields, for `invalid`")


class Problem(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer that is an error; the handler makes the document."""

    def __init__(
        self,
        status: int,
        kind: Kind,
        title: str,
        detail: str = "",
        *,
        code: str = "",
        headers: dict[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.code = code
        self.headers = headers
        self.errors = errors


_STATUS_OF_DENIAL = {
    Denial.UNKNOWN_ACCOUNT: 404,
    Denial.NO_SUCH_HOLD: 404,
    Denial.INSUFFICIENT: 402,
    Denial.BELOW_MINIMUM: 402,
    Denial.CAP: 402,
    Denial.TOO_MANY_HOLDS: 429,
    Denial.NOT_OPEN: 409,
    Denial.NOT_YOURS: 403,
    Denial.ID_TAKEN: 409,
    Denial.UNPRICED: 422,
}


def denied(denial: Denial, detail: str = "") -> Problem:
    """The gate's no: 402 when credits are missing, another 4xx for each of the other reasons."""
    status = _STATUS_OF_DENIAL[denial]
    kind = Kind.NOT_FOUND if status == 404 else Kind.DENIED
    headers = {"Retry-After": "1"} if status == 429 else None
    return Problem(status, kind, denial.meaning, detail, code=denial.value, headers=headers)


def not_found() -> Problem:
    """One answer for what is not there and what is not the caller's: it can not be told apart."""
    return Problem(404, Kind.NOT_FOUND, "Not found")


def handle_problems(app: FastAPI) -> None:
    """Every error that a route can raise becomes a problem document."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, problem: Problem) -> Response:
        return _document(
            problem.status, problem.kind, problem.title, problem.detail, problem.code,
            errors=problem.errors, headers=problem.headers,
        )  # fmt: skip

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return invalid(error, 422)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        kind = {404: Kind.NOT_FOUND, 413: Kind.TOO_LARGE}.get(error.status_code, Kind.REFUSED)
        headers = dict(error.headers) if error.headers else None
        return _document(error.status_code, kind, str(error.detail), headers=headers)

    @app.exception_handler(Unavailable)
    async def _unavailable(_: Request, __: Unavailable) -> Response:
        return _document(
            503, Kind.UNAVAILABLE, "The answer could not be established, so it is no",
            headers={"Retry-After": "1"},
        )  # fmt: skip

    @app.exception_handler(KeyConflict)
    async def _key(_: Request, __: KeyConflict) -> Response:
        title = "The Idempotency-Key was used for another request"
        return _document(409, Kind.KEY_CONFLICT, title)

    async def _poison(_: Request, __: Exception) -> Response:
        return _document(409, Kind.REFUSED, "The ledger refuses these figures")

    for poison in POISON:
        app.add_exception_handler(poison, _poison)

    @app.exception_handler(Failure)
    async def _failure(_: Request, error: Failure) -> Response:
        return _document(409, Kind.REFUSED, str(error))


def invalid(error: RequestValidationError, status: int) -> Response:
    """Which fields are not valid, and why; what was sent is not repeated."""
    fields = [
        {"place": [_readable(str(part)) for part in found["loc"]], "problem": found["msg"]}
        for found in error.errors()
    ]
    return _document(status, Kind.INVALID, "The request is not valid", errors=fields)


def _readable(text: str) -> str:
    """A name of a field may hold half of a surrogate pair, which UTF-8 does not."""
    return text.encode(errors="backslashreplace").decode()[:200]


def _document(
    status: int,
    kind: Kind,
    title: str,
    detail: str = "",
    code: str = "",
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    document = ProblemDocument(
        type=_TYPE + kind, title=title, status=status, detail=detail, code=code, errors=errors
    )
    return JSONResponse(
        document.model_dump(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE
    )

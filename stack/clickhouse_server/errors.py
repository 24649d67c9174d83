"""ClickHouse's errors as its HTTP interface reports them."""

import re

# `exceptionCodeToHTTPStatus` in ClickHouse's source; the numbers are its `errorCodeToName`'s.
# CANNOT_PARSE_..., ..._AST, SYNTAX_ERROR, TYPE_MISMATCH and their like: the request is wrong.
_BAD_REQUEST = frozenset(
    {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223}
    | {321, 376, 427, 441, 675, 676}
)
# UNKNOWN_TABLE, UNKNOWN_FUNCTION, UNKNOWN_SETTING and their like.
_NOT_FOUND = frozenset({46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511})
_STATUS = {
    48: 501,  # NOT_IMPLEMENTED
    76: 503,  # CANNOT_OPEN_FILE
    159: 408,  # TIMEOUT_EXCEEDED
    192: 403,  # UNKNOWN_USER
    193: 403,  # WRONG_PASSWORD
    194: 401,  # REQUIRED_PASSWORD
    209: 503,  # SOCKET_TIMEOUT
    229: 413,  # QUERY_IS_TOO_LARGE
    381: 411,  # HTTP_LENGTH_REQUIRED
    439: 503,  # CANNOT_SCHEDULE_TASK
    497: 403,  # ACCESS_DENIED
    512: 403,  # SET_NON_GRANTED_ROLE
    516: 403,  # AUTHENTICATION_FAILED
    779: 415,  # UNSUPPORTED_MEDIA_TYPE
}
_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")


class EngineError(Exception):
    """A statement failed: `code` is ClickHouse's error code, the text is in ClickHouse's form."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status that a ClickHouse server answers this error with."""
        if self.code in _STATUS:
            return _STATUS[self.code]
        if self.code in _BAD_REQUEST:
            return 400
        return 404 if self.code in _NOT_FOUND else 500


def error(code: int, name: str, message: str) -> EngineError:
    """An error that this process finds by itself, in the engine's form."""
    return EngineError(code, f"Code: {code}. DB::Exception: {message} ({name})")


def from_engine(text: str) -> EngineError:
    """The engine's own message as an error; without a code in it, 1002 (UNKNOWN_EXCEPTION)."""
    found = _CODE.search(text)
    if found is None:
        return error(1002, "UNKNOWN_EXCEPTION", text)
    return EngineError(int(found.group(1)), text[found.start() :])

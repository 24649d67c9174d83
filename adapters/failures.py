"""Failures that a person is told about in one line."""


class Failure(Exception):  # noqa: N818 - it is read by people: "Failure: port 19092 is taken"
    """Work cannot go on; the message is one clear line that says what to do about it.

    The command line prints it and exits with 1. Nothing catches it to go on.
    """


class Halt(Failure):
    """A stage refuses to go on, because going on could lose or double a charge.

    `reason` is one of the halt reasons of docs/operations.md, where the way on is described.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"halted ({reason}): {message}")
        self.reason = reason

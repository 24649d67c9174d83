"""The names of jobs, for whoever needs nothing else: a command's help answers without pydantic."""

from enum import StrEnum


class JobName(StrEnum):
    """What a scheduler can do: the closed set."""

    REFRESH = "refresh"
    RECONCILE = "reconcile"
    EXPIRE = "expire"
    AUDIT = "audit"
    PURGE = "purge"

"""Admins who use an account as its apps do: the audit log has what they changed."""

from adapters.admin_acts import Admin
from adapters.idempotency import Key
from api.callers import Caller, Role


def acting(caller: Caller, key: Key | None, reason: str = "") -> Admin | None:
    """The admin who acts, the idempotency key as the request's name; None for anybody else."""
    if caller.role is not Role.ADMIN:
        return None
    return Admin(caller.subject, reason, "" if key is None else key.key, caller.signer)

"""Which scope of an API key opens which group of routes. A group that is not here opens to none."""

from collections.abc import Sequence

from adapters.api_keys import Scope

# By the first tag of a route. A test asks that every route with callers has one of these.
SCOPE_OF_TAG = {
    "gate": Scope.GATE,
    "usage": Scope.USAGE,
    "accounts": Scope.ACCOUNTS,
    "purchases": Scope.PURCHASES,
    "provider-keys": Scope.PROVIDER_KEYS,
    "admin": Scope.ADMIN,
}


def opens(scopes: frozenset[str] | None, tags: Sequence[object]) -> bool:
    """Whether these scopes open a route with these tags; None is a caller without such limits."""
    if scopes is None:
        return True
    needed = SCOPE_OF_TAG.get(str(tags[0])) if tags else None
    return needed is not None and needed in scopes

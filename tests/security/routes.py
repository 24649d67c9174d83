"""Every operation of the API, read from its OpenAPI document, with a request that fits each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx2
from pydantic import SecretStr

from adapters.settings import Settings
from api.app import create_app
from tests.apis import SECRET

METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")


class Access(StrEnum):
    """Who may use an operation."""

    PUBLIC = "public"  # nobody in particular
    CALLER = "caller"  # whoever is authenticated; what it is about depends on who that is
    ACCOUNT = "account"  # the account of the path: its user, services, admins
    NAMED = "named"  # the same; the account is a field, or without it the user's own
    SELLER = "seller"  # services and admins, for the account of the path
    ADMIN = "admin"


# What the prefixes below do not say. A route that neither names is a route nobody thought about:
# the matrix fails until it has a line.
ROWS = {
    "GET /health": Access.PUBLIC,
    "GET /ready": Access.PUBLIC,
    "GET /api/health": Access.PUBLIC,
    "GET /api/v1/system/status": Access.PUBLIC,
    "POST /api/v1/login": Access.PUBLIC,  # only there with local_login
    "POST /api/auth/login": Access.PUBLIC,  # the same
    "GET /api/v1/me": Access.CALLER,
    "POST /api/v1/events": Access.CALLER,  # each event is judged by its subject
    "POST /api/v1/accounts/{account_id}/top-ups": Access.SELLER,
    "GET /api/users/me": Access.NAMED,
    "GET /api/credits/balance": Access.NAMED,
    "GET /api/credits/transactions": Access.NAMED,
    "GET /api/v1/credits/balance": Access.NAMED,
    "GET /api/v1/credits/transactions": Access.NAMED,
    "POST /api/credits/check": Access.NAMED,
    "POST /api/v1/credits/calculate-cost": Access.NAMED,
    "POST /api/v1/credits/deduct": Access.NAMED,
    "POST /api/credits/allocate": Access.ADMIN,
    "GET /api/user/credits/next-refresh": Access.NAMED,
    "GET /api/user/credits/refresh-history": Access.NAMED,
}
PREFIXES = {
    "/api/v1/accounts/{account_id}": Access.ACCOUNT,
    "/api/v1/admin/": Access.ADMIN,
    "/api/admin/": Access.ADMIN,
}
# Of fields that say the same, one is sent.
OTHERS = {"credits": ("requiredCredits", "usage", "percent"), "username": ("email",)}
# Where no field is needed alone, and one of two is.
NEEDED = {
    "POST /api/auth/login": {"username": "acme"},
    "POST /api/credits/check": {"credits": 1},
    "POST /api/v1/accounts/{account_id}/check": {"credits": 1},
}
# Fields that name an account where the path does not.
NAMING = ("user_id", "userId")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; `body` is the schema of its JSON body, resolved."""

    method: str
    path: str
    tags: tuple[str, ...]
    secured: bool
    parameters: tuple[dict[str, Any], ...]
    body: dict[str, Any] | None
    media_type: str

    @property
    def name(self) -> str:
        """As in ROWS."""
        return f"{self.method} {self.path}"

    @property
    def access(self) -> Access | None:
        """Who may use it; None when nobody has said."""
        if self.name in ROWS:
            return ROWS[self.name]
        return next((kind for start, kind in PREFIXES.items() if self.path.startswith(start)), None)

    def names(self, place: str) -> list[str]:
        """The parameters in the path, the query or the headers."""
        return [each["name"] for each in self.parameters if each["in"] == place]

    @property
    def naming(self) -> str | None:
        """The field of the query or the body that names an account."""
        known = {*self.names("query"), *(self.body or {}).get("properties", {})}
        return next((name for name in NAMING if name in known), None)

    def address(self, **values: str) -> str:
        """The path with these values, and samples where there are none, and the needed query."""
        path = self.path
        if self.naming and "account_id" in values:
            values = {self.naming: values["account_id"], **values}
        query = {}
        for each in self.parameters:
            value = values.get(each["name"], sample(each.get("schema", {}), each["name"]))
            if each["in"] == "path":
                path = path.replace("{" + each["name"] + "}", str(value))
            elif each["in"] == "query" and (each.get("required") or each["name"] in values):
                query[each["name"]] = str(value)
        return str(httpx2.URL(path, params=query)) if query else path

    def request(self, **changes: Any) -> dict[str, Any]:
        """The body as arguments of a client: a sample with these changes."""
        if self.body is None:
            return {}
        made = sample(self.body)
        changes = NEEDED.get(self.name, {}) | changes
        if isinstance(made, dict):
            spare = OTHERS.get(next((name for name in OTHERS if name in made), ""), ())
            made = {name: value for name, value in made.items() if name not in spare} | changes
        return {"json": made, "headers": {"Content-Type": self.media_type}}


def document() -> dict[str, Any]:
    """The OpenAPI document of the API with everything switched on."""
    settings = Settings(jwt_secret=SecretStr(SECRET), local_login=True)
    return create_app(settings).openapi()


def operations() -> list[Operation]:
    """All of them, in the order of the document."""
    described = document()
    schemas = described["components"]["schemas"]
    return list(_operations(described, schemas))


def _operations(described: dict[str, Any], schemas: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in described["paths"].items():
        for method, each in methods.items():
            content = each.get("requestBody", {}).get("content", {})
            media_type = next(iter(content), "application/json")
            schema = content.get(media_type, {}).get("schema")
            yield Operation(
                method.upper(),
                path,
                tuple(each.get("tags", ())),
                bool(each.get("security")),
                tuple(_resolved(one, schemas) for one in each.get("parameters", ())),
                None if schema is None else _resolved(schema, schemas),
                media_type,
            )


def _resolved(value: Any, schemas: dict[str, Any], depth: int = 0) -> Any:
    """The schema with its references put in."""
    if isinstance(value, list):
        return [_resolved(each, schemas, depth) for each in value]
    if not isinstance(value, dict) or depth > 12:
        return value
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return _resolved(schemas[name], schemas, depth + 1) | {
            key: each for key, each in value.items() if key != "$ref"
        }
    return {key: _resolved(each, schemas, depth) for key, each in value.items()}


def sample(schema: dict[str, Any], name: str = "") -> Any:
    """A value that fits: the first example, else the smallest thing of its type."""
    given = [*schema.get("examples", ()), schema.get("const"), schema.get("default")]
    given += schema.get("enum", ())
    found = next((value for value in given if value is not None), None)
    if found is not None:
        return found
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return sample(kinds[0], name) if kinds else _smallest(schema, name)


def _smallest(schema: dict[str, Any], name: str) -> Any:
    text = re.sub(r"[^a-z0-9]", "", name) or "x"
    if schema.get("format") == "date-time":
        text = "2030-01-01T00:00:00Z"
    wanted = {
        key: each
        for key, each in schema.get("properties", {}).items()
        if key in schema.get("required", ()) or each.get("examples")
    }
    return {
        "object": {key: sample(each, key) for key, each in wanted.items()},
        "array": [sample(schema.get("items", {}))] if "items" in schema else [],
        "integer": schema.get("minimum", 1),
        "number": schema.get("minimum", 1),
        "boolean": False,
    }.get(schema.get("type", ""), text)


def strings(schema: dict[str, Any]) -> list[str]:
    """The properties of a body that take text."""
    found = []
    for key, each in schema.get("properties", {}).items():
        kinds = [each, *each.get("anyOf", ())]
        if any(kind.get("type") == "string" for kind in kinds):
            found.append(key)
    return found

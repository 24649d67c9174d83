"""Tokens that are right but for what a test changes, and an identity provider to publish keys."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.settings import Settings
from tests.apis import SECRET

RSA_KEY = rsa.generate_private_key(65_537, 2_048)


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token of five minutes, with these changes; None takes one out."""
    now = datetime.now(UTC)
    made: dict[str, Any] = {"sub": "acme", "role": "user", "iss": "tollgate", "aud": "tollgate"}
    made["exp"] = now + timedelta(minutes=5)
    return {name: value for name, value in (made | changes).items() if value is not None}


def encoded(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A token with these claims and `headers`."""
    headers = changes.pop("headers", None)
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


class Provider:
    """A stand-in identity provider: it publishes the keys that it is given."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = json.dumps({"keys": provider.keys}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/jwks"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def publish(self, key: Any, kid: str, algorithm: str) -> None:
        """The public half of it, from the next question on."""
        kind = jwt.algorithms.RSAAlgorithm if algorithm == "RS256" else jwt.algorithms.ECAlgorithm
        made = json.loads(kind.to_jwk(key.public_key()))
        self.keys.append({**made, "kid": kid, "alg": algorithm, "use": "sig"})

    def close(self) -> None:
        """Ends the server and its thread."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def of(provider: Provider, algorithm: str = "RS256") -> Settings:
    """Settings that trust it, and wait for it as long as a busy machine makes it take."""
    return Settings(
        jwt_jwks_url=provider.address,
        jwt_algorithm=algorithm,  # type: ignore[arg-type]
        gate_seconds_max=10.0,
    )


def signed(key: Any = RSA_KEY, kid: str = "one", **changes: Any) -> str:
    """A token of an identity provider; `more` are further headers."""
    return encoded(key, "RS256", headers={"kid": kid, **changes.pop("more", {})}, **changes)

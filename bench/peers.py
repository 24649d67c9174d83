"""LiteLLM's own calculation, measured in an environment of its own.

It pins versions that the project cannot share, and it is large; so it is no dependency, not even of
the tests. The environment is made in a temporary directory, with pip, and removed afterwards.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from adapters.failures import Failure

LITELLM = "litellm==1.106.2"  # the newest when the results were written
LITELLM_LOCK = Path(__file__).with_name("litellm.lock")
INSTALL_SECONDS_MAX = 600
RUN_SECONDS_MAX = 300
_SCRIPT = Path(__file__).with_name("litellm_costs.py")


def litellm_cost(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """Microseconds for one event by `cost_per_token`, and how many events it prices at zero.

    Raises Failure when the environment cannot be made or the script fails.
    """
    with tempfile.TemporaryDirectory(prefix="tollgate-bench-litellm-") as directory:
        venv.create(directory, with_pip=True)
        python = str(Path(directory) / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(LITELLM_LOCK)]
        _run([*install, LITELLM], "", INSTALL_SECONDS_MAX)
        answer: dict[str, Any] = json.loads(
            _run([python, str(_SCRIPT)], json.dumps(shapes), RUN_SECONDS_MAX)
        )
    return answer


def _run(command: list[str], given: str, seconds_max: int) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our own script and pip, no shell
            command, input=given, capture_output=True, text=True, timeout=seconds_max, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(getattr(error, "stderr", ""), file=sys.stderr)
        raise Failure(f"LiteLLM could not be measured: {error}") from error
    return done.stdout

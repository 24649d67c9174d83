"""`python -m bench`: measures the whole way on this machine and writes bench/RESULTS.md."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from adapters.failures import Failure
from bench.plan import Size, measure
from bench.refresh import SIZES
from bench.report import page
from bench.site import open_site

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    """Exit code 1, with one line, when something fails; 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--events", type=int, default=300_000, help="records of the main drain")
    parser.add_argument("--repeats", type=int, default=3, help="main drains; the median counts")
    parser.add_argument("--seconds", type=float, default=40.0, help="traffic for each latency")
    parser.add_argument("--gate-rate", type=int, default=500, help="requests a second at the gate")
    parser.add_argument("--gate-seconds", type=float, default=20.0, help="for each operation")
    parser.add_argument("--accounts", type=int, nargs="+", default=SIZES, help="of each refresh")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the page that is written")
    parser.add_argument("--json", action="store_true", help="print the document, write nothing")
    chosen = parser.parse_args()
    if chosen.events < 1_000 or chosen.repeats < 1 or chosen.seconds < 1:
        parser.error("at least 1000 events, 1 repeat and 1 second")
    if chosen.gate_rate < 20 or chosen.gate_seconds < 1 or min(chosen.accounts) < 1_000:
        parser.error("at least 20 requests a second, 1 second and 1000 accounts")
    command = " ".join(["python -m bench", *sys.argv[1:]])
    size = Size(
        records=chosen.events,
        repeats=chosen.repeats,
        steady_seconds=chosen.seconds,
        gate_rate=chosen.gate_rate,
        gate_seconds=chosen.gate_seconds,
        accounts=tuple(chosen.accounts),
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tollgate-bench-") as directory,
            open_site(Path(directory) / "stack") as site,
        ):
            document = uvloop.run(measure(site, size))
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps(document, indent=2))
        return 0
    text = page(document, command)
    chosen.output.write_text(text, encoding="utf-8")
    print(text.partition("## As JSON")[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())

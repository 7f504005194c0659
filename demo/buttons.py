"""Single acts of the demo, for the buttons of the Tiltfile.

`produce` sends the demo's records to Kafka; `busy` and `ready` tell the sample downstream how to behave.
"""

from __future__ import annotations

import argparse
import sys

import httpx

from demo import scenario
from demo.errors import DemoFailed
from demo.evidence import produce


def main() -> int:
    """Do one of them; 1 where it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m demo.buttons", description=__doc__)
    parser.add_argument("act", choices=["produce", "busy", "ready"])
    parser.add_argument("address", help="Kafka's, or the downstream's url")
    options = parser.parse_args()
    try:
        if options.act == "produce":
            produce(options.address, [*scenario.first_records(), *scenario.burst_records()])
        else:
            rules = scenario.rules(busy=options.act == "busy")
            httpx.put(f"{options.address}/control/rules", json=rules, trust_env=False).raise_for_status()
    except (DemoFailed, httpx.HTTPError) as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

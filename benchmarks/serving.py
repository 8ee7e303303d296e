"""Our server of adapters: many clients, many tenants, and what it costs to change the adapter.

Five parts, each with its bounds:

- `crowd`: 64 clients over 8 adapters for a minute, each of which knows the answer it has to get.  No error, no mixed-up
  answer, and memory that grows by at most 1.5 times the adapters' own size over the same crowd on the base alone.
- `tenants`: 20 adapters on one base in at most 1.1 times the memory of one.
- `switching`: requests that take turns between two adapters, against requests for one: under 5 % of a request, and at
  least 20 times cheaper than in `mlx_lm.server`, which loads the model anew.
- `peer`: chats with one system prompt and the demo's questions on the demo's adapter, by 1, 4 and 8 clients: at least 0.95 of the
  tokens a second of `mlx_lm.server` on the fused model.  Both servers run all the time and are asked in turns, so that whatever else the machine does
  slows down both, and what each takes of the processor is told beside it; then the time to the first token of a second question
  after a long system prompt.
- `adapters`: 8 clients on 8 adapters of the demo's model in bfloat16, against the same clients on one adapter (at least 0.85 of the
  tokens a second; 0.8 with 64 adapters resident) and against lanes, in which each adapter has passes of its own (at least 1.5
  times), in turns as well.

Run it with `python benchmarks/serving.py [crowd] [tenants] [switching] [peer] [adapters]`; it fails when a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = map(str, (Path(__file__).resolve().parent.parent / "tests" / "support").iterdir())
from serving_chats import adapters, peer
from serving_crowd import crowd, tenants
from serving_servers import FAILED
from serving_switching import switching


def main() -> None:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="crowd, tenants, switching, peer, adapters; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the crowd")
    parser.add_argument("--rounds", type=int, default=3, help="of peer and adapters")
    parser.add_argument("--each", type=int, default=2, help="questions of each client in a round of peer")
    parser.add_argument(
        "--clients", type=int, nargs="*", default=[1, 4, 8], help="numbers of clients of peer"
    )
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "crowd": lambda scratch: crowd(scratch, options.seconds),
        "tenants": tenants,
        "switching": switching,
        "adapters": lambda scratch: adapters(scratch, options.rounds, options.each),
        "peer": lambda scratch: peer(scratch, options.rounds, options.each, options.clients),
    }
    for name in options.parts or parts:
        print(f"-- {name}")
        with tempfile.TemporaryDirectory(prefix="fusery-serving-") as folder:
            parts[name](Path(folder))
    if FAILED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

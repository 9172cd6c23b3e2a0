"""Random calls and damaged files, repeatable by seed: `python -m tests.fuzz --seed S --count N --only calls`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter

from tests.fuzz.pool import tries

COUNTS = {"calls": 40_000, "run_folders": 3_000, "damaged_states": 2_000}


def main() -> int:
    """Print every kind of finding once, with the number that repeats it; 1 where there is one."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", choices=COUNTS, help="one kind of try; by default all")
    parser.add_argument("--count", type=int, help="how many; by default 40,000 calls, 3,000 folders, 2,000 files")
    parser.add_argument("--first", type=int, default=0, help="the number of the first try")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--all", action="store_true", help="print refusals too, once each")
    options = parser.parse_args()
    found = False
    for kind in (options.only,) if options.only else COUNTS:
        count = options.count or COUNTS[kind]
        found |= _report(kind, options, range(options.first, options.first + count))
    return int(found)


def _report(kind: str, options: argparse.Namespace, numbers: range) -> bool:
    kinds, alike = Counter(), Counter()
    for (_, number), outcome in tries(options.seed, [(kind, number) for number in numbers], options.workers):
        kinds[outcome.kind] += 1
        if outcome.kind != "finding" and not (options.all or len(numbers) == 1):
            continue
        alike[outcome.kind, outcome.key] += 1
        if alike[outcome.kind, outcome.key] == 1:
            print(f"{kind} {number}: {outcome.kind}: {outcome.name}({outcome.text})", flush=True)
            print(f"    {outcome.error} {outcome.place}: {outcome.message}", flush=True)
    for (of, key), count in alike.most_common():
        if of == "finding" and count > 1:
            print(f"{count:6} x {' | '.join(key)}")
    print(f"{kind}, seed {options.seed}: {len(numbers)} tries, {dict(kinds)}")
    print(f"repeat one: python -m tests.fuzz --seed {options.seed} --only {kind} --count 1 --first NUMBER")
    return kinds["finding"] > 0


if __name__ == "__main__":
    sys.exit(main())

"""What a zipapp runs on a device: measures the bundles beside it, progress to stderr, the record to stdout.

``python -m edgetext_bench.device job.json``. An error is one line of JSON, so that the other side can raise
it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgetext_bench.measure import bench
from edgetext_bench.record import Settings, build
from edgetext_runtime.errors import EdgetextError


def main() -> int:
    """Measure; return the exit status."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        record = bench(
            [path.parent / name for name in job["bundles"]],
            build(Settings, job["settings"]),
            progress=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
            command=job["command"],
            on=job["on"],
        )
    except EdgetextError as error:
        sys.stdout.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        return 1
    sys.stdout.write(record.to_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Put the movie-review sentences of Pang & Lee (2005) into one table.

python make_polarity.py FOLDER OUT.csv
"""

import csv
import sys
from pathlib import Path


def main(folder: str, out: str) -> None:
    """Write the lines of rt-polarity.pos and rt-polarity.neg with their label."""
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("text", "sentiment"))
        for label, ending in (("negative", "neg"), ("positive", "pos")):
            for line in (Path(folder) / f"rt-polarity.{ending}").read_text(encoding="utf-8").splitlines():
                table.writerow((line.strip(), label))


if __name__ == "__main__":
    main(*sys.argv[1:])

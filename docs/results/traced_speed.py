"""One model both ways: by the graph written for its family, and traced like a family that has none.

    python docs/results/peers_model.py llama24m
    python docs/results/traced_speed.py write llama24m FOLDER
    python docs/results/traced_speed.py measure FOLDER

The second writes both bundles, the third lets them take turns at one thread; one JSON line a round.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

STEPS, ROUNDS = 200, 5


def write(directory: Path, folder: Path) -> None:
    """Write native.etx and traced.etx, the second with the first one's other members."""
    from edgetext.distill.vocabulary import share_vocabulary
    from edgetext.models.huggingface import load_huggingface
    from edgetext_export import export_run
    from edgetext_export.recipes import RECIPES
    from edgetext_export.traced import trace
    from edgetext_export.traced_graph import build_traced_graph
    from edgetext_export.writer import write_bundle
    from edgetext_runtime import read_bundle

    folder.mkdir(parents=True, exist_ok=True)
    export_run(directory, folder / "native.etx", "int8", True, quality_tokens=300, context=256)
    native = read_bundle(folder / "native.etx")
    _, vocabulary = share_vocabulary(directory)
    traced = trace(directory, load_huggingface(directory), vocabulary, 256)
    graph = build_traced_graph(traced, RECIPES["int8"])
    manifest = replace(native.manifest, config=traced.to_dict(), state=graph.state)
    members = {**native.members, "model.onnx": graph.model}
    write_bundle(folder / "traced.etx", manifest, members, force=True)


def measure(folder: Path) -> None:
    """Print the median microseconds of a step near the beginning of a text and near its end."""
    from edgetext_runtime import Generator

    generators = {name: Generator.load(folder / f"{name}.etx", threads=1) for name in ("native", "traced")}
    for number in range(ROUNDS):
        for name, generator in generators.items():
            session, taken = generator.session, []
            state, token = session.new_state(), generator.manifest.eos_id
            for _ in range(STEPS):
                begin = time.perf_counter()
                token = session.step(token, state, generator.defaults.sampling, 0.5)
                taken.append((time.perf_counter() - begin) * 1e6)
            parts = {"tokens 10 to 50": taken[10:50], "tokens 150 to 200": taken[150:], "all": taken[10:]}
            figures = {part: round(median(samples)) for part, samples in parts.items()}
            print(json.dumps({"round": number, "graph": name, "us": figures}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        measure(Path(sys.argv[2]))

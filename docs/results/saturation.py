"""Do 8-bit products saturate? The worst case and random numbers, as each recipe stores weights.

    python docs/results/saturation.py
    PYTHONPATH=.venv/lib/python3.11/site-packages \
        qemu-x86_64 -cpu Haswell "$(readlink -f .venv/bin/python)" docs/results/saturation.py --run FOLDER

The first writes the graphs into a folder and runs them here, the second runs them on a CPU with AVX2 and
without VNNI, emulated: what comes out counts, not how long it takes. One JSON line per product: the record.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from numpy.typing import NDArray

WIDTH, OUTPUTS = 64, 32
RECIPES = {
    "MatMulNBits, 8 bits": ("int8", "generic"),
    "MatMulNBits, 4 bits": ("int4", "generic"),
    "one scale per output, ±127": ("int8-dynamic", "x86-vnni"),
    "one scale per output, ±63": ("int8-dynamic", "x86-avx2"),
}


def numbers(kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Activations [1,K] and weights [N,K]: as large as can be, or of a normal distribution."""
    draws = np.random.default_rng(0)
    x, weight = draws.standard_normal((1, WIDTH)), draws.standard_normal((OUTPUTS, WIDTH))
    if kind == "worst":
        x, weight = np.ones((1, WIDTH)), np.ones((OUTPUTS, WIDTH))
        x[:, ::8] = 0.9
    return x.astype(np.float32), weight.astype(np.float32)


def write(folder: Path) -> None:
    """Write a graph of one product for each recipe and kind of numbers."""
    from edgetext_export.builder import FLOAT, GraphBuilder
    from edgetext_export.layers import Layers
    from edgetext_export.recipes import RECIPES as BY_NAME

    for kind in ("worst", "random"):
        for number, (recipe, target) in enumerate(RECIPES.values()):
            g = GraphBuilder()
            g.input("x", FLOAT, ["batch", WIDTH])
            Layers(g, BY_NAME[recipe].at(target)).linear("x", "weight", numbers(kind)[1], None, "y")
            g.output("y", FLOAT, ["batch", OUTPUTS])
            (folder / f"{kind}-{number}.onnx").write_bytes(g.build("product", {}))


def run(folder: Path, where: str) -> None:
    """Run the graphs and print how far they are from the exact products."""
    import onnxruntime

    for kind in ("worst", "random"):
        x, weight = numbers(kind)
        exact = x @ weight.T
        for number, name in enumerate(RECIPES):
            path = str(folder / f"{kind}-{number}.onnx")
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            error = float(np.abs(session.run(None, {"x": x})[0] - exact).max() / np.abs(exact).max())
            print(
                json.dumps(
                    {"cpu": where, "numbers": kind, "weights": name, "error": round(error, 5)},
                    ensure_ascii=False,
                )
            )


def main() -> None:
    """Write and run here, or run what is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a folder of graphs, written before")
    given = parser.parse_args().run
    if given:
        run(given, "AVX2, emulated")
        return
    folder = Path(tempfile.mkdtemp(prefix="saturation-"))
    write(folder)
    run(folder, "AVX-512 VNNI")
    print(f"the graphs are in {folder}")


if __name__ == "__main__":
    main()

"""Draw the game on N(4, 0.5): ``python docs/results/gaussian.py``.

Three seeds each, without and with minibatch discrimination; writes adversarial/gaussian.png and .json.
"""

import json
from pathlib import Path

import numpy as np

from edgetext.adversarial.gaussian import DEVIATION, MEAN, learn_gaussian
from edgetext.evaluate.plots import canvas_of, finish_axes

OUTPUT = Path(__file__).with_name("adversarial")
KINDS = {"none": "#d1495b", "discrimination": "#0b7a75", "deviation": "#e0a100"}
SEEDS = (0, 1, 2)


def main() -> None:
    """Learn, draw, and write the figures."""
    OUTPUT.mkdir(exist_ok=True)
    results = {kind: [learn_gaussian(kind, seed=seed) for seed in SEEDS] for kind in KINDS}
    canvas = canvas_of(9, 3.6)
    left, right = canvas.subplots(1, 2)
    x = np.linspace(1.5, 6.5, 400)
    density = np.exp(-((x - MEAN) ** 2) / 2 / DEVIATION**2) / DEVIATION / (2 * np.pi) ** 0.5
    left.plot(x, density, color="#555555", linewidth=1, label="N(4, 0.5)")
    for kind, colour in KINDS.items():
        for number, found in enumerate(results[kind]):
            label = f"minibatch: {kind}" if number == 0 else None
            counts, edges = np.histogram(found.samples.numpy(), bins=np.linspace(1.5, 6.5, 80), density=True)
            left.plot((edges[1:] + edges[:-1]) / 2, counts, color=colour, alpha=0.8, label=label)
            right.plot(25 * np.arange(len(found.deviations)), found.deviations, color=colour, alpha=0.8)
    right.axhline(DEVIATION, color="#555555", linewidth=0.8, linestyle=":")
    left.set_ylim(0, 3)
    left.legend(frameon=False, fontsize=8)
    finish_axes(left, "Numbers written after the game", "number", "density")
    finish_axes(right, "Spread along the game", "step", "standard deviation of a batch")
    canvas.savefig(OUTPUT / "gaussian.png")
    figures = {
        kind: [{"mean": round(r.mean, 3), "deviation": round(r.deviation, 3)} for r in found]
        for kind, found in results.items()
    }
    (OUTPUT / "gaussian.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

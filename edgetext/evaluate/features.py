"""Distances between sets of texts in the feature space of a model on disk: Fréchet distance and MAUVE.

A text's features are the hidden states of the model's last layer, averaged over its words. Both measures
depend on the model and on the number of texts, so only figures of one table can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgetext.errors import ConfigError
from edgetext.evaluate.candidates import Candidate, Checkpoint
from edgetext.evaluate.texts import Text
from edgetext_runtime.errors import DependencyError

Floats = NDArray[np.float64]
FRONTIER_POINTS = 25
"""Mixtures on the divergence curve (Pillutla et al. 2021, §3)."""
SCALING = 5.0
"""c in exp(-c · KL), as in the paper."""
KEPT_VARIANCE = 0.9
"""Share of the variance that principal components keep before clustering, as in the paper's code."""
TEXTS_PER_CLUSTER = 10
"""Texts of one side per cluster: k = n / 10."""


class Features:
    """Turns texts into vectors."""

    def __init__(self, model: Candidate) -> None:
        """Raises ConfigError unless `model` is a checkpoint without labels: its hidden states are read."""
        if not isinstance(model, Checkpoint):
            raise ConfigError(
                f"--features {model.name} is a bundle, which has no hidden states; give a model directory"
            )
        if model.labels:
            raise ConfigError(
                f"--features {model.name} has labels, and texts come without; give another model"
            )
        self.model, self.tokenizer, self.name = model.model, model.tokenizer, model.name

    @torch.no_grad()
    def __call__(self, texts: Sequence[Text]) -> Floats:
        """Feature vectors [N,H] of texts; empty ones are left out."""
        rows = []
        limit = self.model.config.context or None
        for text in texts:
            ids = [self.tokenizer.eos_id, *self.tokenizer.encode(" ".join(text.words))][:limit]
            if len(ids) > 1:
                hidden = self.model(torch.tensor([ids])).hidden[-1][0]  # [T,H]
                rows.append(hidden[1:].double().mean(0).numpy())
        if len(rows) < 2:
            raise ConfigError("features need at least two texts with words; draw more with --samples")
        return np.stack(rows)


def frechet_distance(real: Floats, written: Floats) -> float:
    """|μ₁-μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) of two sets [N,H] (Heusel et al. 2017; for text de Masson 2019)."""
    a, b = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (real, written))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    shift = real.mean(0) - written.mean(0)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * cross)


def mauve(real: Floats, written: Floats, seed: int = 0) -> float:
    """Area under the divergence frontier of two sets [N,H] after joint clustering (Pillutla et al. 2021).

    1 for sets that fill the clusters alike, towards 0 the further they part. Raises DependencyError without
    scikit-learn.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise DependencyError("MAUVE needs scikit-learn: pip install 'edgetext[eval]'") from error
    both = np.concatenate([real, written])
    both = both / np.linalg.norm(both, axis=1, keepdims=True).clip(1e-12)
    both = PCA(n_components=KEPT_VARIANCE, svd_solver="full", random_state=seed).fit_transform(both)
    clusters = max(2, min(len(real), len(written)) // TEXTS_PER_CLUSTER)
    labels = KMeans(clusters, n_init=5, max_iter=500, random_state=seed).fit_predict(both)
    p = np.bincount(labels[: len(real)], minlength=clusters) / len(real)
    q = np.bincount(labels[len(real) :], minlength=clusters) / len(written)
    return frontier_area(p, q)


def frontier_area(p: Floats, q: Floats) -> float:
    """Area under the curve (exp(-c KL(q‖r)), exp(-c KL(p‖r))), r between p and q: histograms [K]."""
    shares = np.linspace(1e-6, 1 - 1e-6, FRONTIER_POINTS)
    mixtures = shares[:, None] * p + (1 - shares[:, None]) * q  # [F,K]
    x = np.exp(-SCALING * np.array([_kl(q, r) for r in mixtures]))
    y = np.exp(-SCALING * np.array([_kl(p, r) for r in mixtures]))
    x, y = np.concatenate([[1.0], x, [0.0]]), np.concatenate([[0.0], y, [1.0]])
    return float((_area(x, y) + _area(y, x)) / 2)


def _area(x: Floats, y: Floats) -> float:
    order = np.lexsort((-y, x))  # the curve falls: of equal x the higher point comes first
    return abs(float(np.trapezoid(y[order], x[order])))


def _kl(p: Floats, r: Floats) -> float:
    held = p > 0
    return float((p[held] * np.log(p[held] / r[held])).sum())

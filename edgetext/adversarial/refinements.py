"""Refinements by name: rules that the field has published, or a TOML file with rules of one's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgetext.adversarial.settings import GRADIENTS, DiscriminatorConfig, RefineSettings
from edgetext.errors import ConfigError

DEFAULT = "relgan"
_LSTM = DiscriminatorConfig("lstm", hidden=48)
REFINEMENTS: Mapping[str, RefineSettings] = {
    settings.name: settings
    for settings in (
        RefineSettings(),
        RefineSettings(
            "relgan-many",
            discriminator=DiscriminatorConfig(embedding=16, embeddings=8, hidden=16),
            discriminator_steps=5,
            final_beta=100.0,
            discriminator_rate=1e-4,
            optimizer="adam",
        ),
        RefineSettings("gumbel-soft", "gumbel-soft", "non-saturating", r1=0.1),
        RefineSettings("seqgan", "reinforce-rollouts", "non-saturating", candidates=2),
        RefineSettings("scratchgan", "reinforce-dense", "non-saturating", _LSTM),
        RefineSettings("soft", "soft", "hinge", DiscriminatorConfig(spectral_norm=True)),
        RefineSettings("professor-forcing", "professor", "non-saturating", _LSTM),
        RefineSettings("selfgan", "selected", "non-saturating", candidates=4),
        RefineSettings(
            "resampled",
            "resampled",
            "non-saturating",
            DiscriminatorConfig("lstm-cnn", 0, dropout=0.4),
            rollouts=16,
            candidates=8,
            adversarial_weight=1.0,
            anchor_every=0,
            discriminator_rate=1.5e-3,
            discriminator_warmup=1000,
        ),
        RefineSettings(
            "wgan-gp",
            objective="wgan-gp",
            discriminator=DiscriminatorConfig(dropout=0.0),
            discriminator_steps=5,
        ),
        RefineSettings(
            "feature-matching",
            objective="non-saturating",
            discriminator=DiscriminatorConfig(minibatch="discrimination"),
            matching=1.0,
        ),
        RefineSettings(
            "transformer-hinge",
            objective="hinge",
            discriminator=DiscriminatorConfig("transformer", minibatch="deviation"),
        ),
    )
}
"""The refinements of `edgetext distill --refinement`, by name."""


def read_refinement(text: str) -> RefineSettings:
    """A refinement by its name, or from a TOML file. Raises ConfigError if it is neither, or cannot work."""
    if text in REFINEMENTS:
        return REFINEMENTS[text]
    path = Path(text)
    if path.suffix != ".toml":
        raise ConfigError(f"there is no refinement {text!r}; use {', '.join(REFINEMENTS)}, or a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a refinement: {error}") from error
    try:
        return RefineSettings.from_dict({"name": path.stem, **values})
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def to_toml(settings: RefineSettings) -> str:
    """The refinement as a TOML file to start from, with every field."""
    lines = [_line(f.name, getattr(settings, f.name)) for f in fields(settings) if f.name != "discriminator"]
    shape = settings.discriminator
    lines += ["", "[discriminator]", *(_line(f.name, getattr(shape, f.name)) for f in fields(shape))]
    return "\n".join(lines) + "\n"


def describe(settings: RefineSettings) -> str:
    """The refinement in words."""
    shape = settings.discriminator
    extras = [f"minibatch {shape.minibatch}"] * (shape.minibatch != "none")
    extras += ["spectral norm"] * shape.spectral_norm + [f"R1 {settings.r1:g}"] * (settings.r1 > 0)
    extras += [f"feature matching {settings.matching:g}"] * (settings.matching > 0)
    moves = (
        f"{settings.discriminator_steps} discriminator steps to one"
        if settings.discriminator_steps > 1
        else ""
    )
    every = settings.anchor_every
    anchor = f"distillation loss every {every} step(s)" if every else "no distillation loss"
    return "\n".join(
        [
            f"{settings.name}: {GRADIENTS[settings.gradient]}",
            f"  discriminator  {', '.join([shape.kind, *extras, *([moves] if moves else [])])}",
            f"  objective      {settings.objective}, weight {settings.adversarial_weight:g}; {anchor}",
            f"  optimiser      {settings.optimizer}, {settings.schedule}, discriminator "
            f"{settings.discriminator_rate:g} (β1 {settings.beta1:g})",
        ]
    )


def _line(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name} = {str(value).lower()}"
    return f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"

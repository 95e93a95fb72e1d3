"""Which layer of a student answers to which of its teacher, and how they are made comparable.

Layers are counted as in `Output.hidden`: 0 is the embedding output, l the output of the l-th layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgetext.distill.recipe import LAYER_MAPS
from edgetext.errors import ConfigError
from edgetext.models.base import GeneratorModel


def layer_map(student_layers: int, teacher_layers: int, strategy: str) -> tuple[tuple[int, int], ...]:
    """Pairs (student layer, teacher layer) of hidden outputs to compare, for S and L layers.

    A strategy is one of `LAYER_MAPS`; all but ``final`` need S ≤ L.

    - ``uniform``: every student layer i with teacher layer i·L/S, rounded; so the last with the last
      (TinyBERT, Jiao et al. 2020, §3).
    - ``skip``: student layers 1 … S-1 with teacher layers k, 2k, …, where k = ⌊L/S⌋.
    - ``last``: student layers 1 … S-1 with the teacher's last ones before its final layer. These two are of
      patient knowledge distillation (Sun et al. 2019, §3.2), where the final layers answer to each other
      through the prediction loss alone.
    - ``final``: the last layers, whatever S and L (MiniLM, Wang et al. 2020).
    - ``block``: layer by layer, S = L (MobileBERT, Sun et al. 2020).

    Raises ConfigError where there is no such map, naming what there is.
    """
    S, L = student_layers, teacher_layers
    if strategy not in LAYER_MAPS:
        raise ConfigError(f"layer map {strategy!r} is unknown; use one of {', '.join(LAYER_MAPS)}")
    if strategy == "final":
        return ((S, L),)
    if strategy == "block" and S != L:
        raise ConfigError(
            f"the layer map 'block' goes block by block, and the student has {S} layers, the teacher {L}; "
            f"give the student {L} (layers={L} in --student)"
        )
    if S > L:
        raise ConfigError(
            f"the layer map {strategy!r} needs a student of at most as many layers as its teacher, not {S} "
            f"and {L}; use at most {L} layers (layers={L} in --student) or the layer map 'final'"
        )
    if strategy in ("uniform", "block"):
        return tuple((i, (2 * i * L + S) // (2 * S)) for i in range(1, S + 1))
    if S < 2:
        raise ConfigError(
            f"the layer map {strategy!r} compares the layers below a student's last, and a student of one "
            "layer has none; use two layers or more (layers=2 in --student), or the layer map 'uniform' or "
            "'final'"
        )
    first, step = (L // S, L // S) if strategy == "skip" else (L - S + 1, 1)
    return tuple((i + 1, first + i * step) for i in range(S - 1))


class Projections(nn.Module):
    """Learned linear maps, one per pair of compared layers, from the student's width to the teacher's.

    Without bias (TinyBERT, Jiao et al. 2020, eq. 8–9; there one matrix serves all layers); where widths are
    equal nothing is learned. They start as random (semi-)orthogonal matrices, so that lengths survive a
    widening. The start depends on `seed` and the widths only, and no other random stream is touched.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], *, seed: int = 0) -> None:
        """`widths` are pairs (student's, teacher's)."""
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.maps = nn.ModuleList()
        for ours, theirs in widths:
            if ours == theirs:
                self.maps.append(nn.Identity())
                continue
            linear = nn.Linear(ours, theirs, bias=False, device="meta").to_empty(
                device="cpu"
            )  # draws nothing
            nn.init.orthogonal_(linear.weight, generator=random)
            self.maps.append(linear)

    def forward(self, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the student's outputs, one [B,T,·] per pair, to the teacher's widths."""
        return tuple(project(x) for project, x in zip(self.maps, hidden, strict=True))


# --- initialisation from the teacher -----------------------------------------------------------------------

_LAYER = re.compile(r"^(blocks\.|(?:lstm|gru)\.\w+_l)(\d+)(?=\.|$)")
"""Where the names of a generator's weights carry the number of their layer."""
COPIED_SHAPE = (
    "kind",
    "embedding",
    "hidden",
    "heads",
    "kv_heads",
    "ffn",
    "bottleneck",
    "rope_theta",
    "tied",
    "vocab_size",
)
"""Fields of `ModelConfig` in which a student must equal the teacher that its layers are copied from."""


def copied_layers(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Teacher layer that each student layer starts from, both counted from 0: evenly spaced, ends included.

    6 of 12 layers are 0, 2, 4, 7, 9, 11, those of DistilBERT (Sanh et al. 2019, §3, and the code published
    with it). Raises ConfigError when the student is the deeper one.
    """
    S, L = student_layers, teacher_layers
    if S > L:
        raise ConfigError(
            f"a student of {S} layers cannot be copied from a teacher of {L}; "
            f"use at most {L} layers (layers={L} in --student)"
        )
    if S == 1:
        return (0,)
    return tuple((2 * i * (L - 1) + S - 1) // (2 * (S - 1)) for i in range(S))


@torch.no_grad()
def copy_layers(student: GeneratorModel, teacher: GeneratorModel) -> list[str]:
    """Start a student as its teacher with layers left out (DistilBERT, Sanh et al. 2019, §3).

    Layers as `copied_layers` says; embedding, output layer and whatever else belongs to no layer as they are.
    Returns the names of the student's weights that were set, which are all of them. Raises ConfigError, with
    nothing changed, unless everything fits; it names the first of `COPIED_SHAPE`, or weight, that does not.
    """
    ours, theirs = student.config, teacher.config
    for name in COPIED_SHAPE:
        if getattr(ours, name) != getattr(theirs, name):
            raise ConfigError(
                f"layers can only be copied between models alike: {name} is {getattr(ours, name)} in the "
                f"student and {getattr(theirs, name)} in the teacher; change --student"
            )
    source = copied_layers(ours.layers, theirs.layers)
    available = teacher.state_dict()
    chosen: dict[str, Tensor] = {}
    for name, weight in student.named_parameters():
        origin = _LAYER.sub(lambda match: f"{match[1]}{source[int(match[2])]}", name)
        if origin not in available:
            raise ConfigError(
                f"the teacher has no {origin} for the student's {name}; "
                "layers can only be copied from a teacher of edgetext's own kinds"
            )
        if available[origin].shape != weight.shape:
            raise ConfigError(
                f"the teacher's {origin} {list(available[origin].shape)} does not fit the student's {name} "
                f"{list(weight.shape)}; give the student the teacher's widths (--student), only fewer layers"
            )
        chosen[name] = available[origin]
    for name, weight in student.named_parameters():
        weight.copy_(chosen[name])
    return list(chosen)

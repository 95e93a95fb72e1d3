"""From command-line options to the configuration of a run."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetext.config import DistillConfig


def distill_config(options: dict[str, Any]) -> DistillConfig:
    """Build the checked configuration of `edgetext distill` from its options, by name.

    Raises ConfigError naming the option to change.
    """
    from edgetext.config import DistillConfig, SoftTargets
    from edgetext.corpus.config import CorpusConfig

    given = dict(options)
    source = given.pop("corpus")
    corpus_fields = {f.name for f in fields(CorpusConfig)} & set(given)
    corpus = CorpusConfig(source=source, **{name: given.pop(name) for name in sorted(corpus_fields)})
    soft = SoftTargets(given.pop("temperature"), given.pop("soft_weight"))
    return DistillConfig(corpus=corpus, soft=soft, **given)

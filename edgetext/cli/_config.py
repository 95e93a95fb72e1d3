"""From command-line options to the configuration of a run, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetext.config import DistillConfig

NO_TEACHER = "none"
"""What `--teacher` takes for a run without one."""
RENAMED = {"corpus": "source", "valid_corpus": "valid_source", "test_corpus": "test_source"}
"""Options of the corpus whose field has another name."""


def distill_config(options: dict[str, Any]) -> DistillConfig:
    """Build the checked configuration of `edgetext distill` from its options, by name.

    `teacher` and `assistant` are sequences; an empty `teacher` is the default one where the recipe needs one
    and nothing is cached. `recipe` is a name, a TOML file or a `Recipe`; `refinement` likewise. Raises
    ConfigError naming the option to change.
    """
    from edgetext.adversarial.refinements import read_refinement
    from edgetext.adversarial.settings import RefineSettings
    from edgetext.config import DistillConfig
    from edgetext.corpus.config import CorpusConfig
    from edgetext.distill.recipe import Recipe
    from edgetext.distill.recipes import read_recipe

    given = {RENAMED.get(name, name): value for name, value in options.items()}
    recipe = given.pop("recipe")
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    refinement = given.pop("refinement")
    refine = refinement if isinstance(refinement, RefineSettings) else read_refinement(refinement)
    recipe = recipe.with_soft(given.pop("temperature", None), given.pop("soft_weight", None))
    teachers = tuple(given.pop("teacher"))
    if not teachers and recipe.needs_teacher() and given.get("cache") is None:
        teachers = DistillConfig.teachers
    corpus_fields = {f.name for f in fields(CorpusConfig)} & set(given)
    corpus = CorpusConfig(**{name: given.pop(name) for name in sorted(corpus_fields)})
    return DistillConfig(
        corpus=corpus,
        recipe=recipe,
        refine=refine,
        teachers=tuple(text for text in teachers if text != NO_TEACHER),
        assistants=tuple(given.pop("assistant")),
        **given,
    )


def options_of(config: DistillConfig, names: Iterable[str]) -> dict[str, Any]:
    """Return the options, of those in `names`, with which `distill_config` gives this configuration."""
    values: dict[str, Any] = {
        **vars(config),
        **{name: getattr(config.corpus, field) for name, field in RENAMED.items()},
        **{f.name: getattr(config.corpus, f.name) for f in fields(config.corpus) if f.name != "source"},
        "teacher": config.teachers or (NO_TEACHER,),
        "assistant": config.assistants,
        "refinement": config.refine,
    }
    return {name: values[name] for name in names if name in values}

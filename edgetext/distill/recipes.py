"""The recipes by name, each from its paper, and reading one's own. No torch here.

Recipes of one's own are TOML files; their phases may take in the terms of these (see docs/recipes.md).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgetext.distill.recipe import Phase, Recipe, Term
from edgetext.errors import ConfigError


def _simple(name: str, summary: str, source: str, *terms: Term, **phase: Any) -> Recipe:
    return Recipe(name, summary, source, (Phase(terms, **phase),))


_SOFT = (Term("hard", 0.1), Term("soft", 0.9))
_LAST = Phase(_SOFT)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _simple("no-teacher", "the text alone: the baseline, and how teachers are trained", "", Term("hard")),
        _simple("hinton", "soft and hard targets", "Hinton, Vinyals & Dean 2015", *_SOFT),
        _simple(
            "augmented",
            "soft targets on the corpus and, half of the time, on text that the teacher wrote",
            "after Tang et al. 2019 and Kim & Rush 2016",
            Term("soft"),
            teacher_text=0.5,
        ),
        _simple("logit-mse", "the teacher's logits", "Ba & Caruana 2014", Term("logit-mse")),
        Recipe(
            "bilstm",
            "logits of a Transformer to an LSTM, half of the time on text that the teacher wrote",
            "Tang et al. 2019 (its LSTM read both ways; a generator reads forwards)",
            (Phase((Term("logit-mse"),), teacher_text=0.5),),
            student="lstm",
            teacher="transformer",
        ),
        _simple(
            "pkd-skip",
            "soft and hard targets, and the outputs of every k-th layer",
            "Sun et al. 2019",
            *_SOFT,
            Term("hidden-normalised", 1.0, layers="skip"),
        ),
        _simple(
            "pkd-last",
            "soft and hard targets, and the outputs of the last layers",
            "Sun et al. 2019",
            *_SOFT,
            Term("hidden-normalised", 1.0, layers="last"),
        ),
        Recipe(
            "distilbert",
            "soft and hard targets, the angle of the last layers; layers start as copies",
            "Sanh et al. 2019",
            (
                Phase(
                    (
                        Term("hard", 0.25),
                        Term("soft", 0.625, temperature=2.0),
                        Term("cosine", 0.125, layers="final"),
                    )
                ),
            ),
            initialise="copy",
        ),
        Recipe(
            "tinybert",
            "first embeddings, layers and attention, then predictions",
            "Jiao et al. 2020",
            (
                Phase((Term("embedding"), Term("hidden"), Term("attention"))),
                Phase((Term("soft"),)),
            ),
            student="transformer",
            teacher="transformer",
        ),
        Recipe(
            "mobilebert",
            "a bottleneck student: block after block, then predictions",
            "Sun et al. 2020 (the lower layers go on learning)",
            (
                Phase(
                    (Term("hidden", layers="block"), Term("attention-kl", layers="block")), progressive=True
                ),
                Phase((Term("hard", 0.5), Term("soft", 0.5))),
            ),
            student="transformer",
            teacher="transformer",
        ),
        Recipe(
            "minilm",
            "last layer's attention and value relations, then predictions",
            "Wang et al. 2020 (small students: with an --assistant)",
            (Phase((Term("attention-kl", layers="final"), Term("values", layers="final"))), _LAST),
            student="transformer",
            teacher="transformer",
        ),
        _simple(
            "sequence-level",
            "text that the teacher wrote, as if it were the corpus; needs no common vocabulary",
            "Kim & Rush 2016 (sampled at temperature 1, where a translator searches)",
            Term("hard"),
            teacher_text=1.0,
        ),
        _simple(
            "reverse-kl",
            "the student's view of the difference: it avoids what the teacher would not say",
            "Gu et al. 2023 (token by token, with its language-modelling term)",
            Term("hard", 0.1),
            Term("reverse-kl", 0.9),
        ),
        _simple("jsd", "between forward and reverse KL", "Agarwal et al. 2023", Term("jsd", beta=0.5)),
        _simple("skew-kl", "KL to a mixture with the student", "Ko et al. 2024", Term("skew-kl", alpha=0.1)),
        _simple(
            "on-policy",
            "half of the time on the student's own text, scored by the teacher",
            "Agarwal et al. 2023",
            Term("jsd", beta=0.5),
            student_text=0.5,
        ),
    )
}
"""Name → recipe, in the order in which they are listed."""


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build from what `Recipe.to_dict` returned. Raises ConfigError on unknown or missing entries."""
    given = dict(values)
    phases = tuple(_phase(dict(phase)) for phase in given.pop("phases", ()))
    recipe: Recipe = _build(Recipe, {**given, "phases": phases}, "recipe")
    return recipe


def _build(cls: type, values: dict[str, Any], what: str) -> Any:
    """Call a dataclass by field names. Raises ConfigError naming unknown or missing ones."""
    known = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"{what} has unknown entries {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{what} is incomplete or has a value of a wrong type: {error}") from error


def _phase(values: dict[str, Any]) -> Phase:
    """Build a phase, with the terms and texts of the recipes it includes before its own."""
    terms: dict[str, Term] = {}
    for name in values.pop("include", ()):
        recipe = named(name)
        if len(recipe.phases) > 1:
            raise ConfigError(
                f"recipe {name!r} has several phases, so none of them can include it; start from "
                f"`edgetext recipes {name} --toml`"
            )
        phase = recipe.phases[0]
        terms |= {term.loss: term for term in phase.terms}
        for text in ("teacher_text", "student_text"):
            if getattr(phase, text):
                values.setdefault(text, getattr(phase, text))
    for term in values.pop("terms", ()):
        built = _build(Term, dict(term), "a term")
        terms[built.loss] = built
    result: Phase = _build(Phase, {**values, "terms": tuple(terms.values())}, "a phase")
    return result


def read_recipe(text: str) -> Recipe:
    """Return the recipe of that name, or read it from a TOML file.

    Raises ConfigError if there is neither, or if the file cannot work.
    """
    path = Path(text)
    if not text.endswith(".toml"):
        return named(text)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--recipe {text} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--recipe {text} is not TOML: {error}") from error
    defaults = {"name": path.stem, "summary": "a recipe of one's own", "source": path.name}
    try:
        return recipe_from_dict({**defaults, **values})
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"--recipe {text}: {error}") from error


def named(name: str) -> Recipe:
    """Return a recipe by name. Raises ConfigError listing them."""
    if name not in RECIPES:
        raise ConfigError(
            f"recipe {name!r} is unknown; use one of {', '.join(RECIPES)} (see `edgetext recipes`), or the "
            f"path of a .toml file"
        )
    return RECIPES[name]

"""The golden cases of a bundle: prompts with the tokens they gave where the bundle was made."""

from typing import Any, NamedTuple

from .errors import InputError
from .manifest import damaged, is_count, parse_json_object
from .sampling import GenerationDefaults, check_seed

_FIELDS = {"prompt", "prompt_tokens", "sampling", "tokens"}


class GoldenCase(NamedTuple):
    """One case.

    Attributes:
        prompt: the text to continue.
        prompt_tokens: its ids, without the start token.
        settings: keyword arguments of ``Generator.generate``: sampling, ``seed`` and ``max_new_tokens``.
        tokens: the ids that were generated, without the final end-of-text.
    """

    prompt: str
    prompt_tokens: tuple[int, ...]
    settings: dict[str, Any]
    tokens: tuple[int, ...]


def read_golden(data: bytes, vocab_size: int) -> tuple[GoldenCase, ...]:
    """Read ``golden.json``.

    Args:
        data: the member's content.
        vocab_size: every id must be below.

    Raises:
        BundleError: if it is not JSON, or a case has a missing, unknown or invalid field.
    """
    cases = parse_json_object(data, "golden.json").get("cases")
    if not isinstance(cases, list):
        raise damaged("golden.json: must have a list of cases")
    return tuple(_read_case(case, f"golden.json: case {n}", vocab_size) for n, case in enumerate(cases))


def _read_case(case: object, where: str, vocab_size: int) -> GoldenCase:
    if not isinstance(case, dict) or set(case) != _FIELDS:
        raise damaged(f"{where} must have exactly {sorted(_FIELDS)}")
    prompt, sampling = case["prompt"], case["sampling"]
    if not isinstance(prompt, str) or not isinstance(sampling, dict):
        raise damaged(f"{where} must have a text as prompt and an object as sampling")
    for name in ("prompt_tokens", "tokens"):
        ids = case[name]
        if not isinstance(ids, list) or not all(is_count(i) and i < vocab_size for i in ids):
            raise damaged(f"{where}: {name} must be ids below {vocab_size}")
    given = {name: value for name, value in sampling.items() if value is not None}
    settings = {"max_new_tokens": max(1, len(case["tokens"])), "seed": 0, **given}
    try:
        check_seed(settings["seed"])
        GenerationDefaults().override(**{k: v for k, v in settings.items() if k not in ("seed", "label")})
    except (InputError, TypeError) as error:
        raise damaged(f"{where}: sampling {sampling!r} is not understood ({error})") from error
    # One token more than expected tells as much as all that a case may ask for.
    settings["max_new_tokens"] = min(settings["max_new_tokens"], len(case["tokens"]) + 1)
    return GoldenCase(prompt, tuple(case["prompt_tokens"]), settings, tuple(case["tokens"]))

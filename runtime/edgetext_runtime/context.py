"""What happens when a text outgrows a Transformer's context; recurrent models have no limit.

- ``"error"``: a prompt that does not fit is refused; a generation that fills the context ends with "context".
- ``"truncate_left"``: of a prompt that does not fit, the beginning is dropped, start token included, so that
  ``max_new_tokens`` more fit after it, but at least the last half of the context is kept; a generation that
  fills the context ends with "context".
- ``"slide"``: whenever the context is full, in the prompt or later, the model starts anew from the last half
  of the context (rounded down, at least one token) and goes on; there is no end but those asked for.

What was dropped is forgotten by the model, though penalties and processors still see it.
"""

from collections.abc import Sequence

from .errors import InputError
from .options import ContextPolicy


def fit_prompt(
    tokens: Sequence[int], limit: int | None, policy: ContextPolicy, *, room: int, name: str = "prompt"
) -> list[int]:
    """The tokens to feed so that they fit the context.

    Args:
        tokens: the ids, start token included.
        limit: the context, or ``None``.
        policy: what to do when they do not fit.
        room: how many more tokens are to come.
        name: what the text is called in the error message.

    Raises:
        InputError: if they do not fit and the policy is ``"error"``.
    """
    if limit is None or len(tokens) <= limit:
        return list(tokens)
    if policy == "error":
        raise InputError(
            f"{name} has {len(tokens)} tokens with the start token; allowed is the model's context of "
            f"{limit}: shorten it, or choose a context_policy that drops its beginning"
        )
    if policy == "slide":
        return last_half(tokens, limit)
    return list(tokens[-max(limit - room, limit // 2, 1) :])


def last_half(tokens: Sequence[int], limit: int) -> list[int]:
    """The last tokens, as many as half of the context."""
    return list(tokens[-max(limit // 2, 1) :])

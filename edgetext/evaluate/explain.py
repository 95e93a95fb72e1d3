"""What a student makes of a text, token by token: probabilities, its teacher's view, saliency, attention."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgetext.adversarial.resample import Rater, pack
from edgetext.adversarial.train_rater import has_rater, rater_of
from edgetext.errors import ConfigError
from edgetext.evaluate.candidates import Checkpoint, likeness, open_candidate

LIKELIEST = 5
"""Tokens shown beside each one that was there."""
MOST_SHOWN = 256
"""Tokens of a text that are explained."""


@dataclass(frozen=True)
class TokenView:
    """One token of the text and what was expected in its place."""

    text: str
    probability: float
    """Of this token under the student."""
    entropy: float
    """Of the student's distribution, nats."""
    likeliest: tuple[tuple[str, float], ...]
    """What the student found likeliest."""
    teacher_probability: float | None
    """Of this token under the teacher."""
    kl: float | None
    """KL(teacher ‖ student) at this place, nats."""
    saliency: float | None
    """How far this token moves the discriminator's logit: gradient times input; above 0: more real."""


@dataclass(frozen=True)
class Explanation:
    """A text explained."""

    model: str
    tokens: tuple[TokenView, ...]
    logit: float | None
    """The discriminator's, log p_data / p_student of the whole text; None without one."""
    attention: tuple[tuple[float, ...], ...]
    """Of a Transformer's last layer, mean over heads: row t is where the prediction of token t looked; else
    empty."""


def explain(run: Path, text: str, teacher: Path | None = None) -> Explanation:
    """Explain a text by a run's student (or a model directory), with its teacher and discriminator if there.

    Raises ConfigError if the text has no tokens, is too long, or the teacher reads other ids.
    """
    student = open_candidate(run)
    if not isinstance(student, Checkpoint):
        raise ConfigError(f"{run} is a bundle, which shows probabilities only; give the run it was made from")
    tokenizer = student.tokenizer
    ids = tokenizer.encode(text)
    limit = min(MOST_SHOWN, student.model.config.context or MOST_SHOWN)
    if not 0 < len(ids) <= limit:
        raise ConfigError(
            f"the text has {len(ids)} tokens; explained are 1 to {limit}, so give another --text"
        )
    inputs = [tokenizer.eos_id, *ids[:-1]]
    ours = torch.from_numpy(student.log_probabilities(inputs))  # [T,V]
    theirs = None
    if teacher is not None:
        other = open_candidate(teacher)
        likeness(student, other, [])  # refuses other vocabularies
        theirs = torch.from_numpy(other.log_probabilities(inputs))
    saliency, logit = None, None
    if has_rater(run):
        saliency, logit = _saliency(rater_of(run), ids)
    views = []
    for place, token in enumerate(ids):
        log_p = ours[place]
        top = log_p.topk(min(LIKELIEST, len(log_p)))
        names = [_name(tokenizer.decode([int(i)]), int(i)) for i in top.indices]
        q = None if theirs is None else theirs[place]
        views.append(
            TokenView(
                _name(tokenizer.decode([token]), token),
                math.exp(float(log_p[token])),
                float(-(log_p.exp() * log_p).nansum()),
                tuple(zip(names, top.values.exp().tolist(), strict=True)),
                None if q is None else math.exp(float(q[token])),
                None if q is None else float((q.exp() * (q - log_p)).nansum()),
                None if saliency is None or place >= len(saliency) else saliency[place],
            )
        )
    return Explanation(str(run), tuple(views), logit, _attention(student, inputs))


def _name(text: str, token: int) -> str:
    return text or {0: "<end>", 1: "<pad>", 2: "<unknown>"}.get(token, f"<{token}>")


def _saliency(rater: Rater, ids: Sequence[int]) -> tuple[list[float], float]:
    """Gradient of the logit times the token's one-hot row, for the tokens that the discriminator reads."""
    network = rater.network.eval()
    rows = pack([list(ids)], [True], rater.length, rater.eos_id, rater.pad_id)
    one_hot = torch.nn.functional.one_hot(rows, network.embedding.in_features).float().requires_grad_()
    logit: Tensor = network(one_hot)[0] * rater.scale
    (gradient,) = torch.autograd.grad(logit, one_hot)
    own = gradient.gather(-1, rows[..., None])[0, :, 0] - gradient.mean(-1)[0]  # against an average token
    return own[: min(len(ids), rater.length)].tolist(), float(logit.detach())


@torch.no_grad()
def _attention(student: Checkpoint, inputs: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Mean attention of the last layer's heads [T,T]; nothing for an LSTM or a model with labels."""
    if student.labels:
        return ()
    output = student.model(torch.tensor([list(inputs)]), internals=True)
    if not output.attention:
        return ()
    scores = output.attention[-1][0].float()  # [heads,T,T]
    future = torch.ones(scores.shape[-2:]).triu(1).bool()
    weights = scores.masked_fill(future, -torch.inf).softmax(-1).mean(0)
    return tuple(tuple(row) for row in weights.tolist())


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:2rem}p.note{color:#666;font-size:.85rem}
.text span{padding:.15rem .1rem;border-radius:.2rem;white-space:pre-wrap}
table{border-collapse:collapse;font-size:.85rem}td,th{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid #eee}td:first-child,th:first-child,.left{text-align:left!important}
.map td{padding:0;width:1.1rem;height:1.1rem;border:0}.map th{font-weight:normal;border:0;padding:0 .4rem}
.scroll{overflow-x:auto}
"""


def page(explanation: Explanation) -> str:
    """One HTML page that needs nothing else: no script, no font, no network."""
    tokens = explanation.tokens
    mean = sum(-math.log(max(t.probability, 1e-45)) for t in tokens) / len(tokens)
    parts = [
        f"<h1>{html.escape(explanation.model)}: {len(tokens)} tokens, {mean:.2f} nats per token</h1>",
        _coloured(
            "Probability", tokens, [1 - t.probability for t in tokens], "the redder, the less expected"
        ),
    ]
    if tokens[0].kl is not None:
        kl = [t.kl or 0.0 for t in tokens]
        parts.append(
            _coloured("Teacher against student", tokens, kl, "the redder, the more they differ (KL)")
        )
    if explanation.logit is not None:
        values = [t.saliency or 0.0 for t in tokens]
        title = f"Discriminator: logit {explanation.logit:+.2f}"
        note = "red makes the text look written, green makes it look real"
        parts.append(_coloured(title, tokens, [-v for v in values], note))
    parts.append(_table(tokens))
    if explanation.attention:
        parts.append(_map(tokens, explanation.attention))
    body = "\n".join(parts)
    head = f"<meta charset='utf-8'><title>edgetext explain</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"


def _coloured(title: str, tokens: Sequence[TokenView], values: Sequence[float], note: str) -> str:
    """The text with a colour behind every token: red above 0, green below, by the largest."""
    largest = max(max(abs(v) for v in values), 1e-12)
    spans = []
    for token, value in zip(tokens, values, strict=True):
        share = abs(value) / largest
        colour = f"rgba({'209,73,91' if value > 0 else '11,122,117'},{0.75 * share:.2f})"
        tip = f"p {token.probability:.3g}"
        spans.append(f"<span style='background:{colour}' title='{tip}'>{html.escape(token.text)}</span>")
    joined = " ".join(spans)
    return f"<h2>{html.escape(title)}</h2><p class='text'>{joined}</p><p class='note'>{html.escape(note)}</p>"


def _table(tokens: Sequence[TokenView]) -> str:
    """Every figure of every token."""
    head = ["token", "p", "entropy", "teacher p", "KL", "saliency", "likeliest"]
    rows = []
    for t in tokens:
        optional = (t.teacher_probability, t.kl, t.saliency)
        cells = [
            f"{t.probability:.3f}",
            f"{t.entropy:.2f}",
            *("–" if v is None else f"{v:.3f}" for v in optional),
        ]
        likeliest = ", ".join(f"{html.escape(name)} {p:.2f}" for name, p in t.likeliest)
        figures = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{html.escape(t.text)}</td>{figures}<td class='left'>{likeliest}</td></tr>")
    header = "".join(f"<th>{name}</th>" for name in head[:-1]) + f"<th class='left'>{head[-1]}</th>"
    return f"<h2>Every token</h2><div class='scroll'><table><tr>{header}</tr>{''.join(rows)}</table></div>"


def _map(tokens: Sequence[TokenView], attention: Sequence[Sequence[float]]) -> str:
    """Attention as a table of shades: a row per prediction, a column per token read."""
    read = ["<start>", *(t.text for t in tokens[:-1])]
    lines = []
    for token, row in zip(tokens, attention, strict=True):
        cells = "".join(
            f"<td style='background:rgba(122,81,149,{w:.2f})' title='{html.escape(name)} {w:.2f}'></td>"
            for name, w in zip(read, row, strict=True)
        )
        lines.append(f"<tr><th>{html.escape(token.text)}</th>{cells}</tr>")
    note = "Last layer, mean over heads; row: token being predicted, column: token read (hover for its name)."
    body = f"<div class='scroll'><table class='map'>{''.join(lines)}</table></div>"
    return f"<h2>Attention</h2>{body}<p class='note'>{note}</p>"

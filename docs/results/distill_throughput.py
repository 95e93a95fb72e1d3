"""Tokens per second of distillation: edgetext's loop beside a plain transformers loop.

    python docs/results/distill_throughput.py RUN [-o throughput.json]

RUN is any run of edgetext; its training split is what both loops read. Both distil the same Llama-shaped
teacher into the same Llama-shaped student (random weights, equal in both), batch by batch on the same rows,
soft and hard targets, AdamW, clipping. The plain loop is what `transformers` and TRL users write:
`LlamaForCausalLM` for both, rows padded to the longest of a shuffled batch, `F.kl_div` with "batchmean". The
loops take turns; a figure is the median over the turns, in real tokens (padding does not count).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F

from edgetext.distill.recipes import RECIPES
from edgetext.distill.targets import LiveTargets
from edgetext.distill.tasks import DistillTask
from edgetext.evaluate.summary import processor
from edgetext.models import build_model
from edgetext.models.presets import resolve_model
from edgetext.models.transformer import TransformerGenerator
from edgetext.training.data import DocumentSampler, WindowSampler, open_stream
from edgetext.training.loop import build_optimizer
from edgetext.training.processes import resolve_precision
from edgetext.training.settings import OptimizerSettings

TEACHER, STUDENT = "transformer-teacher,dropout=0.0", "transformer-student"
RATE, CLIP = 1e-3, 1.0


def as_llama(model: TransformerGenerator) -> transformers.LlamaForCausalLM:
    """Return the same model, weight for weight, in transformers."""
    c = model.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden,
        intermediate_size=c.ffn,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tied,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    llama = transformers.LlamaForCausalLM(config)
    ours = model.state_dict()
    widths = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
    theirs = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    theirs["lm_head.weight"] = ours["head.weight"]
    for i in range(c.layers):
        a, b = f"blocks.{i}.", f"model.layers.{i}."
        q, k, v = ours[a + "attention.qkv.weight"].split(widths)
        gate, up = ours[a + "ffn.gate_up.weight"].chunk(2)
        theirs |= {
            b + "input_layernorm.weight": ours[a + "attention_norm.weight"],
            b + "self_attn.q_proj.weight": q,
            b + "self_attn.k_proj.weight": k,
            b + "self_attn.v_proj.weight": v,
            b + "self_attn.o_proj.weight": ours[a + "attention.output.weight"],
            b + "post_attention_layernorm.weight": ours[a + "ffn_norm.weight"],
            b + "mlp.gate_proj.weight": gate,
            b + "mlp.up_proj.weight": up,
            b + "mlp.down_proj.weight": ours[a + "ffn.down.weight"],
        }
    llama.load_state_dict(theirs)
    return llama


class Loop:
    """One side: `step` trains on a batch and returns its real tokens."""

    def __init__(self, step: Callable[[int], int]) -> None:
        self.step, self.done, self.rates = step, 0, list[float]()

    def turn(self, steps: int) -> None:
        """Train a few steps and note the rate."""
        started, tokens = time.perf_counter(), 0
        for _ in range(steps):
            tokens += self.step(self.done)
            self.done += 1
        self.rates.append(tokens / (time.perf_counter() - started))


def ours(sampler: DocumentSampler | WindowSampler, vocab_size: int, bf16: bool) -> tuple[Loop, DistillTask]:
    """Our step, without the bookkeeping of the loop (checkpoints, metrics) on either side."""
    torch.manual_seed(0)
    teacher, student = (build_model(resolve_model(spec, vocab_size)) for spec in (TEACHER, STUDENT))
    task = DistillTask(
        "bench", student, RECIPES["hinton"], 10**6, sampler, [], OptimizerSettings(RATE),
        targets=LiveTargets(teacher), teacher=teacher.config,
    )  # fmt: skip
    task.prepare({**task.players, **task.frozen}, torch.device("cpu"))
    optimizer = build_optimizer(student, OptimizerSettings(RATE))

    def step(number: int) -> int:
        student.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, figures = task.loss(number, 0)
        float(loss.detach()), [float(value) for value in figures.values()]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        return int(sampler.batch(number).mask.sum())

    return Loop(step), task


def plain(
    task: DistillTask, sampler: DocumentSampler | WindowSampler, bf16: bool, shuffled: np.ndarray | None
) -> Loop:
    """The loop that users of transformers write, from the same weights and of the same rows."""
    teacher = as_llama(task.targets.teacher).eval()
    student = as_llama(task.model).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)

    def rows(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if shuffled is None:
            batch = sampler.batch(number)
            return batch.tokens, torch.ones_like(batch.tokens)
        from edgetext.training.data import pad_rows

        B = sampler.batch_size
        first = number * B % (len(shuffled) - B)
        tokens, mask = pad_rows(sampler.stream, shuffled[first : first + B])
        return tokens, torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1).long()

    def step(number: int) -> int:
        ids, attention = rows(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                theirs = teacher(input_ids=ids, attention_mask=attention).logits
            labels = ids.masked_fill(attention == 0, -100)
            output = student(input_ids=ids, attention_mask=attention, labels=labels)
            kept = attention[:, 1:].bool()
            log_q = F.log_softmax(output.logits[:, :-1][kept].float(), dim=-1)
            p = F.softmax(theirs[:, :-1][kept].float(), dim=-1)
            loss = 0.1 * output.loss + 0.9 * F.kl_div(log_q, p, reduction="batchmean")
        float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        return int(kept.sum())

    return Loop(step)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=96)
    given = parser.parse_args()
    stream = open_stream(given.run / "data" / "train.npy")
    vocab_size = json.loads((given.run / "corpus.json").read_text())["tokenizer"]["vocab_size"]
    records = []
    for kind in ("stream", "document"):
        sampler = (DocumentSampler if kind == "document" else WindowSampler)(
            stream, given.length, given.batch_size * (4 if kind == "document" else 1), 0
        )
        shuffled = None
        if isinstance(sampler, DocumentSampler):
            shuffled = sampler.rows[np.random.default_rng(0).permutation(len(sampler.rows))]
        auto = resolve_precision("auto", torch.device("cpu")) == "bf16"
        loops: dict[str, Loop] = {}
        for bf16 in (False, True):
            name = "bf16" if bf16 else "fp32"
            loops[f"edgetext {name}"], task = ours(sampler, vocab_size, bf16)
            loops[f"transformers {name}"] = plain(task, sampler, bf16, shuffled)
        for turn in range(given.turns + 1):
            for loop in loops.values():
                loop.turn(given.steps)
                if turn == 0:
                    loop.rates.clear()  # warm-up
        rates = {name: statistics.median(loop.rates) for name, loop in loops.items()}
        print(f"{kind} windows, batch {sampler.batch_size}, teacher {TEACHER}, student {STUDENT}")
        for name, rate in rates.items():
            print(f"  {name:<18} {rate:>9,.0f} tokens/s")
        as_it_comes = rates["edgetext bf16" if auto else "edgetext fp32"] / rates["transformers fp32"]
        fp32, bf16 = (rates[f"edgetext {name}"] / rates[f"transformers {name}"] for name in ("fp32", "bf16"))
        print(f"  ratio fp32 {fp32:.2f}, bf16 {bf16:.2f}, as each comes {as_it_comes:.2f}")
        records.append(
            {
                "windows": kind,
                "batch_size": sampler.batch_size,
                "length": given.length,
                "vocab_size": vocab_size,
                "teacher": TEACHER,
                "student": STUDENT,
                "tokens_per_second": {name: loop.rates for name, loop in loops.items()},
            }
        )
    record = {
        "label": "measured",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "records": records,
    }
    if given.output:
        given.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

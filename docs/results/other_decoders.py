"""Export decoders that have no native graph: ``python docs/results/other_decoders.py FOLDER``.

Two layers of width 32 with random weights and a byte-level tokenizer of the embedded corpus each; one JSON
line a family: how far the bundle is from torch, or why there is none.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgetext.corpus import CorpusConfig, iter_documents
from edgetext.errors import ExportError
from edgetext_export import export_run

END = "<|endoftext|>"
TOKENS = 500
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
GATED = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 16}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "GPTNeoX": SHAPE | {"intermediate_size": 48},
    "OPT": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Phi": SHAPE | {"intermediate_size": 48},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 8},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "Falcon": SHAPE,
    "Qwen3": GATED,
    "Gemma2": GATED | {"sliding_window": 32},
    "Qwen3Moe": GATED | EXPERTS,
}


def tokenizer() -> Tokenizer:
    """A byte-level BPE of 512 tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(islice(iter_documents(CorpusConfig()), 200), trainer)
    return made


def export(folder: Path, family: str, shared: Tokenizer) -> dict[str, object]:
    """Write a model of a family and export it."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=shared.get_vocab_size(), bos_token_id=0, eos_token_id=0, pad_token_id=0, **FAMILIES[family]
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # or all logits would be nearly equal
    model.save_pretrained(folder / family)
    shared.save(str(folder / family / "tokenizer.json"))
    record: dict[str, object] = {"family": family}
    for recipe in ("fp32", "int8"):
        try:
            report = export_run(
                folder / family, folder / f"{family}-{recipe}.etx", recipe, True, quality_tokens=TOKENS
            )
        except ExportError as error:
            return record | {"refused": str(error).replace(str(folder / family), family)}
        record[recipe] = {"model_bytes": report.model_bytes, **report.quality.to_dict()}
    return record


def main() -> None:
    """Go through the families."""
    folder, shared = Path(sys.argv[1]), tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        print(json.dumps(export(folder, family, shared)), flush=True)


if __name__ == "__main__":
    main()

"""Two Hugging Face directories with random weights: ``python make_huggingface.py TEXT OUT``.

OUT/gpt2 is a GPT-2-shaped causal language model, OUT/llama a Llama-shaped one, each with a byte-level BPE of
2,000 tokens trained on TEXT. What is learned from them has to be learned by `--finetune-steps` first.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from edgetext.tokenizer_sections import LLAMA3_REGEX

END = "<|endoftext|>"
VOCABULARY = 2000
WIDTH, LAYERS, HEADS, CONTEXT = 192, 4, 6, 128


def byte_level_bpe(text: Path, family: str) -> Tokenizer:
    """A byte-level BPE that splits text as GPT-2 or as Llama 3 does."""
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family == "gpt2")
    steps = [plain] if family == "gpt2" else [pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"), plain]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else plain
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.read_text(encoding="utf-8").splitlines(), trainer)
    return tokenizer


def main() -> None:
    """Write both directories."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python make_huggingface.py TEXT OUT")
    text, out = Path(sys.argv[1]), Path(sys.argv[2])
    for family in ("gpt2", "llama"):
        tokenizer = byte_level_bpe(text, family)
        size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(END)
        ends = {"vocab_size": size, "bos_token_id": end, "eos_token_id": end}
        torch.manual_seed(0)
        if family == "gpt2":
            shape = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
            model = GPT2LMHeadModel(GPT2Config(**ends, **shape))
        else:
            model = LlamaForCausalLM(
                LlamaConfig(
                    **ends,
                    hidden_size=WIDTH,
                    intermediate_size=512,
                    num_hidden_layers=LAYERS,
                    num_attention_heads=HEADS,
                    num_key_value_heads=2,
                    max_position_embeddings=CONTEXT,
                    tie_word_embeddings=True,
                )
            )
        model.save_pretrained(out / family)
        tokenizer.save(str(out / family / "tokenizer.json"))
        described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
        (out / family / "tokenizer_config.json").write_text(json.dumps(described))
        print(f"{out / family}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()

"""Tiny Hugging Face directories, built with random weights and a tokenizer trained on a few sentences."""

import json

import torch

SENTENCES = [
    "The old miller doesn't sell flour on Sundays; he rests.\n",
    "The river carried the miller's boat past 12 mills and 3 bridges in 1987.",
    "  Indented lines,\n\n\tand tabs: they're all text (naïve café, 日本語, ½).",
    "The boat, the bridge, the mill: all the same river, the same old river.",
]
END = "<|endoftext|>"
BEGIN = "<|begin|>"


def byte_level_tokenizer(family, vocab_size=420):
    """A byte-level BPE as GPT-2 or Llama 3 have theirs, as the library writes it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from edgetext.tokenizer_sections import LLAMA3_REGEX

    tokenizer = Tokenizer(models.BPE())
    if family == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [END] if family == "gpt2" else [BEGIN, END]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def save_teacher(directory, family, *, tokenizer=None, context=64):
    """Write a GPT-2- or Llama-shaped model with random weights and its tokenizer; return the model."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer or byte_level_tokenizer(family)
    size = tokenizer.get_vocab_size()
    end = tokenizer.token_to_id(END)
    torch.manual_seed(5)
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size,
                n_positions=context,
                n_embd=32,
                n_layer=2,
                n_head=4,
                bos_token_id=end,
                eos_token_id=end,
            )
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size + 4,  # some families round their matrices up
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=context,
                bos_token_id=tokenizer.token_to_id(BEGIN),
                eos_token_id=end,
                tie_word_embeddings=False,
            )
        )
    for parameter in model.parameters():  # wide enough that the distributions are not flat
        parameter.data.mul_(4)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"eos_token": END, "bos_token": END if family == "gpt2" else BEGIN}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(described))
    return model.eval()


def save_decoder(directory, kind, options):
    """Write a decoder, random weights, and a byte-level tokenizer; return both and the id that begins."""
    import transformers

    tokenizer = byte_level_tokenizer("gpt2" if kind == "GPT2" else "llama3")
    end, begin = (tokenizer.token_to_id(token) for token in (END, END if kind == "GPT2" else BEGIN))
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokenizer.get_vocab_size() + 3, eos_token_id=end, bos_token_id=begin, **options
    )
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return model.eval(), tokenizer, begin

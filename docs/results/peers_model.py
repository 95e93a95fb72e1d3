"""Write the model of the comparison with peers: ``python docs/results/peers_model.py DIRECTORY``.

Llama-shaped: 6 layers, width 288, feed-forward 768, 6 heads, 32,000 tokens, random weights; a byte-level BPE
trained on the embedded corpus, filled up with pairs of its tokens. Speed does not depend on the weights.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from edgetext.corpus import CorpusConfig, iter_documents

VOCABULARY = 32_000
END = "<|endoftext|>"


def byte_pairs() -> Tokenizer:
    """Train the tokenizer, then add merges of two of its tokens until there are enough."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_documents(CorpusConfig()), trainer)
    document = json.loads(tokenizer.to_str())
    vocab, merges = document["model"]["vocab"], document["model"]["merges"]
    tokens = [token for token in vocab if token != END]
    for left, right in ((a, b) for a in tokens for b in tokens[:40]):
        if len(vocab) == VOCABULARY:
            break
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append([left, right])
    return Tokenizer.from_str(json.dumps(document))


def main() -> None:
    """Write model and tokenizer."""
    directory = Path(sys.argv[1])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_pairs().save(str(directory / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (directory / "tokenizer_config.json").write_text(json.dumps(described))


if __name__ == "__main__":
    main()

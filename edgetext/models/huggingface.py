"""Causal language models of ``transformers`` as generators, read from a local directory.

A directory is what ``save_pretrained`` writes: ``config.json``, ``*.safetensors`` and the tokenizer's files.
Nothing is fetched from a network, no code of the directory is run and no pickle is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgetext.checkpoint import CONFIG_FILE, write_atomic
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.config import ModelConfig
from edgetext_runtime.errors import DependencyError

__all__ = [
    "HuggingFaceGenerator",
    "huggingface_sha256",
    "is_huggingface",
    "load_huggingface",
    "special_ids",
    "transformers_library",
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files beside the weights that a saved copy takes along, as they are."""
UNLIMITED = 1 << 20
"""Context of a model that states none (its positions are relative)."""


class HuggingFaceGenerator(GeneratorModel):
    """A ``transformers`` causal language model behind the interface of all generators.

    The state is every layer's keys and values, each [B,K,T,D]; they are kept whole, whatever window a layer
    attends to. `hidden` is what ``transformers`` gives: the embedding output, then each layer's output, the
    last one after the final norm. There are no attention scores or values to reach. `config` describes the
    shape as far as it has names in `ModelConfig`; it does not rebuild the model.
    """

    def __init__(self, model: nn.Module, files: dict[str, bytes] | None = None) -> None:
        """Wrap a ``transformers`` model; `files` are the tokenizer's files, by name, that `save` writes.

        Raises ConfigError if the model does not work as a generator does.
        """
        super().__init__()
        self.model = model
        self.files = dict(files or {})
        self.config = _shape(model.config)
        self._cache_name = _cache_name(model)
        self._probe()

    @property
    def embedding(self) -> nn.Embedding:  # type: ignore[override]
        """The input embedding [V,E], which belongs to the wrapped model."""
        return self.model.get_input_embeddings()  # type: ignore[operator]

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`. Raises ValueError past the context length."""
        if condition is not None:
            raise ValueError("a transformers model is unconditioned; condition must be None")
        given = tokens if embeddings is None else embeddings
        if given is None or (tokens is not None and embeddings is not None):
            raise ValueError("give exactly one of tokens and embeddings")
        end = given.shape[1] + (0 if state is None else state[0].shape[2])
        if end > self.config.context:
            raise ValueError(f"{end} tokens exceed the context of {self.config.context}")
        return self.compute(tokens, state, embeddings)

    def compute(self, tokens: Tensor | None, state: State | None, embeddings: Tensor | None = None) -> Output:
        """`forward` without its checks, which a tracer that knows no lengths cannot follow."""
        cache = _cache(state)
        output = self.model(
            input_ids=tokens,
            inputs_embeds=embeddings,
            use_cache=True,
            output_hidden_states=True,
            return_dict=True,
            **{self._cache_name: cache},
        )
        return Output(output.logits, tuple(output.hidden_states), _state(cache))

    def embed_distribution(self, probabilities: Tensor) -> Tensor:
        """Expected embedding [B,T,E] of token distributions [B,T,V], scaled as the model scales its own."""
        ids = torch.arange(self.config.vocab_size, device=probabilities.device)
        return probabilities @ self.embedding(ids).to(probabilities.dtype)

    def save(self, directory: Path) -> None:
        """Write a directory that `load_huggingface` (and ``transformers``) reads, config.json last."""
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as work, _quiet():
            self.model.save_pretrained(work)  # type: ignore[operator]
            written = sorted(Path(work).iterdir(), key=lambda path: (path.name == CONFIG_FILE, path.name))
            for name, data in self.files.items():
                write_atomic(directory / name, data)
            for path in written:
                path.replace(directory / path.name)

    @torch.no_grad()
    def _probe(self) -> None:
        """Run one token, so that a model of another build is refused now and not in the midst of a run."""
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        output = self(torch.zeros(1, 1, dtype=torch.int64, device=device))
        self.model.train(was_training)
        if len(output.state) != 2 * self.config.layers or any(s.ndim != 4 for s in output.state):
            raise _unusable(self.model, "not every layer has keys and values of its own")
        if output.logits.shape[-1] != self.config.vocab_size:
            raise _unusable(
                self.model,
                f"it gives {output.logits.shape[-1]} logits for {self.config.vocab_size} token ids",
            )
        if len(output.hidden) != self.config.layers + 1:
            raise _unusable(self.model, f"it has {len(output.hidden)} hidden states")


def transformers_library() -> Any:
    """Return the ``transformers`` package. Raises DependencyError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise DependencyError("transformers is not installed: pip install 'edgetext[hf]'") from None
    return transformers


def is_huggingface(directory: Path | str) -> bool:
    """Whether a directory holds a model of ``transformers`` (its config.json names a model type)."""
    try:
        config = json.loads((Path(directory) / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and isinstance(config.get("model_type"), str)


def load_huggingface(directory: Path | str) -> HuggingFaceGenerator:
    """Read a local directory; returns the generator in evaluation mode, float32, on the CPU.

    Raises DependencyError without ``transformers``, CheckpointError if the directory is no such model, is
    incomplete, or holds its weights in pickles only, ConfigError if the model does not work as a generator.
    """
    directory = Path(directory)
    _check_files(directory)
    library = transformers_library()
    try:
        with _quiet():
            model, info = library.AutoModelForCausalLM.from_pretrained(
                directory,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a damaged or foreign file makes the library raise
        raise CheckpointError(
            f"{directory} cannot be read as a causal language model: {type(error).__name__}: {error}"
        ) from error
    lost = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if lost:
        raise CheckpointError(
            f"{directory} lacks {len(lost)} weights of its model, among them {lost[0]}; copy or download it "
            f"again"
        )
    files = {
        name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).is_file()
    }
    return HuggingFaceGenerator(model, files).eval()


def special_ids(directory: Path | str) -> tuple[int, int]:
    """Return the ids (end, begin) of a text in a model directory, from its config.json.

    The first of several end ids is taken; a model without a begin id begins with its end id. Raises
    CheckpointError if no end id is given, or one is not in the vocabulary.
    """
    path = Path(directory) / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
        config = {**config, **(config.get("text_config") or {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    end, begin = (_first(config.get(name)) for name in ("eos_token_id", "bos_token_id"))
    if end is None:
        raise CheckpointError(f"{path} has no eos_token_id; add the id of the token that ends a text")
    begin = end if begin is None else begin
    size = config.get("vocab_size")
    for name, token in (("eos_token_id", end), ("bos_token_id", begin)):
        if not isinstance(size, int) or not 0 <= token < size:
            raise CheckpointError(f"{path}: {name} is {token}, but vocab_size is {size}; correct it there")
    return end, begin


def huggingface_sha256(directory: Path | str) -> str:
    """SHA-256 over names and contents of a directory's config.json and weights."""
    digest = hashlib.sha256()
    for path in sorted([Path(directory) / CONFIG_FILE, *Path(directory).glob("*.safetensors")]):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()


def _first(value: Any) -> int | None:
    """An id, or the first of a list of ids."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if type(value) is int else None


def _check_files(directory: Path) -> None:
    """Refuse what is no model, or no model in safetensors."""
    if not is_huggingface(directory):
        raise CheckpointError(
            f"{directory} is not a transformers model: it has no {CONFIG_FILE} that names a model_type"
        )
    if (directory / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{directory} holds an adapter, not a model; merge it into its base model first (peft: "
            f"merge_and_unload) and save that"
        )
    if any(directory.glob("*.safetensors")):
        return
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")) or any(directory.glob("*.pth")):
        raise CheckpointError(
            f"{directory} holds its weights as pickles, which can run code; if you trust its origin, convert "
            f'it: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )
    raise CheckpointError(f"{directory} holds no weights (*.safetensors); copy or download it again")


def _shape(config: Any) -> ModelConfig:
    """Describe a ``transformers`` configuration as a Transformer's shape."""
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    heads = int(getattr(text, "num_attention_heads", 0) or 1)
    if hidden % heads or (hidden // heads) % 2:
        heads = 1  # its heads do not make up the width; nothing here depends on their number
    kv_heads = int(getattr(text, "num_key_value_heads", 0) or heads)
    context = next(
        (
            int(value)
            for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
            if (value := getattr(text, name, None))
        ),
        UNLIMITED,
    )
    inner = next(
        (int(v) for name in ("intermediate_size", "n_inner", "ffn_dim") if (v := getattr(text, name, None))),
        4 * hidden,
    )
    return ModelConfig(
        kind="transformer",
        vocab_size=int(text.vocab_size),
        embedding=hidden,
        hidden=hidden,
        layers=int(text.num_hidden_layers),
        heads=heads,
        kv_heads=kv_heads if heads % kv_heads == 0 else heads,
        ffn=inner,
        context=context,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )


def _cache(state: State | None) -> Any:
    """Return a new cache of ``transformers`` that holds a state; updating it leaves the state as it is."""
    cache = transformers_library().DynamicCache()
    past = () if state is None else state
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    return cache


def _state(cache: Any) -> State:
    """Return keys and values of every layer, in turn."""
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


def _cache_name(model: nn.Module) -> str:
    """Name of the argument for the cache: ``cache`` since transformers 5.24, before ``past_key_values``."""
    import inspect

    known = inspect.signature(model.forward).parameters
    for name in () if getattr(model, "_is_stateful", False) else ("cache", "past_key_values"):
        if name in known:
            return name
    raise _unusable(model, "it has no key/value cache (a recurrent or state-space model)")


def _unusable(model: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"a {type(model).__name__} cannot be a teacher here: {reason}; use a decoder-only Transformer with a "
        f"plain key/value cache (GPT-2, Llama, Mistral, Qwen and their like)"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave the terminal to edgetext: no progress bars of ``transformers`` while it loads or saves."""
    logging = transformers_library().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

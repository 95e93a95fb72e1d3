"""A student's vocabulary inside its teacher's: which ids, which tokenizer, and the teacher seen through it.

Where both read text alike (byte-level BPE of the same family, or edgetext's own tokenizers), the student may
have fewer tokens: the teacher reads the student's ids through a `VocabularyMap`, and its distribution is
restricted to them and renormalised. Where they do not, text itself is handed over (`teacher_text`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetext.checkpoint import load_model, read_json, save_model, write_json
from edgetext.distill.byte_pairs import keep_tokens, translate
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.huggingface import HuggingFaceGenerator, is_huggingface, load_huggingface, special_ids
from edgetext.tokenization import split_long, tokenizer_document
from edgetext_runtime.tokenizer import Tokenizer
from edgetext_runtime.tokenizer_format import EOS, PAD, UNK, read_tokenizer

__all__ = [
    "VOCABULARY_FILE",
    "RestrictedGenerator",
    "VocabularyMap",
    "convert_tokenizer",
    "load_restricted",
    "restrict_tokenizer",
    "share_vocabulary",
    "student_tokenizer_from",
    "token_counts",
]

VOCABULARY_FILE = "vocabulary.json"
FORMAT_VERSION = 1
EOS_ID, PAD_ID, UNK_ID = 0, 1, 2
SMALLEST_BPE = 2 + 256
"""Special tokens and the 256 bytes, without which some text could not be coded."""
PADDING_GAP = 10.0
"""How far below the least likely token padding lies, where the teacher has no padding of its own."""


@dataclass(frozen=True)
class VocabularyMap:
    """Student id → teacher id. Student ids are edgetext's: 0 ends a text and begins the next, 1 is padding.

    Raises ConfigError if ids are not distinct or not the teacher's (padding alone may repeat the end's).
    """

    ids: tuple[int, ...]
    """Teacher id of every student id, [V_s]; of 0 the one that ends a text."""
    teacher_size: int
    """V_t, number of the teacher's token ids."""
    start: int
    """Teacher id that the student's 0 stands for when it is read: the one that begins a text."""
    rest: int | None = None
    """Student id that gets the probability of all tokens left out (``<unk>``); None renormalises instead."""
    coverage: float = 1.0
    """Share of the corpus's tokens, as the teacher cuts it, that the student has as well."""

    def __post_init__(self) -> None:
        """Check the ids."""
        wrong = [i for i in (*self.ids, self.start) if not 0 <= i < self.teacher_size]
        if wrong:
            raise ConfigError(
                f"teacher id {wrong[0]} of the vocabulary map is not below {self.teacher_size}: tokenizer "
                f"and teacher do not belong together; give the directory that holds both as --teacher"
            )
        own = self.ids[:1] + self.ids[2:] if self.pads_itself else self.ids
        if len(self.ids) < 3 or len(set(own)) != len(own):
            raise ConfigError("the vocabulary map gives two student ids the same teacher id")
        if self.rest is not None and not 0 <= self.rest < len(self.ids):
            raise ConfigError(f"the vocabulary map has no student id {self.rest} for the tokens left out")

    @property
    def pads_itself(self) -> bool:
        """Whether padding has no teacher id of its own."""
        return len(self.ids) > PAD_ID and self.ids[PAD_ID] == self.ids[EOS_ID]

    @property
    def array(self) -> NDArray[np.int64]:
        """`ids` as an array [V_s]."""
        return np.array(self.ids, dtype=np.int64)

    def then(self, outer: VocabularyMap) -> VocabularyMap:
        """Return the map through this one and then through `outer`, whose student ids are this teacher's."""
        if outer.rest is not None:
            raise ConfigError("a vocabulary that pools its left-out tokens cannot be restricted once more")
        return replace(
            self,
            ids=tuple(outer.ids[i] for i in self.ids),
            teacher_size=outer.teacher_size,
            start=outer.start if self.start == EOS_ID else outer.ids[self.start],
        )

    def save(self, directory: Path) -> None:
        """Write vocabulary.json into a teacher's directory."""
        write_json(directory / VOCABULARY_FILE, {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, directory: Path) -> VocabularyMap:
        """Read what `save` wrote. Raises CheckpointError if it is missing, newer or damaged."""
        path = directory / VOCABULARY_FILE
        values = read_json(path)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.pop("format_version", None) != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} is not a vocabulary map of format {FORMAT_VERSION}; pip install -U edgetext"
            )
        ids = values.get("ids")
        if set(values) != known or not isinstance(ids, list) or any(type(i) is not int for i in ids):
            raise CheckpointError(
                f"{path} is damaged: it needs {', '.join(sorted(known))}; make the run again"
            )
        return cls(**{**values, "ids": tuple(ids)})


class RestrictedGenerator(GeneratorModel):
    """A teacher as its student reads and writes: ids through a `VocabularyMap`, logits of its tokens only.

    Softmax over these logits is the teacher's distribution restricted to the student's tokens and
    renormalised; or, with `VocabularyMap.rest`, with the probability of all others on that token. Padding
    without a teacher id of its own lies below the least likely token by `PADDING_GAP`. Hidden states, state
    and parameters are the teacher's, so it is trained like any generator.
    """

    inputs: Tensor
    outputs: Tensor
    left_out: Tensor

    def __init__(self, model: GeneratorModel, vocabulary: VocabularyMap) -> None:
        """Raises ConfigError if the map is not of this teacher."""
        super().__init__()
        if model.config.vocab_size != vocabulary.teacher_size:
            raise ConfigError(
                f"the vocabulary map is of a teacher with {vocabulary.teacher_size} token ids, this one has "
                f"{model.config.vocab_size}; give the directory that the map was made for as --teacher"
            )
        self.model, self.vocabulary = model, vocabulary
        self.config = model.config.with_vocab(len(vocabulary.ids))
        outputs = torch.from_numpy(vocabulary.array)
        inputs = outputs.clone()
        inputs[EOS_ID] = vocabulary.start
        others = np.setdiff1d(np.arange(vocabulary.teacher_size), vocabulary.array)
        self.register_buffer("inputs", inputs, persistent=False)  # [V_s]
        self.register_buffer("outputs", outputs, persistent=False)  # [V_s]
        self.register_buffer("left_out", torch.from_numpy(others), persistent=False)  # [V_t - V_s]

    @property
    def embedding(self) -> torch.nn.Embedding:  # type: ignore[override]
        """The teacher's input embedding [V_t,E]."""
        return self.model.embedding

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`; ids and logits are the student's."""
        ids = None if tokens is None else self.inputs[tokens]
        output: Output = self.model(
            ids, state, embeddings=embeddings, condition=condition, internals=internals
        )
        return output._replace(logits=self.restrict(output.logits))

    def restrict(self, logits: Tensor) -> Tensor:
        """Map the teacher's logits [B,T,V_t] to logits over the student's tokens [B,T,V_s]."""
        chosen = logits.index_select(-1, self.outputs)  # [B,T,V_s]
        rest = self.vocabulary.rest
        if rest is not None and len(self.left_out):
            others = logits.index_select(-1, self.left_out).float().logsumexp(-1)  # [B,T]
            pooled = torch.logaddexp(chosen[..., rest].float(), others).to(chosen.dtype)
            chosen = chosen.index_copy(-1, self._id(rest), pooled[..., None])
        if self.vocabulary.pads_itself:
            floor = chosen.detach().amin(-1, keepdim=True) - PADDING_GAP
            chosen = chosen.index_copy(-1, self._id(PAD_ID), floor)
        return chosen

    def _id(self, token: int) -> Tensor:
        return torch.tensor([token], device=self.outputs.device)

    def embed_distribution(self, probabilities: Tensor) -> Tensor:
        """Expected embedding [B,T,E] of distributions over the student's tokens [B,T,V_s]."""
        wide = probabilities.new_zeros(*probabilities.shape[:-1], self.vocabulary.teacher_size)
        return self.model.embed_distribution(wide.index_add(-1, self.inputs, probabilities))

    def save(self, directory: Path) -> None:
        """Write the teacher's model directory and the map; `load_restricted` reads both."""
        if isinstance(self.model, HuggingFaceGenerator):
            self.model.save(directory)
        else:
            save_model(directory, self.model)
        self.vocabulary.save(directory)


def load_restricted(directory: Path | str, vocabulary: VocabularyMap | None = None) -> RestrictedGenerator:
    """Read a teacher and look at it through a map: the one given, or the one beside it.

    Raises what `load_huggingface`, `load_model` and `VocabularyMap.load` raise.
    """
    directory = Path(directory)
    mapped = VocabularyMap.load(directory) if vocabulary is None else vocabulary
    model = load_huggingface(directory) if is_huggingface(directory) else load_model(directory)
    return RestrictedGenerator(model, mapped).eval()


def share_vocabulary(
    directory: Path | str, texts: Iterable[str] | None = None, vocab_size: int | None = None
) -> tuple[bytes, VocabularyMap]:
    """Return the tokenizer.json of a Hugging Face teacher's student, and its map.

    Without `texts` the student gets the whole vocabulary; with them, see `student_tokenizer_from`. Raises
    ConfigError if the teacher's tokenizer cannot be shared, CheckpointError if the directory is incomplete.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(_unshared(f"{directory} has no tokenizer.json"))
    end, begin = special_ids(directory)
    config = read_json(directory / "config.json")
    size = int({**config, **(config.get("text_config") or {})}["vocab_size"])
    if texts is None:
        return convert_tokenizer(path.read_bytes(), size, end=end, begin=begin)
    return student_tokenizer_from(
        path.read_bytes(), texts, vocab_size, teacher_size=size, end=end, begin=begin
    )


def student_tokenizer_from(
    data: bytes, texts: Iterable[str], vocab_size: int | None, *, teacher_size: int, end: int, begin: int
) -> tuple[bytes, VocabularyMap]:
    """Cut a Hugging Face tokenizer.json down to what some texts need; returns ours and its map.

    Kept are the tokens that occur, all that they are merged from, and the 256 bytes; at most `vocab_size`
    (None: no limit), most needed first. If all fit, every one of these texts is cut as the teacher cuts it.
    `end` and `begin` are teacher ids. Raises ConfigError if the tokenizer cannot be shared.
    """
    full, outer = convert_tokenizer(data, teacher_size, end=end, begin=begin)
    counts = token_counts(full, texts)
    student, inner = restrict_tokenizer(full, len(outer.ids) if vocab_size is None else vocab_size, counts)
    return student, inner.then(outer)


def convert_tokenizer(data: bytes, teacher_size: int, *, end: int, begin: int) -> tuple[bytes, VocabularyMap]:
    """Rewrite a byte-level BPE tokenizer.json of another model as ours, every token kept; returns its map.

    Special tokens of the teacher are left out but for `end` and `begin`, which become ``<eos>``. Raises
    ConfigError if the tokenizer is of another build.
    """
    try:
        document, ids = translate(data, (EOS, PAD), without={end, begin})
    except ValueError as error:
        raise ConfigError(_unshared(str(error))) from error
    return _compact(document), VocabularyMap((end, end, *ids), teacher_size, begin)


def restrict_tokenizer(
    data: bytes, vocab_size: int, counts: Sequence[int] | NDArray[np.int64]
) -> tuple[bytes, VocabularyMap]:
    """Cut one of our own tokenizers down to `vocab_size` tokens; returns the smaller one and its map.

    `counts` [V_t] says how often each token occurs (see `token_counts`); the most needed stay, in order. Of
    words and characters the others become ``<unk>``, which also gets their probability; BPE keeps whatever a
    kept token is merged from, and writes the others in smaller pieces. Raises ConfigError if `vocab_size` is
    too small.
    """
    model = read_tokenizer(data)
    used = np.asarray(counts, dtype=np.int64)
    if len(used) != len(model.vocabulary):
        raise ConfigError(f"there are {len(used)} counts for {len(model.vocabulary)} tokens")
    bpe = model.kind == "bpe"
    special = [EOS, PAD] if bpe else [EOS, PAD, UNK]
    least = SMALLEST_BPE if bpe else len(special) + 1
    if vocab_size < least:
        raise ConfigError(f"--vocab-size is {vocab_size}; a {model.kind} vocabulary needs at least {least}")
    if bpe:
        kept = keep_tokens(model.vocabulary, model.merges, used, vocab_size)
    else:
        ranked = sorted(range(len(special), len(used)), key=lambda i: (-used[i], i))
        occurring = [i for i in ranked if used[i]] or ranked
        kept = [*range(len(special)), *sorted(occurring[: vocab_size - len(special)])]
    tokens = [model.vocabulary[i] for i in kept]
    vocab = {token: index for index, token in enumerate(tokens)}
    section: dict[str, Any] = {"type": "BPE" if bpe else "WordLevel", "vocab": vocab}
    if bpe:
        section["merges"] = [[a, b] for a, b in model.merges if a in vocab and b in vocab and a + b in vocab]
        if model.ignore_merges:
            section["ignore_merges"] = True
    else:
        section["unk_token"] = UNK
    total = int(used.sum())
    coverage = float(used[kept].sum()) / total if total else 1.0
    rest = None if bpe or len(kept) == len(used) else UNK_ID
    mapped = VocabularyMap(tuple(kept), len(used), EOS_ID, rest, coverage)
    return _compact(tokenizer_document(model.kind, section, model.pattern)), mapped


def token_counts(data: bytes, texts: Iterable[str]) -> NDArray[np.int64]:
    """Count how often each token of one of our tokenizers occurs in some texts, [V]."""
    tokenizer = Tokenizer.from_json(data)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for text in texts:
        for piece in split_long(text):
            counts += np.bincount(tokenizer.encode(piece), minlength=tokenizer.vocab_size)
    return counts


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _unshared(reason: str) -> str:
    return (
        f"the teacher's tokenizer cannot be shared with a student: {reason}. Byte-level BPE with GPT-2's or "
        f"Llama 3's splitting can; from any other teacher a student with a tokenizer of its own learns by "
        f"text: --recipe sequence-level"
    )

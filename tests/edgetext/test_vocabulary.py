"""A student's vocabulary inside its teacher's: smaller tokenizers, restricted distributions, text."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from huggingface_models import BEGIN, END, SENTENCES, byte_level_tokenizer, save_teacher
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.corpus.split import SPLITS
from edgetext.distill.teacher_text import TeacherText, teacher_text, write_teacher_streams
from edgetext.distill.vocabulary import (
    RestrictedGenerator,
    VocabularyMap,
    convert_tokenizer,
    load_restricted,
    restrict_tokenizer,
    share_vocabulary,
    student_tokenizer_from,
    token_counts,
)
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import sample_tokens
from edgetext.models.huggingface import load_huggingface
from edgetext.tokenization import load_fast, train_tokenizer
from edgetext.training.data import DocumentSampler, open_stream
from edgetext_runtime.tokenizer import Tokenizer

pytest.importorskip("transformers")
FAMILIES = ("gpt2", "llama")


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request, tmp_path_factory):
    """A directory with a teacher, and the library's own tokenizer for it."""
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer = byte_level_tokenizer(request.param)
    save_teacher(directory, request.param, tokenizer=tokenizer)
    return directory, tokenizer


def shared(teacher, texts=SENTENCES, vocab_size=None):
    data, mapped = share_vocabulary(teacher[0], texts, vocab_size)
    return Tokenizer.from_json(data), mapped, data


# Tokenizers of other models.


def test_texts_are_cut_as_the_teacher_cuts_them_when_all_their_tokens_are_kept(teacher):
    texts = SENTENCES[:2]
    tokenizer, mapped, data = shared(teacher, texts)
    whole, _, _ = shared(teacher, None)
    assert tokenizer.vocab_size < whole.vocab_size
    assert mapped.coverage == 1.0
    for text in texts:
        ids = tokenizer.encode(text)
        assert [mapped.ids[i] for i in ids] == teacher[1].encode(text, add_special_tokens=False).ids
        assert ids == load_fast(data).encode(text).ids
        assert tokenizer.decode(ids) == text


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_whole_vocabulary_cuts_any_text_as_the_teacher_does(text):
    for family in FAMILIES:
        own = _tokenizer(family)
        data, mapped = convert_tokenizer(own.to_str().encode(), own.get_vocab_size(), end=0, begin=0)
        ids = Tokenizer.from_json(data).encode(text)
        assert [mapped.ids[i] for i in ids] == own.encode(text).ids


_made = {}


def _tokenizer(family):
    return _made.setdefault(family, byte_level_tokenizer(family))


def test_tokens_that_do_not_occur_are_left_out_and_what_they_are_merged_from_stays(teacher):
    tokenizer, mapped, data = shared(teacher, ["the river carried"])
    model = json.loads(data)["model"]
    multi = [token for token in model["vocab"] if len(token) > 1 and not token.startswith("<")]
    assert {"Ġriver", "Ġcarried"} <= set(multi)
    assert not {"Ġboat", "Ġbridg"} & set(multi)
    for token in multi:  # every token can be made from tokens that are there
        assert any(left + right == token for left, right in model["merges"]), token
    assert len(mapped.ids) == tokenizer.vocab_size == 2 + 256 + len(multi)


def test_a_small_vocabulary_holds_the_most_needed_tokens(teacher):
    full, full_map, _ = shared(teacher)
    tokenizer, mapped, data = shared(teacher, SENTENCES, 2 + 256 + 12)
    assert tokenizer.vocab_size == 2 + 256 + 12 < full.vocab_size
    assert set(mapped.ids) < set(full_map.ids)
    assert 0.1 < mapped.coverage < 1.0
    for text in SENTENCES:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids == load_fast(data).encode(text).ids
        assert teacher[1].decode([mapped.ids[i] for i in ids]) == text
    counts = Counter(i for text in SENTENCES for i in teacher[1].encode(text, add_special_tokens=False).ids)
    bytes_only = 2 + 256
    kept = {mapped.ids[i] for i in range(2, tokenizer.vocab_size)}
    assert len(kept) == 256 + 12
    assert max(counts, key=lambda i: counts[i]) in kept
    assert shared(teacher, SENTENCES, bytes_only)[0].encode("the") != full.encode("the")


def test_the_end_of_a_text_is_the_teachers_own(teacher):
    _, mapped, _ = shared(teacher)
    assert mapped.ids[0] == teacher[1].token_to_id(END)
    begin = teacher[1].token_to_id(BEGIN)
    assert mapped.start == (mapped.ids[0] if begin is None else begin)
    assert not {mapped.ids[0], begin} & set(mapped.ids[2:])


def test_no_text_becomes_a_special_token(teacher):
    tokenizer, mapped, _ = shared(teacher, [f"a {END} b {BEGIN} <eos><pad>"])
    ids = tokenizer.encode(f"{END}{BEGIN}<eos><pad>")
    assert not {0, 1} & set(ids)
    assert teacher[1].token_to_id(END) not in [mapped.ids[i] for i in ids]


def test_words_that_are_tokens_are_not_merged_where_the_teacher_ignores_merges():
    own = byte_level_tokenizer("llama")
    document = json.loads(own.to_str())
    document["model"]["ignore_merges"] = True
    for word in ("bridge", "Ġflour"):  # tokens that no merge leads to
        merges = document["model"]["merges"]
        document["model"]["vocab"].setdefault(word, len(document["model"]["vocab"]))
        document["model"]["merges"] = [pair for pair in merges if "".join(pair) != word]
    library = load_fast(json.dumps(document).encode())
    size = library.get_vocab_size()
    texts = ["the bridge sells flour", "bridges"]
    data, mapped = student_tokenizer_from(
        json.dumps(document).encode(), texts, None, teacher_size=size, end=0, begin=0
    )
    tokenizer = Tokenizer.from_json(data)
    for text in texts:
        ids = tokenizer.encode(text)
        assert [mapped.ids[i] for i in ids] == library.encode(text).ids
        assert ids == load_fast(data).encode(text).ids
    assert library.token_to_id("Ġflour") in [mapped.ids[i] for i in tokenizer.encode(texts[0])]


def _sentencepiece():
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, trainers

    tokenizer = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=["<unk>", BEGIN, END], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def _with(**changes):
    document = json.loads(_tokenizer("gpt2").to_str())
    model = changes.pop("model", {})
    return json.dumps({**document, **changes, "model": {**document["model"], **model}}).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_sentencepiece().to_str().encode(), "byte_fallback"),
        (_with(model={"type": "Unigram"}), "of the kind Unigram"),
        (_with(normalizer={"type": "NFC"}), "normalizer NFC"),
        (_with(pre_tokenizer={"type": "Metaspace"}), "not byte-level"),
        (_with(pre_tokenizer=None), "not byte-level"),
        (_with(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "space before every text"),
        (
            _with(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}),
            "another pattern",
        ),
        (_with(added_tokens=[{"id": 3, "content": "  ", "special": False}]), "added_tokens"),
        (_with(model={"vocab": {"a": 0, "b": 1}}), "no token for byte"),
        (b'{"model": null}', "of the kind unknown"),
        (b"{", "Expecting"),
    ],
)
def test_tokenizers_that_cannot_be_shared_name_the_way_out(data, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        convert_tokenizer(data, 500, end=0, begin=0)
    assert "--recipe sequence-level" in str(refused.value)


def test_a_directory_without_a_fast_tokenizer_names_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer\.json.*--recipe sequence-level"):
        share_vocabulary(tmp_path, SENTENCES)


# Tokenizers of ours.


@pytest.mark.parametrize(("kind", "size", "smaller"), [("word", 60, 20), ("char", 60, 20), ("bpe", 340, 280)])
def test_own_tokenizers_are_cut_down(kind, size, smaller):
    data = train_tokenizer(SENTENCES, kind, size, min_frequency=1)
    counts = token_counts(data, SENTENCES)
    before = Tokenizer.from_json(data)
    small, mapped = restrict_tokenizer(data, smaller, counts)
    after = Tokenizer.from_json(small)
    assert after.kind == kind
    assert after.vocab_size == len(mapped.ids) == smaller < mapped.teacher_size == before.vocab_size
    assert mapped.ids[:2] == (0, 1)
    assert mapped.start == 0
    assert mapped.rest == (None if kind == "bpe" else 2)
    for text in SENTENCES:
        ids = after.encode(text)
        assert ids == load_fast(small).encode(text).ids
        if kind == "bpe":
            assert before.decode([mapped.ids[i] for i in ids]) == text
        else:
            own = {teacher: student for student, teacher in enumerate(mapped.ids)}
            assert ids == [own.get(i, 2) for i in before.encode(text)]
    covered = sum(counts[list(mapped.ids)]) / counts.sum()
    assert mapped.coverage == pytest.approx(covered)
    if kind != "bpe":  # the most frequent, and nothing that does not occur
        assert min(counts[list(mapped.ids[3:])]) >= max(np.delete(counts, mapped.ids))


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_a_vocabulary_that_is_large_enough_keeps_all_that_occurs(kind):
    data = train_tokenizer(SENTENCES, kind, 400, min_frequency=1)
    small, mapped = restrict_tokenizer(data, 400, token_counts(data, SENTENCES))
    for text in SENTENCES:
        assert [mapped.ids[i] for i in Tokenizer.from_json(small).encode(text)] == Tokenizer.from_json(
            data
        ).encode(text)
    assert mapped.coverage == 1.0


def test_sizes_that_cannot_be_are_refused():
    words = train_tokenizer(SENTENCES, "word", 50)
    with pytest.raises(ConfigError, match="--vocab-size is 3"):
        restrict_tokenizer(words, 3, token_counts(words, SENTENCES))
    with pytest.raises(ConfigError, match="2 counts"):
        restrict_tokenizer(words, 10, [1, 2])
    pairs = train_tokenizer(SENTENCES, "bpe", 300)
    with pytest.raises(ConfigError, match="at least 258"):
        restrict_tokenizer(pairs, 257, token_counts(pairs, SENTENCES))


# Teachers seen through a map.


def test_restricting_renormalises_over_the_students_tokens(teacher):
    tokenizer, mapped, _ = shared(teacher, SENTENCES[:1])
    whole = load_huggingface(teacher[0])
    model = RestrictedGenerator(whole, mapped).eval()
    tokens = torch.tensor([[0, *tokenizer.encode(SENTENCES[0])[:20]]])
    read = [mapped.start, *(mapped.ids[int(i)] for i in tokens[0, 1:])]
    with torch.no_grad():
        p = whole(torch.tensor([read])).logits.double().softmax(-1)  # [1,T,V_t]
        q = model(tokens).logits.double().softmax(-1)  # [1,T,V_s]
    chosen = p[..., [mapped.ids[0], *mapped.ids[2:]]]
    expected = chosen / chosen.sum(-1, keepdim=True)
    real = [0, *range(2, len(mapped.ids))]
    torch.testing.assert_close(q[..., real], expected, atol=1e-6, rtol=1e-4)
    assert float(q[..., 1].max()) < 1e-5  # padding
    assert float(q[..., 1].min()) > 0  # and yet a finite logarithm


def test_pooled_vocabularies_keep_the_whole_probability():
    torch.manual_seed(0)
    whole = build_model(ModelConfig("lstm", 12, 8, 8, 1)).eval()
    mapped = VocabularyMap((0, 1, 2, 5, 7), 12, 0, rest=2)
    model = RestrictedGenerator(whole, mapped).eval()
    tokens = torch.tensor([[0, 3, 4, 2]])
    with torch.no_grad():
        p = whole(torch.tensor([[0, 5, 7, 2]])).logits.double().softmax(-1)
        q = model(tokens).logits.double().softmax(-1)
    torch.testing.assert_close(q[..., [0, 1, 3, 4]], p[..., [0, 1, 5, 7]], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(q[..., 2], p[..., [2, 3, 4, 6, 8, 9, 10, 11]].sum(-1), atol=1e-7, rtol=1e-5)


def test_a_restricted_teacher_is_a_generator(teacher):
    tokenizer, mapped, _ = shared(teacher, SENTENCES[:2])
    model = RestrictedGenerator(load_huggingface(teacher[0]), mapped).eval()
    assert model.config.vocab_size == tokenizer.vocab_size
    tokens = torch.tensor([[0, 5, 300 % tokenizer.vocab_size, 7, 9]])
    with torch.no_grad():
        whole = model(tokens)
        first = model(tokens[:, :2])
        rest = model(tokens[:, 2:], first.state)
        torch.testing.assert_close(
            torch.cat([first.logits, rest.logits], 1), whole.logits, atol=2e-4, rtol=1e-4
        )
        one_hot = torch.nn.functional.one_hot(tokens, tokenizer.vocab_size).float()
        soft = model(None, embeddings=model.embed_distribution(one_hot))
        torch.testing.assert_close(soft.logits, whole.logits)
    for text in sample_tokens(model, 3, 10, seed=1):
        assert max(text, default=0) < tokenizer.vocab_size
        assert 1 not in text


def test_fine_tuning_teaches_the_teacher_in_the_students_vocabulary(teacher, tmp_path):
    tokenizer, mapped, _ = shared(teacher, SENTENCES)
    model = RestrictedGenerator(load_huggingface(teacher[0]), mapped)
    tokens = torch.tensor([[0, *tokenizer.encode(SENTENCES[1])[:40]]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        logits = model.eval()(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    model.save(tmp_path)
    again = load_restricted(tmp_path)
    assert again.vocabulary == mapped
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)


def test_own_teachers_are_saved_and_read_back_too(tmp_path):
    whole = build_model(ModelConfig("lstm", 12, 8, 8, 1)).eval()
    model = RestrictedGenerator(whole, VocabularyMap((0, 1, 2, 5, 7), 12, 0, rest=2))
    model.save(tmp_path)
    tokens = torch.tensor([[0, 3, 4]])
    with torch.no_grad():
        assert torch.equal(load_restricted(tmp_path)(tokens).logits, model.eval()(tokens).logits)


def test_maps_that_fit_nothing_are_refused(tmp_path):
    whole = build_model(ModelConfig("lstm", 12, 8, 8, 1))
    with pytest.raises(ConfigError, match="13 token ids, this one has 12"):
        RestrictedGenerator(whole, VocabularyMap((0, 1, 2, 5), 13, 0))
    with pytest.raises(ConfigError, match="not below 12"):
        VocabularyMap((0, 1, 12), 12, 0)
    with pytest.raises(ConfigError, match="same teacher id"):
        VocabularyMap((0, 1, 5, 5), 12, 0)
    VocabularyMap((0, 0, 5, 6), 12, 3).save(tmp_path)
    assert VocabularyMap.load(tmp_path) == VocabularyMap((0, 0, 5, 6), 12, 3)
    path = tmp_path / "vocabulary.json"
    good = json.loads(path.read_text())
    for broken in ({**good, "format_version": 2}, {**good, "ids": "0"}, {"format_version": 1}, []):
        path.write_text(json.dumps(broken))
        with pytest.raises(CheckpointError):
            VocabularyMap.load(tmp_path)


# Teachers that share no vocabulary.


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Llama-shaped teacher with a tokenizer in SentencePiece's manner, seen through its own vocabulary."""
    directory = tmp_path_factory.mktemp("stranger")
    save_teacher(directory, "llama", tokenizer=_sentencepiece())
    with pytest.raises(ConfigError, match="--recipe sequence-level"):
        share_vocabulary(directory, SENTENCES)
    model = load_huggingface(directory)
    codec = TeacherText.open(directory, model.config.vocab_size)
    return RestrictedGenerator(model, codec.vocabulary).eval(), codec


def test_a_teacher_writes_text(stranger):
    model, codec = stranger
    texts = list(teacher_text(model, codec, 10, 12, seed=4, batch=4))
    assert texts == list(teacher_text(model, codec, 10, 12, seed=4, batch=4))
    assert 0 < len(texts) <= 10
    assert all(text.strip() and BEGIN not in text and END not in text for text in texts)
    assert list(teacher_text(model, codec, 10, 12, seed=5, batch=4)) != texts
    with pytest.raises(ConfigError, match="context of 64"):
        next(teacher_text(model, codec, 1, 65, seed=0))


def test_a_teachers_own_ids_have_the_special_ones_in_place(stranger):
    model, codec = stranger
    for text in SENTENCES[:2]:
        ids = codec.encode(text)
        assert not {0, 1} & set(ids)
        assert codec.decode([0, *ids, 1, 0]).strip() == text.strip()
    assert not set(codec.suppressed) & set(codec.encode(" ".join(SENTENCES[:2])))
    assert not {0, 1} & set(codec.encode(f"a {END} b {BEGIN}"))
    tokens = torch.tensor([[0, *codec.encode(SENTENCES[0])[:9]]])
    with torch.no_grad():
        ours = model(tokens).logits
        theirs = model.model(model.inputs[tokens]).logits
    assert torch.equal(ours[..., 2:], theirs[..., list(codec.vocabulary.ids[2:])])
    assert int(model.inputs[0]) == codec.vocabulary.start != codec.vocabulary.ids[0]


def test_a_corpus_is_written_in_the_teachers_ids(stranger, tmp_path):
    _, codec = stranger
    documents = [(split, text) for split in SPLITS for text in SENTENCES[:2]]
    tokens = write_teacher_streams(tmp_path, documents, codec)
    stream = open_stream(tmp_path / "train.npy")
    expected = [0, *codec.encode(SENTENCES[0]), 0, *codec.encode(SENTENCES[1]), 0]
    assert stream.tolist() == expected
    assert tokens == dict.fromkeys(SPLITS, len(expected))
    batch = DocumentSampler(stream, 64, 2, seed=0).batch(0)
    assert int(batch.mask.sum()) == len(expected) - 1

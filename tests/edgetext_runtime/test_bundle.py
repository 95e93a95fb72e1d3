"""Bundles: written deterministically, read with nothing taken on trust."""

import contextlib
import json
import warnings
import zipfile
from dataclasses import replace
from io import BytesIO

import pytest
import tiny_bundle as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext_export.writer import manifest_json, write_bundle
from edgetext_runtime import Bundle, BundleError, InputError, Manifest, read_bundle
from edgetext_runtime.bundle import MEMBER_LIMITS, StateTensor
from edgetext_runtime.manifest import MAX_STATE_BYTES, MemberRecord

STATE = (StateTensor("past.h.0", "present.h.0", ("batch", 4)),)
CACHE = (StateTensor("past.key.0", "present.key.0", ("batch", 2, "context", 4), kind="kv_cache"),)
MANIFEST = tiny.manifest(9, STATE)
MEMBERS = tiny.members(b"model", b"{}")


@pytest.fixture
def path(tmp_path):
    return write_bundle(tmp_path / "m.etx", MANIFEST, MEMBERS)


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(entries, compression=zipfile.ZIP_STORED):
    """A zip of (name, content) pairs, as bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_file_bytes_and_folder_read_the_same(path, tmp_path):
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(path).extractall(folder)
    (folder / ".hidden").write_text("left by some system")
    from_file, from_bytes, from_folder = (
        read_bundle(path),
        read_bundle(path.read_bytes()),
        read_bundle(folder),
    )
    assert from_file == from_bytes
    assert from_file.members == from_folder.members == MEMBERS
    assert from_file.sha256 == from_folder.sha256
    assert from_file.manifest == from_folder.manifest
    assert replace(from_file.manifest, members={}) == MANIFEST
    assert isinstance(read_bundle(str(path)), Bundle)


def test_writing_is_deterministic_atomic_and_careful(path, tmp_path):
    again = write_bundle(tmp_path / "again.etx", MANIFEST, dict(reversed(MEMBERS.items())))
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="--force"):
        write_bundle(path, MANIFEST, MEMBERS)
    write_bundle(path, MANIFEST, {**MEMBERS, "CARD.md": b"new"}, force=True)
    assert read_bundle(path).members["CARD.md"] == b"new"
    assert {file.name for file in tmp_path.iterdir()} == {"again.etx", "m.etx"}


def test_writer_refuses_what_a_reader_would(tmp_path):
    with pytest.raises(BundleError, match="unknown member"):
        write_bundle(tmp_path / "a.etx", MANIFEST, {**MEMBERS, "extra.bin": b""})
    with pytest.raises(BundleError, match=r"golden\.json missing"):
        write_bundle(tmp_path / "a.etx", MANIFEST, {k: v for k, v in MEMBERS.items() if k != "golden.json"})
    with pytest.raises(BundleError, match=r"CARD\.md has 1,048,577 bytes"):
        write_bundle(tmp_path / "a.etx", MANIFEST, {**MEMBERS, "CARD.md": b"x" * (2**20 + 1)})
    with pytest.raises(BundleError, match="cannot write"):
        write_bundle(tmp_path / "none" / "a.etx", MANIFEST, MEMBERS)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_and_file_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no bundle at"):
        read_bundle(tmp_path / "none.etx")
    with pytest.raises(BundleError, match="cannot read"):
        read_bundle("\0")
    for content in (b"", b"text", b"PK\x05\x06" + b"\0" * 18):
        with pytest.raises(BundleError):
            read_bundle(content)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(tmp_path / "empty")


def test_truncated_anywhere(path):
    data = path.read_bytes()
    for size in range(0, len(data), 37):
        with pytest.raises(BundleError):
            read_bundle(data[:size])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "m.etx"
    good = bytearray(write_bundle(path, MANIFEST, MEMBERS).read_bytes())
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    try:
        bundle = read_bundle(bytes(good))
    except BundleError:
        return
    assert bundle.members == MEMBERS


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:x"])
def test_names_that_point_outside(path, name):
    with pytest.raises(BundleError, match="points outside"):
        read_bundle(archive_of([*contents(path).items(), (name, b"")]))


def test_unknown_duplicate_missing_compressed_and_oversized_members(path):
    entries = list(contents(path).items())
    for name in ("notes.txt", "weights/", "model.onnx.data", "model.pkl"):
        with pytest.raises(BundleError, match="unknown member"):
            read_bundle(archive_of([*entries, (name, b"")]))
    with pytest.raises(BundleError, match="appears twice"):
        read_bundle(archive_of([*entries, entries[-1]]))
    for index, (name, _) in enumerate(entries):
        with pytest.raises(BundleError, match=f"{name} missing"):
            read_bundle(archive_of(entries[:index] + entries[index + 1 :]))
    with pytest.raises(BundleError, match="compressed"):
        read_bundle(archive_of(entries, zipfile.ZIP_DEFLATED))
    big = [(n, b"x" * (MEMBER_LIMITS[n] + 1) if n == "CARD.md" else c) for n, c in entries]
    with pytest.raises(BundleError, match=r"CARD\.md has 1,048,577 bytes, the limit is 1,048,576"):
        read_bundle(archive_of(big))


def test_changed_member_and_member_the_manifest_does_not_list(path):
    good = contents(path)
    with pytest.raises(BundleError, match=r"model\.onnx does not match"):
        read_bundle(archive_of({**good, "model.onnx": b"other"}.items()))
    listed = json.loads(good["manifest.json"])
    del listed["members"]["CARD.md"]
    with pytest.raises(BundleError, match="lists other members"):
        read_bundle(archive_of({**good, "manifest.json": json.dumps(listed).encode()}.items()))


def changed(**changes):
    document = json.loads(manifest_json(MANIFEST))
    return json.dumps({**document, **changes})


def test_manifest_round_trip_is_exact():
    full = replace(MANIFEST, members={"CARD.md": MemberRecord(3, "0" * 64)}, name="Modèle 1")
    assert Manifest.from_json(manifest_json(full)) == full
    cached = tiny.manifest(9, CACHE)
    assert Manifest.from_json(manifest_json(cached)) == cached
    assert cached.has_cache
    assert not full.has_cache


def test_newer_format_says_how_to_upgrade():
    document = changed(format_version=2, surprise=True)
    with pytest.raises(BundleError, match="made by a newer edgetext: pip install -U edgetext-runtime"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff", '{"a": NaN}', '{"a": 1, "a": 1}', "[" * 100_000, b'{"a": 1}'],
    ids=str,
)
def test_manifest_that_is_not_one(text):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "1"},
        {"format_version": 0},
        {"format_version": True},
        {"name": ""},
        {"name": 3},
        {"architecture": "mamba"},
        {"architecture": ["lstm"]},
        {"precision": "int2"},
        {"config": []},
        {"quantisation": {}},
        {"parameters": -1},
        {"parameters": 1.0},
        {"vocab_size": 0},
        {"vocab_size": True},
        {"context_length": 0},
        {"context_length": "128"},
        {"special_tokens": {"eos": 0}},
        {"special_tokens": {"eos": 9, "pad": 1, "unk": None}},
        {"special_tokens": {"eos": None, "pad": 1, "unk": None}},
        {"special_tokens": {"eos": 0, "pad": 1, "unk": "2"}},
        {"opset": None},
        {"ort_floor": "new"},
        {"ort_floor": "1." + "9" * 5000},
        {"state": {}},
        {"state": []},
        {"state": ["h"]},
        {"state": [{"input": "a"}]},
        {"provenance": None},
        {"licence": None},
        {"members": []},
        {"members": {"CARD.md": 3}},
        {"members": {"CARD.md": {"size": -1, "sha256": "0" * 64}}},
        {"members": {"CARD.md": {"size": 1, "sha256": "0"}}},
        {"extra": 1},
    ],
    ids=str,
)
def test_wrong_field_in_the_manifest(changes):
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(changed(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"input": ""},
        {"output": None},
        {"shape": "batch"},
        {"shape": []},
        {"shape": [1, 4]},
        {"shape": ["batch", 0]},
        {"shape": ["batch", 1.5]},
        {"shape": ["batch", "context"]},
        {"shape": ["batch", MAX_STATE_BYTES]},
        {"shape": ["batch", 4, "context"], "kind": "kv_cache"},
        {"dtype": "object"},
        {"dtype": ["float32"]},
        {"kind": "magic"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_wrong_state_entry_in_the_manifest(changes):
    entry = json.loads(manifest_json(MANIFEST))["state"][0]
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(changed(state=[{**entry, **changes}]))


def test_state_names_are_unique():
    with pytest.raises(BundleError, match="twice"):
        replace(MANIFEST, state=STATE * 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(field=st.sampled_from(sorted(json.loads(manifest_json(MANIFEST)))), value=JSON)
def test_whatever_stands_in_a_field_only_a_bundle_error_comes_out(field, value):
    with contextlib.suppress(BundleError):
        Manifest.from_json(changed(**{field: value}))

"""``threads="auto"`` and ``provider``: what is chosen, what is remembered, and what is refused."""

import pytest
import tiny_bundle as tiny

from edgetext_runtime import Generator, InputError, ProviderError, tuning
from edgetext_runtime.tuning import cpu_quota, tuned_session

VOCAB = 30
SHA = "0" * 64


@pytest.fixture(scope="module")
def large():
    """A model above the size from which tuning pays (4 MiB), and its manifest."""
    model, state = tiny.lstm_model(VOCAB, hidden=400)
    assert len(model) > 4 << 20
    return model, tiny.manifest(VOCAB, state)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Two cores without a quota, and an empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGETEXT_TUNING", raising=False)
    monkeypatch.setattr(tuning, "available_cores", lambda: 2)
    monkeypatch.setattr(tuning, "cpu_quota", lambda: float("inf"))
    return tmp_path / "edgetext"


def test_small_models_get_one_thread_and_leave_no_file(lstm, machine):
    again = Generator(lstm.bundle)
    assert again.session.threads == 1
    assert not machine.exists()


def test_choice_is_measured_once_and_remembered(large, machine, monkeypatch):
    first = tuned_session(*large, SHA)
    (file,) = machine.iterdir()
    assert file.read_text() == f"{first.threads} {first.spinning:d}"
    file.write_text("2 0")
    monkeypatch.setattr(tuning, "_measure_candidates", None)  # must not be called again
    again = tuned_session(*large, SHA)
    assert (again.threads, again.spinning) == (2, False)


@pytest.mark.parametrize("content", [b"", b"[]", b"99 1", b"2 7", b"1", b"1 0 0", b"one 0", b"\xff"])
def test_nonsense_in_the_cache_is_measured_again(large, machine, content):
    tuned_session(*large, SHA)
    (file,) = machine.iterdir()
    file.write_bytes(content)
    assert tuned_session(*large, SHA).threads in (1, 2)
    assert len(file.read_text().split()) == 2


def test_cache_that_cannot_be_written_does_not_matter(large, machine, monkeypatch):
    machine.write_text("a file where the directory would be")
    assert tuned_session(*large, SHA).threads in (1, 2)
    monkeypatch.setattr(tuning, "cache_directory", lambda: None)
    assert tuned_session(*large, SHA).threads in (1, 2)


def test_quota_below_the_cores_means_one_thread(large, machine, monkeypatch):
    monkeypatch.setattr(tuning, "cpu_quota", lambda: 1.5)
    assert tuned_session(*large, SHA).threads == 1
    assert not machine.exists()


def test_variable_turns_tuning_off(large, machine, monkeypatch):
    monkeypatch.setenv("EDGETEXT_TUNING", "off")
    assert tuned_session(*large, SHA).threads == 1
    assert not machine.exists()


def test_quota_is_read_from_both_versions_of_control_groups(tmp_path):
    assert cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpu_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("nonsense")
    assert cpu_quota(tmp_path) == 1.5


def test_providers_are_used_or_refused(lstm):
    assert Generator(lstm.bundle).session.provider == "CPUExecutionProvider"
    assert Generator(lstm.bundle, provider="cpu").session.provider == "CPUExecutionProvider"
    numpy_ = Generator(lstm.bundle, provider="numpy")
    assert numpy_.session.provider == "numpy"
    with pytest.raises(ProviderError, match="unknown provider 'npu'; known are auto, cpu, cuda, numpy"):
        Generator(lstm.bundle, provider="npu")
    for threads in ("many", None, 0, 1.5):
        with pytest.raises(InputError, match="threads is"):
            Generator(lstm.bundle, threads=threads)


def test_both_backends_give_the_same_texts(lstm):
    numpy_ = Generator(lstm.bundle, provider="numpy")
    for options in (
        {"temperature": 0},
        {"num_beams": 3},
        {"choices": ["cab", "dad"], "temperature": 0},
        {"repetition_penalty": 1.4, "temperature": 0},
    ):
        for prompt in ("ab", "", "hello, cat"):
            assert numpy_.generate(prompt, **options).tokens == lstm.generate(prompt, **options).tokens
    state = lstm.prefill("ab")
    assert (
        numpy_.generate(state=state, temperature=0).tokens == lstm.generate(state=state, temperature=0).tokens
    )

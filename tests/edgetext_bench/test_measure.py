"""Real measurements of tiny bundles: what is in the record, and what is refused. No figure is judged."""

import json
import os
import zipfile

import pytest
import tiny_bundle as tiny

from edgetext_bench import Record, Settings, bench, markdown_table
from edgetext_bench.environment import CPU_FLAGS, parse_cgroup_quota, parse_cpu_flags, read_environment
from edgetext_export.writer import write_bundle
from edgetext_runtime.errors import BundleError, EdgetextError, InputError


def test_every_bundle_is_measured_with_all_samples_kept(record, bundles):
    assert [bundle.file for bundle in record.bundles] == ["fp32.etx", "int8.etx"]
    assert [(run.bundle, run.threads) for run in record.runs] == [(0, 1), (1, 1)]
    assert record.label == "measured"
    for run in record.runs:
        assert len(run.starts) == len(run.rounds) == 2
        assert run.prompts[0] == 4
        assert run.prompts[1] <= 16 < 60 <= run.prompts[2] <= 64
        assert run.weight_bytes < bundles[0].stat().st_size
        assert (run.depths, run.batches) == ((64, 256), (1, 2, 4, 8))
        assert len(run.bare_ns) == len(run.forward_ns) > 0
        assert run.session["provider"] == "CPUExecutionProvider"
        assert "Build" in run.session["build"]
        for start in run.starts:
            assert start.reload_s > 0
            assert start.load_s < start.first_token_s
        for one in run.rounds:
            assert len(one.step_ns) == 50
            assert min(one.step_ns) > 0
            assert one.stream_tokens >= 50
            assert len(one.stream_ns) <= one.stream_tokens  # ends of text show nothing
            assert sum(one.stream_ns) * 1e-9 <= one.stream_decode_s
            assert [len(times) for times in one.ttft_s] == [3] * len(run.prompts)
            assert min(min(times) for times in (*one.ttft_s, *one.depth_ns, *one.batch_ns)) > 0
            assert one.read_bps > 0
            assert min(one.pace_ns) > 0
    assert record.bundles[0].bytes == bundles[0].stat().st_size
    assert record.bundles[1].quality["flip_rate"] == {"step": 0.01}


def test_peak_memory_is_that_of_the_measured_process(record):
    # A worker holds numpy, ONNX Runtime and a few kilobytes of model; pytest has much more loaded.
    for run in record.runs:
        assert run.peak_rss_bytes is None or 20e6 < run.peak_rss_bytes < 400e6


def test_record_survives_json(record):
    text = record.to_json()
    assert Record.from_json(text) == record
    document = json.loads(text)
    assert document["format_version"] == 2
    assert len(document["summary"]["runs"]) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format_version=99),
        lambda d: d.pop("format_version"),
        lambda d: d.pop("bundles"),
        lambda d: d["settings"].update(tokens=1),
        lambda d: d["runs"][0].pop("threads"),
        lambda d: d["environment"].update(more=1),
    ],
)
def test_damaged_record_is_refused(record, change):
    document = json.loads(record.to_json())
    change(document)
    with pytest.raises(InputError):
        Record.from_json(json.dumps(document))


def test_text_that_is_no_record_is_refused():
    for text in ("", "[]", "{", '"x"'):
        with pytest.raises(InputError, match="not a bench record"):
            Record.from_json(text)


def test_unpacked_bundle_and_full_context(tmp_path):
    # A context of 24 tokens: decoding 100 needs several generations; the long prompt is cut to half of it.
    graph, state = tiny.attention_model(3 + len(tiny.ALPHABET))
    manifest = tiny.manifest(3 + len(tiny.ALPHABET), state)
    packed = write_bundle(tmp_path / "packed.etx", manifest, tiny.members(graph, tiny.char_tokenizer()))
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    record = bench([folder], Settings(threads=(1,), tokens=100, repeats=1, prompt="abc", warmup_rounds=1))
    (run,) = record.runs
    assert max(run.prompts) <= tiny.CONTEXT // 2
    assert run.depths == ()  # none leaves room for its steps
    assert len(run.rounds[0].step_ns) == 100
    assert record.bundles[0].bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert "–" in markdown_table(record)  # the quality record is empty

    with pytest.raises(InputError, match="--prompt"):
        bench([folder], Settings(threads=(1,), tokens=100, repeats=1, prompt="abc" * 7 + "d"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threads": (0,)}, "threads"),
        ({"threads": ()}, "threads"),
        ({"threads": (1, 1)}, "twice"),
        ({"threads": (10_000,)}, "threads"),
        ({"tokens": 5, "repeats": 5}, "--tokens"),
        ({"repeats": 0}, "repeats"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"prompt_lengths": (0,)}, "prompt_lengths"),
        ({"batches": (1000,)}, "--batches"),
        ({"sustained_s": -1.0}, "--sustained"),
        ({"providers": ("npu",)}, "providers"),
        ({"tokens": 1.5}, "integers"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        Settings(**settings)


def test_what_is_no_bundle_is_refused(tmp_path, bundles):
    text = tmp_path / "text.etx"
    text.write_text("not a bundle")
    with pytest.raises(BundleError, match=r"text\.etx"):
        bench([text])
    with pytest.raises(BundleError, match="no bundle"):
        bench([tmp_path / "missing.etx"])
    with pytest.raises(InputError, match="no bundle given"):
        bench([])
    with pytest.raises(InputError, match="twice"):
        bench([bundles[0], bundles[0]])


def test_errors_of_the_measured_process_come_back(tmp_path):
    vocab = 3 + len(tiny.ALPHABET)
    graph, state = tiny.lstm_model(vocab)
    broken = tiny.members(graph[:-100], tiny.char_tokenizer())
    path = write_bundle(tmp_path / "broken.etx", tiny.manifest(vocab, state), broken)
    with pytest.raises(BundleError, match=r"broken\.etx: model\.onnx"):
        bench([path], Settings(threads=(1,)))


def test_a_measured_process_that_dies_is_reported(tmp_path, monkeypatch, bundles):
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(EdgetextError, match="the measuring process ended with signal 9"):
        bench(bundles[:1], Settings(threads=(1,)))


def test_environment_names_the_machine_and_no_person():
    environment = read_environment()
    assert environment.cpu
    assert environment.cores >= environment.usable_cores >= 1
    assert environment.onnxruntime
    assert environment.python.split()[1][0] == "3"
    assert set(environment.cpu_flags) <= set(CPU_FLAGS)


def test_cpu_flags_and_quota_are_read():
    assert parse_cpu_flags("model name: x\nflags\t\t: fpu sse4_2 avx2 fma avx512_vnni\n") == (
        *("sse4_2", "avx2", "fma", "avx512_vnni"),
    )
    assert parse_cpu_flags("Features\t: fp asimd asimddp i8mm") == ("asimd", "asimddp", "i8mm")
    assert parse_cpu_flags("") == ()
    assert parse_cgroup_quota("150000 100000") == 1.5
    for unlimited in ("max 100000", "-1 100000", "", " "):
        assert parse_cgroup_quota(unlimited) is None

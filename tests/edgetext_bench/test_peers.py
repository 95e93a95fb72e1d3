"""Bundles beside their peers: turns and table, refusals, and the file for llama.cpp where `gguf` is there."""

import json

import numpy as np
import pytest

from edgetext_bench.peers.compare import PeerRun, compare_peers, peer_table
from edgetext_bench.peers.gguf_file import write_gguf
from edgetext_bench.peers.systems import System
from edgetext_runtime import InputError
from edgetext_runtime.errors import DependencyError

CONFIG = {"model_type": "llama", "eos_token_id": 0, "bos_token_id": 0, "vocab_size": 40, "hidden_size": 32}
CONFIG |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
CONFIG |= {"intermediate_size": 64, "max_position_embeddings": 32}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_bundles_take_turns_and_the_record_keeps_every_round(bundles, model):
    record = compare_peers(bundles, model, threads=(1,), tokens=20, repeats=2, peers=())
    assert [(run.system, run.threads) for run in record.runs] == [("fp32.etx", 1), ("int8.etx", 1)]
    for run in record.runs:
        assert len(run.us_per_token) == 2
        assert min(run.us_per_token) <= run.median_us <= max(run.us_per_token)
        assert not run.failed
    assert json.loads(record.to_json())["how"] == "measured"
    assert record.versions["onnxruntime"]


def test_the_table_gives_ratios_to_the_first_bundle(bundles, model):
    record = compare_peers(bundles[:1], model, threads=(1,), tokens=5, repeats=1, peers=())
    runs = (PeerRun("a.etx", 1, (100.0,)), PeerRun("slow", 1, (250.0,)), PeerRun("x", 1, (), "no memory"))
    table = peer_table(type(record)(**{**vars(record), "runs": runs}))
    assert "| a.etx | 100 (1.00×) |" in table
    assert "| slow | 250 (2.50×) |" in table
    assert "| x | failed |" in table
    assert table.splitlines()[-1] == "- x failed: no memory"


def test_what_cannot_be_compared_is_refused(bundles, model, tmp_path):
    absent = System("nothing", "no_such_package", lambda a, b: a, lambda *a: lambda n, s: n)
    with pytest.raises(
        DependencyError, match=r"no_such_package is not installed: pip install 'edgetext\[peers\]'"
    ):
        compare_peers(bundles, model, peers=(absent,))
    with pytest.raises(InputError, match="no bundle given"):
        compare_peers((), model)
    with pytest.raises(InputError, match="is not a Hugging Face model directory"):
        compare_peers(bundles, tmp_path / "nowhere")


def test_a_llama_is_written_for_llama_cpp(model):
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import save_file

    shapes = {"embed_tokens": (40, 32), "norm": (32,)} | {
        f"layers.0.{name}": shape
        for name, shape in {
            "input_layernorm": (32,), "post_attention_layernorm": (32,), "self_attn.q_proj": (32, 32),
            "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32), "self_attn.o_proj": (32, 32),
            "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64),
        }.items()
    }  # fmt: skip
    random = np.random.default_rng(0)
    tensors = {f"model.{n}.weight": random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    save_file(tensors, model / "model.safetensors")
    vocab = {f"t{i}": i for i in range(40)}
    (model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab, "merges": []}}))
    reader = gguf.GGUFReader(write_gguf(model, model / "m.gguf", "Q8_0"))
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == len(tensors)
    key = found["blk.0.attn_k.weight"]
    assert key.tensor_type == gguf.GGMLQuantizationType.Q8_0
    rows = gguf.quants.dequantize(key.data, key.tensor_type)
    ours = tensors["model.layers.0.self_attn.k_proj.weight"]
    np.testing.assert_allclose(rows[:4], ours[[0, 8, 1, 9]], atol=0.05)  # halves become pairs
    (model / "config.json").write_text(json.dumps(CONFIG | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match="is a gpt2 model"):
        write_gguf(model, model / "n.gguf", "Q8_0")

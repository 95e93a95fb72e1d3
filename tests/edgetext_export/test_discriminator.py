"""The discriminator in the bundle: the same logits as torch, and the choices of the runtime."""

import json

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from tiny_bundle import char_tokenizer, lstm_model, manifest, members

from edgetext.adversarial.discriminators import Discriminator
from edgetext.adversarial.resample import Rater, fit_scale, load_rater, pack, resample
from edgetext.adversarial.settings import DiscriminatorConfig
from edgetext.errors import ExportError
from edgetext_export.discriminator import build_discriminator_graph
from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator, rating
from edgetext_runtime.bundle import Bundle, read_bundle
from edgetext_runtime.errors import BundleError, InputError
from edgetext_runtime.rating import MEMBER

V, LENGTH = 34, 12


def rater(**options):
    torch.manual_seed(0)
    shape = DiscriminatorConfig(embedding=8, hidden=6, **options)
    return Rater(Discriminator(shape, V).eval(), LENGTH, 0, 1, 1.5, "student")


def texts(count=9):
    random = np.random.default_rng(0)
    return [random.integers(2, V, random.integers(1, 16)).tolist() for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        *({"kind": "cnn"}, {"kind": "cnn", "embeddings": 3}, {"kind": "lstm", "layers": 2}),
        {"kind": "lstm-cnn"},
    ],
)
def test_the_graph_gives_torch_s_logits(options):
    judge, ended = rater(**options), [True, False, True] * 3
    ours = rating.Rater(build_discriminator_graph(judge), 0, 1)(texts(), ended)
    np.testing.assert_allclose(ours, judge(texts(), ended), atol=1e-5)


def test_what_has_no_graph_is_refused():
    for options in (
        {"kind": "transformer", "hidden": 8},
        {"minibatch": "deviation"},
        {"spectral_norm": True},
    ):
        options = {"embedding": 8, **options}
        judge = Rater(Discriminator(DiscriminatorConfig(**options), V), LENGTH, 0, 1, 1.0, "student")
        with pytest.raises(ExportError, match="cannot be exported"):
            build_discriminator_graph(judge)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    tokenizer = char_tokenizer()
    vocab = len(json.loads(tokenizer)["model"]["vocab"])
    model, state = lstm_model(vocab)
    torch.manual_seed(0)
    shape = DiscriminatorConfig("lstm-cnn", embedding=8, hidden=6)
    judge = Rater(Discriminator(shape, vocab).eval(), LENGTH, 0, 1, 1.0, "student")
    parts = members(model, tokenizer, **{MEMBER: build_discriminator_graph(judge)})
    path = tmp_path_factory.mktemp("bundle") / "rated.etx"
    return read_bundle(write_bundle(path, manifest(vocab, state), parts)), judge


def test_top_and_resample_choose_among_the_candidates_of_the_seeds(bundle):
    whole, judge = bundle
    generator = Generator(whole, threads=1, provider="cpu")
    common = {"max_new_tokens": 10, "temperature": 1.0}
    state = generator.prefill("ab")  # all candidates start from it
    alone = [generator.generate(state=state, seed=seed, **common) for seed in range(5, 13)]
    prompt = generator.tokenizer.encode("ab")
    logits = judge([[*prompt, *g.tokens] for g in alone], [g.finish_reason == "eos" for g in alone])
    best = generator.generate("ab", seed=5, best_of=8, choose_by="top", **common)
    assert best.tokens == alone[int(logits.argmax())].tokens
    drawn = [generator.generate("ab", seed=5, best_of=8, choose_by="resample", **common) for _ in range(2)]
    assert drawn[0].tokens == drawn[1].tokens
    assert drawn[0].tokens in [g.tokens for g in alone]
    assert (
        generator.generate_batch(["ab"], seed=5, best_of=8, choose_by="top", **common)[0].tokens
        == best.tokens
    )


def test_options_and_bundles_without_a_discriminator_are_refused(bundle):
    whole, _ = bundle
    generator = Generator(whole, threads=1, provider="cpu")
    with pytest.raises(InputError, match="best_of above 1"):
        generator.generate("a", choose_by="top")
    with pytest.raises(InputError, match="allowed is likelihood"):
        generator.generate("a", choose_by="worst", best_of=2)
    bare = Bundle(whole.manifest, {k: v for k, v in whole.members.items() if k != MEMBER}, "")
    with pytest.raises(InputError, match="export RUN --discriminator"):
        Generator(bare, threads=1, provider="cpu").generate("a", best_of=2, choose_by="top")
    broken = Bundle(whole.manifest, {**whole.members, MEMBER: whole.members["model.onnx"]}, "")
    with pytest.raises(BundleError, match="not a discriminator's"):
        Generator(broken, threads=1, provider="cpu").generate("a", best_of=2, choose_by="top")
    one = helper.make_graph(
        [
            helper.make_node("Cast", ["tokens"], ["all"], to=1),
            helper.make_node("ReduceSum", ["all"], ["logit"]),
        ],
        "one logit for all texts",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", LENGTH])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(one, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    wrong = Bundle(whole.manifest, {**whole.members, MEMBER: model.SerializeToString()}, "")
    with pytest.raises(BundleError, match="a finite logit for every text"):
        Generator(wrong, threads=1, provider="cpu").generate("a", best_of=2, choose_by="top")


def test_resampling_is_in_proportion_to_the_exponential():
    logits, random = np.log(np.array([1.0, 2.0, 5.0])), np.random.default_rng(0)
    counts = np.bincount([resample(logits, random.random()) for _ in range(8000)], minlength=3)
    np.testing.assert_allclose(counts / 8000, [1 / 8, 2 / 8, 5 / 8], atol=0.02)


def test_the_scale_makes_over_sure_logits_honest():
    torch.manual_seed(0)
    truth = torch.randn(20_000)
    real = torch.rand(20_000) < torch.sigmoid(truth)
    assert fit_scale(4 * truth[real], 4 * truth[~real]) == pytest.approx(0.25, abs=0.02)


def test_texts_are_packed_with_their_ends_and_saved_raters_are_the_same(tmp_path):
    assert pack([[5, 6], [7, 8, 9]], [True, False], 4).tolist() == [[5, 6, 0, 1], [7, 8, 9, 1]]
    judge, ended = rater(kind="lstm-cnn"), [True] * 9
    judge.save(tmp_path / "d")
    again = load_rater(tmp_path / "d")
    np.testing.assert_array_equal(again(texts(), ended), judge(texts(), ended))
    assert (again.length, again.scale, again.student) == (LENGTH, 1.5, "student")

"""The referee: published protocol, equal treatment of checkpoints and bundles, people in the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetext.corpus.config import CorpusConfig
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.candidates import Checkpoint, document_nll, likeness
from edgetext.evaluate.evaluation import EvaluationSettings
from edgetext.evaluate.evaluation_report import tables
from edgetext.evaluate.features import Features, frechet_distance, frontier_area, mauve
from edgetext.evaluate.intervals import Items, estimate, plain_estimate
from edgetext.evaluate.judging import Judge
from edgetext.evaluate.kneser_ney import KneserNey
from edgetext.evaluate.neural import NeuralReferee
from edgetext.evaluate.ngrams import ReferenceSet
from edgetext.evaluate.oracle import Oracle, load_oracle, oracle_ids
from edgetext.evaluate.texts import END, UNKNOWN, Text, read_corpus, read_text
from edgetext.models import ModelConfig, build_model
from edgetext.tokenization import train_tokenizer
from edgetext_runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def real(tiny_corpus):
    return read_corpus(CorpusConfig(str(tiny_corpus), valid_fraction=0.1, test_fraction=0.3))


@pytest.fixture(scope="module")
def model(real):
    tokenizer = Tokenizer.from_json(train_tokenizer(real.train_documents, "word", 100))
    torch.manual_seed(0)
    return Checkpoint("model", build_model(ModelConfig("lstm", tokenizer.vocab_size, 8, 16, 1)), tokenizer)


def test_sentence_bleu_equals_nltk_on_real_sentences(real):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    references = [t.words for t in real.test]
    table, smoothing = ReferenceSet(references), SmoothingFunction().method1
    for text in (
        *real.train[:20],
        read_text("the cat"),
        read_text("the red red cat sits, sits on on a hill"),
    ):
        ours = table.sentence_bleu(text.words)
        for n in (2, 3, 4, 5):
            theirs = sentence_bleu(references, list(text.words), [1 / n] * n, smoothing_function=smoothing)
            assert ours[n - 1] == pytest.approx(theirs, abs=1e-9)


def test_texts_are_cut_into_lower_case_words_and_know_their_end(real):
    assert read_text("A dog's well-known, 1,000 tricks.").words == (
        *("a", "dog's", "well-known", ",", "1,000", "tricks", "."),
    )
    assert not read_text("word " * 65).ended
    ids = real.ids([Text(("the", "unheard-of"), True), Text(("the",), False)])
    assert ids[0][1:] == [UNKNOWN, END]
    assert ids[1] == [real.vocabulary["the"]]


def test_people_beat_an_untrained_model_and_stand_on_both_halves(real, model):
    judge = Judge(real, 60, 60)
    people, noise = judge.judge(judge.people(), people=True), judge.judge([model.sample(60, 1.0, 1)])
    for name in ("lm_score", "reverse_lm_score"):
        assert people[name].mean < noise[name].mean
        assert people[name].low <= people[name].mean <= people[name].high
    assert people["bleu_4"].mean > noise["bleu_4"].mean
    assert noise["distinct_2"].mean > people["distinct_2"].mean
    assert judge.score([Text((), True)] * 5) == (float("inf"), float("inf"))


def test_nll_by_document_is_the_mean_over_its_tokens_and_end(real, model):
    document = real.test_documents[0]
    ids = [0, *model.tokenizer.encode(document), 0]
    logits = model.model(torch.tensor([ids[:-1]])).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    assert document_nll(model, document).mean() == pytest.approx(float(expected.detach()), abs=1e-5)
    tokens, same, kl = likeness(model, model, real.test_documents[:3])
    assert same.sum() == tokens.sum()
    assert kl.sum() == pytest.approx(0, abs=1e-9)


def test_per_token_nll_adds_up_to_the_score():
    texts = [[1, 2, 3], [], [2], [3, 3, 1, 2]]
    fitted = KneserNey.fit(texts, 4, end=None)
    values = fitted.token_nll(texts)
    assert [len(row) for row in values] == [3, 0, 1, 4]
    assert np.concatenate(values).mean() == pytest.approx(fitted.score(texts))


def test_intervals_cover_the_truth_and_shrink_with_texts():
    random = np.random.default_rng(0)
    few, many = (estimate([Items(random.normal(3, 1, n), np.ones(n))]) for n in (50, 5000))
    assert few.low < 3 < few.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert plain_estimate([1.0, 3.0]).deviation == pytest.approx(2**0.5)
    assert plain_estimate([1.0]).deviation is None


def test_frechet_distance_of_gaussians_is_the_closed_form():
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (60_000, 2)), random.normal(1, 2, (60_000, 2))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(2 + 2 * (1 + 4 - 2 * 2), rel=0.03)


def test_mauve_is_one_for_the_same_and_falls_with_distance():
    random = np.random.default_rng(0)
    real = random.normal(0, 1, (300, 4)) + 3
    near, far = random.normal(3, 1, (300, 4)), random.normal([9, 3, 3, 3], 1, (300, 4))
    assert frontier_area(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == pytest.approx(1.0)
    assert mauve(real, near) > 0.8 > 0.3 > mauve(real, far)


def test_features_need_hidden_states(model):
    assert Features(model)([read_text("the red cat"), read_text("a dog")]).shape == (2, 16)
    with pytest.raises(ConfigError, match="at least two"):
        Features(model)([Text((), True)])


def test_the_neural_referee_learns_and_repeats_itself(real):
    ids = real.ids(real.train[:200])
    fitted, again = (NeuralReferee.fit(ids, real.vocab_size) for _ in range(2))
    held_out = real.ids(real.test[:50])
    nll = np.concatenate(fitted.token_nll(held_out)).mean()
    assert nll < 0.5 * np.log(real.vocab_size)
    assert nll == np.concatenate(again.token_nll(held_out)).mean()


def test_the_oracle_is_its_arrays_and_finds_its_own_text_likely(tmp_path):
    random = np.random.default_rng(0)
    shapes = {"embedding": (30, 4), "wo": (5, 30), "bo": (30,)}
    for gate in ("i", "f", "c", "og"):
        shapes |= {f"w{gate}": (4, 5), f"u{gate}": (5, 5), f"b{gate}": (5,)}
    arrays = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, array in arrays.items():
        with (tmp_path / f"{name}.npz").open("wb") as file:
            np.save(file, array)
    oracle = load_oracle(tmp_path)
    texts = oracle.sample(200, seed=1)
    assert float(oracle.nll(texts).mean()) < float(oracle.nll(torch.randint(0, 30, (200, 20))).mean()) - 1
    assert float(oracle.nll(texts[:1])) == pytest.approx(literal_nll(arrays, texts[0].tolist()), abs=1e-4)
    assert oracle_ids([["3"] * 20, ["3"] * 19, ["x"] * 20, ["30"] * 20], oracle.vocab_size).shape == (1, 20)
    assert isinstance(oracle, Oracle)


def literal_nll(a, text):
    """The oracle, step by step, as its paper's code computes it."""

    def gate(letter, x, h, squash):
        return squash(x @ a[f"w{letter}"] + h @ a[f"u{letter}"] + a[f"b{letter}"])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, c, token, total = np.zeros(5), np.zeros(5), 0, 0.0
    for following in text:
        x = a["embedding"][token]
        c = gate("f", x, h, sigmoid) * c + gate("i", x, h, sigmoid) * gate("c", x, h, np.tanh)
        h = gate("og", x, h, sigmoid) * np.tanh(c)
        logits = h @ a["wo"] + a["bo"]
        total += np.log(np.exp(logits).sum()) - logits[following]
        token = following
    return total / len(text)


def test_settings_refuse_what_cannot_be():
    out_of_range = ({"samples": 1}, {"seeds": 0}, {"temperatures": (0.0,)}, {"best_of": 0})
    twice = ({"temperatures": (1.0, 1.0)}, {"choose_by": ("top", "top")})
    for wrong in (*out_of_range, *twice, {"teacher": Path("t"), "documents": 0}):
        with pytest.raises(ConfigError, match="--"):
            EvaluationSettings(**wrong)
    assert json.dumps(EvaluationSettings().temperatures) == "[1.0]"


def test_the_command_judges_a_run_s_directories_and_a_bundle_alike(tmp_path, tiny_corpus, model):
    from click.testing import CliRunner

    from edgetext.checkpoint import save_model
    from edgetext.cli import group

    directory = tmp_path / "model"
    save_model(directory, model.model)
    tokenizer = train_tokenizer(tiny_corpus.read_text().splitlines(), "word", 100)
    (directory / "tokenizer.json").write_bytes(tokenizer)
    bundle = write_bundle_of(tmp_path / "model.etx", model.model.config, tokenizer, model.model)
    common = ["--corpus", str(tiny_corpus), "--test-fraction", "0.3", "--samples", "20", "--seeds", "1"]
    sweep = ["--temperature", "0.7", "--temperature", "1", "--documents", "5", "--teacher", str(directory)]
    out = tmp_path / "judged"
    done = CliRunner().invoke(
        group, ["eval", str(directory), str(bundle), *common, *sweep, "-o", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.splitlines()[-1])
    assert [row["model"] for row in record["rows"]] == ["people", *[str(directory)] * 2, *[str(bundle)] * 2]
    ours, theirs = record["rows"][1]["figures"], record["rows"][3]["figures"]
    assert ours["nll_test"]["mean"] == pytest.approx(theirs["nll_test"]["mean"], abs=1e-3)
    assert theirs["agreement"]["mean"] > 0.99
    assert len(record["dominance"]) == 1
    assert (out / "frontier.png").stat().st_size > 5_000
    assert "## Overlap with people's text" in (out / "evaluation.md").read_text()
    again = CliRunner().invoke(group, ["eval", str(directory), *common, "-o", str(out)])
    assert again.exit_code == 1
    assert "--force" in again.output
    missing = CliRunner().invoke(group, ["eval", str(tmp_path / "nothing"), *common])
    assert "check the path" in missing.output


def write_bundle_of(path, config, tokenizer_json, weights):
    """The fp32 bundle of a model."""
    from dataclasses import asdict

    from edgetext.checkpoint import model_tensors
    from edgetext_export.bundle import GENERATION, bundle_manifest
    from edgetext_export.graph import build_step_graph
    from edgetext_export.writer import write_bundle

    arrays = {name: tensor.numpy() for name, tensor in model_tensors(weights).items()}
    tokenizer = Tokenizer.from_json(tokenizer_json)
    graph = build_step_graph(config, arrays, "fp32", suppressed=tokenizer.suppressed)
    manifest = bundle_manifest(config, graph, tokenizer, name="tiny", provenance={}, licence="not stated")
    settings = asdict(GENERATION.sampling) | {"max_new_tokens": GENERATION.max_new_tokens}
    members = {
        "model.onnx": graph.model,
        "tokenizer.json": tokenizer_json,
        "generation.json": json.dumps(settings).encode(),
        "quality.json": b"{}",
        "golden.json": b'{"cases": []}',
        "CARD.md": b"# tiny",
    }
    return write_bundle(path, manifest, members)


def test_tables_fit_the_terminal_and_lose_no_column():
    figures = {
        f"{name}_{n}": {"mean": 0.5, "low": 0.4, "high": 0.6}
        for name in ("bleu", "self_bleu")
        for n in (2, 3, 4, 5)
    }
    record = {"rows": [{"model": "people", "temperature": None, "figures": figures}]}
    ((_, whole),) = tables(record)
    ((_, narrow),) = tables(record, 80)
    assert max(map(len, narrow.splitlines())) <= 80 < len(whole.splitlines()[0])
    assert narrow.count("Self-B") == narrow.count("0.500 ± 0.100") // 2 == 4


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (lambda path: np.savez(path, np.ones((3, 2))), "archive of arrays"),
        (lambda path: np.save(path.open("wb"), np.ones(3)), "must be matrices"),
        (lambda path: path.write_bytes(b"none"), "not an array"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_what_is_no_oracle_is_named(store, words, tmp_path):
    for name in ("embedding", "wo"):
        store(tmp_path / f"{name}.npz")
    with pytest.raises(CheckpointError, match=words):
        load_oracle(tmp_path)


def test_a_choice_among_one_text_is_refused():
    from click.testing import CliRunner

    from edgetext.cli import group

    done = CliRunner().invoke(group, ["eval", "--corpus", "nowhere.txt", "--choose-by", "top"])
    assert done.exit_code == 1
    assert "give --best-of as well" in done.output + done.stderr

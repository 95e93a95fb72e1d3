"""``edgetext serve``, a real process on a loopback port, asked by the official client."""

import http.client
import json
import subprocess
import sys
import threading
import time

import openai
import pytest
import tiny_bundle as tiny

from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator

VOCAB = 3 + len(tiny.ALPHABET)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model, state = tiny.lstm_model(VOCAB)
    path = tmp_path_factory.mktemp("served") / "tiny.etx"
    return write_bundle(path, tiny.manifest(VOCAB, state), tiny.members(model, tiny.char_tokenizer()))


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle)


@pytest.fixture(scope="module")
def port(bundle):
    limits = ["--max-tokens", "1000000", "--concurrency", "1", "--waiting", "1"]
    code = "from edgetext.cli import main; main()"
    command = [sys.executable, "-u", "-c", code, "serve", str(bundle), "--port", "0", *limits]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        try:
            yield int(said.split("127.0.0.1:")[1].split("/")[0])
        finally:
            process.terminate()
            assert process.communicate(timeout=20)[1] == ""


@pytest.fixture
def client(port):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client, prompt="ab", **options):
    return client.completions.create(model="tiny", prompt=prompt, **options)


def test_text_is_that_of_the_generator(client, generator):
    answer = complete(client, seed=3, max_tokens=20, temperature=0.7)
    expected = generator.generate("ab", seed=3, max_new_tokens=20, temperature=0.7)
    (choice,) = answer.choices
    assert choice.text == expected.text
    assert choice.finish_reason == ("length" if expected.finish_reason == "length" else "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, len(expected.tokens))
    assert choice.model_extra["seed"] == 3


def test_stream_gives_the_same_text_in_pieces(client, generator):
    expected = generator.generate("ab", seed=3, max_new_tokens=20)
    options = {"seed": 3, "max_tokens": 20, "logprobs": 2, "stream_options": {"include_usage": True}}
    parts = list(complete(client, stream=True, **options))
    choices = [part.choices[0] for part in parts if part.choices]
    assert "".join(choice.text for choice in choices) == expected.text
    assert len(choices) > 2
    assert [c.finish_reason for c in choices[:-1]] == [None] * (len(choices) - 1)
    assert parts[-1].usage.completion_tokens == len(expected.tokens)
    texts = [token for choice in choices[:-1] for token in choice.logprobs.tokens]
    assert (len(texts), "".join(texts)) == (len(expected.tokens), expected.text)
    assert len(choices[0].logprobs.top_logprobs[0]) == 2


def test_stop_penalties_and_own_options_arrive(client, generator):
    free = generator.generate("ab", seed=1, max_new_tokens=30).text
    stop = free[3:5]
    assert complete(client, seed=1, max_tokens=30, stop=[stop]).choices[0].text == free.split(stop)[0]
    own = {"regex": "[a-c]{4}", "top_k": 5}
    assert set(complete(client, seed=1, extra_body=own).choices[0].text) <= set("abc")
    biased = complete(client, seed=1, max_tokens=5, logit_bias={"3": 100})
    assert biased.choices[0].text == "aaaaa"
    penalised = complete(client, seed=1, max_tokens=5, frequency_penalty=2, logit_bias={"3": 4})
    expected = generator.generate("ab", seed=1, max_new_tokens=5, frequency_penalty=2.0, logit_bias={3: 4.0})
    assert penalised.choices[0].text == expected.text


def test_many_texts_logprobs_and_echo(client, generator):
    answer = complete(client, ["ab", "c"], n=2, seed=5, max_tokens=6, logprobs=1, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice, (prompt, seed) in zip(
        answer.choices, [("ab", 5), ("ab", 6), ("c", 5), ("c", 6)], strict=True
    ):
        expected = generator.generate(prompt, seed=seed, max_new_tokens=6, logprobs=True)
        assert choice.text == prompt + expected.text
        assert choice.logprobs.token_logprobs[len(prompt) :] == pytest.approx(expected.logprobs)
        assert choice.logprobs.token_logprobs[: len(prompt)] == pytest.approx(
            generator.score(prompt).logprobs
        )
        assert choice.logprobs.text_offset == list(range(len(choice.text)))
    best = complete(client, best_of=4, seed=5, max_tokens=6)
    assert best.choices[0].text == generator.generate("ab", best_of=4, seed=5, max_new_tokens=6).text
    ids = generator.tokenizer.encode("ab")
    assert complete(client, ids, seed=5).choices[0].text == complete(client, "ab", seed=5).choices[0].text


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'gpt-3' does not exist"):
        client.completions.create(model="gpt-3", prompt="a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"max_tokens": 10_000_000}, "max_tokens is 10000000"),
        ({"n": 100}, "n is 100"),
        ({"prompt": [1, 10**9]}, "token id 1000000000"),
        ({"prompt": {"a": 1}}, "prompt: allowed is a string"),
        ({"suffix": "x"}, "suffix is given"),
        ({"stop": ["x"] * 50}, "stop has 50"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"logit_bias": {"x": 1}}, "logit_bias is"),
        ({"extra_body": {"regex": "("}}, "regex"),
        ({"extra_body": {"processors": [1]}}, "unknown field 'processors'"),
    ],
)
def test_bad_requests_are_explained(client, options, message):
    with pytest.raises(openai.BadRequestError, match=message):
        complete(client, **options)


def post(port, body, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    return response.status, response.read()


def test_hostile_bodies_are_refused(port):
    assert post(port, b"{")[0] == 400
    assert post(port, b"[" * 100_000)[0] == 400
    assert post(port, b'{"temperature": NaN}')[0] == 400
    assert post(port, b"[1]")[0] == 400
    assert post(port, b" " * (2 << 20))[0] == 413
    assert post(port, b"{}", **{"content-type": "text/plain"})[0] == 415
    assert post(port, b"{}", host="evil.example")[0] == 400
    status, content = post(port, b'{"prompt": "ab", "seed": 1}')
    assert (status, json.loads(content)["model"]) == (200, "tiny")


def test_places_are_limited_and_a_client_that_leaves_frees_one(client):
    endless = {"max_tokens": 1_000_000, "logit_bias": {"0": -100}, "stream": True}
    first = complete(client, **endless)
    next(iter(first))
    waiting = threading.Thread(target=lambda: complete(client, seed=1))
    waiting.start()
    time.sleep(1)  # until the thread's request has taken the waiting place
    with pytest.raises(openai.RateLimitError, match="too many requests"):
        complete(client, seed=1, max_tokens=1)
    first.close()
    waiting.join(timeout=30)
    assert not waiting.is_alive()

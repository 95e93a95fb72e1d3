"""The numpy backend as a guest in a process: nothing imported that is not there, nothing left changed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from onnx import numpy_helper

from edgetext_runtime import Generator, SamplingParams
from edgetext_runtime.numpy_blas import OneThread
from edgetext_runtime.numpy_session import NumpySession

GREEDY = SamplingParams(temperature=0)

WITHOUT_ONNXRUNTIME = """
import socket, sys
sys.modules["onnxruntime"] = None  # importing it fails
socket.socket = None
import warnings
warnings.simplefilter("error")

from edgetext_runtime import SamplingParams, read_bundle
from edgetext_runtime.numpy_session import NumpySession

bundle = read_bundle(sys.argv[1])
session = NumpySession(bundle.members["model.onnx"], bundle.manifest)
state, token, greedy = session.new_state(), 0, SamplingParams(temperature=0)
for _ in range(20):
    token = session.step(token, state, greedy, 0.5)
    print(token)
assert not {"onnx", "torch"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def session():
    model, state = tiny.lstm_model(30)
    return NumpySession(model, tiny.manifest(30, state))


def generate(session, start, count=40):
    state, tokens = session.new_state(), [start]
    for _ in range(count):
        tokens.append(session.step(tokens[-1], state, GREEDY, 0.5))
    return tokens


def test_runs_where_onnxruntime_cannot_be_imported(lstm_path, lstm):
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONNXRUNTIME, str(lstm_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stderr == ""
    state, token = lstm.session.new_state(), 0
    for line in run.stdout.split():
        token = lstm.session.step(token, state, GREEDY, 0.5)
        assert int(line) == token


def test_threads_share_a_session(session):
    alone = [generate(session, start) for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda start: generate(session, start), range(8))) == alone


def test_blas_threads_are_put_back():
    one = OneThread()
    before = one.threads
    with one:
        assert one.threads in (1, None)
        with one:
            assert one.threads in (1, None)
        assert one.threads in (1, None)
    assert one.threads == before
    with pytest.raises(ZeroDivisionError), one:
        raise ZeroDivisionError
    assert one.threads == before


def test_weights_that_are_no_numbers_warn_nobody(recwarn):
    model, state = tiny.lstm_model(30)
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name in ("head", "w"):
            array = numpy_helper.to_array(tensor).copy()
            array.flat[::7] = [np.nan, np.inf, -np.inf, 3e38][len(array) % 4]
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    broken = NumpySession(proto.SerializeToString(), tiny.manifest(30, state))
    assert all(0 <= token < 30 for token in generate(broken, 3))
    assert not recwarn.list


def test_a_generator_on_numpy_writes_the_same_text(lstm_path, byte_path, attention_path):
    for path in (lstm_path, byte_path, attention_path):
        ours, ort = (Generator.load(path, provider=provider) for provider in ("numpy", "cpu"))
        assert ours.session.provider == "numpy"
        for seed in range(5):
            assert ours.generate("a", seed=seed).tokens == ort.generate("a", seed=seed).tokens
        assert ours.score("abc").logprobs == pytest.approx(ort.score("abc").logprobs, abs=1e-4)

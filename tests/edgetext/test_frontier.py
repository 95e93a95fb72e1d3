"""The referee: what it calls better, worse and noise."""

import numpy as np
import pytest
import torch

from edgetext.evaluate.frontier import Judgement, Referee, beginnings, compare
from edgetext.models import ModelConfig, build_model

V = 24


def stream(documents, seed):
    """Documents that count upwards from a random id, twelve tokens each."""
    random = np.random.default_rng(seed)
    pieces = [[0, *(3 + (random.integers(21) + np.arange(12)) % 21)] for _ in range(documents)]
    return np.array([*np.concatenate(pieces), 0], dtype=np.uint16)


@pytest.fixture(scope="module")
def referee():
    return Referee(stream(400, 0), stream(100, 1), V, texts=80)


def test_beginnings_start_after_the_end_token():
    texts = beginnings(stream(50, 0), 10, length=5)
    assert len(texts) == 10
    assert all(len(text) == 5 and 0 not in text for text in texts)
    assert 12 in [len(text) for text in beginnings(stream(3, 0), 10, length=48)]


def test_real_text_beats_noise_on_both_scores(referee):
    random = np.random.default_rng(2)
    noise = random.integers(3, V, (80, 12)).tolist()
    people, judged = referee.judge_people(), referee.judge(noise)
    assert people.lm_score < judged.lm_score
    assert people.reverse_lm_score < judged.reverse_lm_score


def test_one_text_repeated_is_good_but_not_diverse(referee):
    repeated = [referee.held_out[0]] * 80
    people, judged = referee.judge_people(), referee.judge(repeated)
    assert judged.lm_score < people.lm_score + 0.5
    assert judged.reverse_lm_score > people.reverse_lm_score + 0.5


def test_no_text_at_all_is_the_worst(referee):
    assert referee.judge([[], []]) == Judgement(float("inf"), float("inf"))


def learn(steps):
    torch.manual_seed(0)
    model = build_model(ModelConfig("lstm", V, 16, 32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    data = torch.from_numpy(stream(400, 0)[: 13 * 400].astype(np.int64)).view(400, 13)
    for step in range(steps):
        batch = data[step * 40 % 400 : step * 40 % 400 + 40]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_better_model_is_accepted_and_a_worse_one_is_not(referee):
    worse, better = learn(5), learn(60)
    seeds = (1, 2, 3)
    forward = compare(referee, worse, better, seeds, nll=(2.0, 1.0))
    assert forward.accepted, forward.reason
    backward = compare(referee, better, worse, seeds, nll=(1.0, 1.0))
    assert not backward.accepted
    assert "worse at some quality" in backward.reason


def test_an_equal_model_and_a_loss_of_likelihood_are_refused(referee):
    model = learn(20)
    same = compare(referee, model, model, (1, 2), nll=(1.0, 1.0))
    assert not same.accepted
    assert "no gain" in same.reason
    assert not compare(referee, learn(5), learn(60), (1, 2, 3), nll=(1.0, 1.2)).accepted

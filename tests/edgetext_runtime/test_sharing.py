"""Many threads on one bundle, and a small sample of the fuzzing campaigns (tests/fuzz/campaign.py)."""

import random

import pytest
from fuzz import campaign, cases

from edgetext_bench.sharing import cancel, share


@pytest.mark.parametrize("name", ["lstm", "attention"])
def test_threads_get_what_one_thread_gets(name, request):
    assert share(request.getfixturevalue(name), threads=16, generations=6, tokens=8) == 0


def test_cancelling_lets_at_most_the_step_in_progress_end(lstm):
    found = cancel(lstm, times=20)
    assert max(found["steps_after"]) <= 2  # the one in progress, and one begun while the flag was being set


@pytest.mark.parametrize(("source", "count"), [(cases.Bundles, 200), (cases.Prompts, 200)])
def test_hostile_input_gives_a_result_or_a_documented_error(source, count):
    drawn, guard = source([]), campaign.Guard()
    outcomes = [campaign.run_case(drawn.draw(random.Random(n)).run, guard) for n in range(count)]
    assert [outcome for outcome in outcomes if outcome.startswith("FAILED")] == []
    assert len(set(outcomes)) > 1

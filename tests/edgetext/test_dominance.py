"""Whole sweeps against each other."""

import numpy as np
import pytest

from edgetext.evaluate.dominance import compare_all, compare_sweeps, frontier, standard_error

BASE = [(5.0, 3.0), (4.5, 3.5), (4.2, 4.0), (4.4, 4.6)]
"""A sweep from cold to hot: beyond the best temperature both scores get worse."""


def moved(quality, diversity=0.0):
    return [(x + diversity, y + quality) for x, y in BASE]


def test_a_frontier_is_the_best_quality_at_most_that_reverse_score():
    values = frontier(BASE, np.array([4.1, 4.2, 4.35, 4.5, 6.0]))
    assert values[0] == np.inf
    assert values[1:] == pytest.approx([4.0, 3.75, 3.5, 3.0])


def test_a_temperature_without_texts_counts_for_nothing():
    lost = [(float("inf"), float("inf")), *BASE]
    grid = np.array([4.1, 4.3, 6.0])
    assert frontier(lost, grid) == pytest.approx(frontier(BASE, grid))
    assert compare_sweeps("a", [lost, BASE], "b", [BASE, BASE]).verdict == "equals"


def test_lower_everywhere_dominates():
    found = compare_sweeps("new", [moved(-0.1), moved(-0.12)], "old", [BASE, BASE])
    assert found.verdict == "dominates"
    assert found.line.startswith("new dominates old: over reverse-LM")
    assert compare_sweeps("old", [BASE, BASE], "new", [moved(-0.1), moved(-0.12)]).verdict == (
        "is dominated by"
    )


def test_noise_is_no_dominance_and_crossing_is_said():
    assert compare_sweeps("a", [moved(-0.1), moved(0.1)], "b", [BASE, BASE]).verdict == "equals"
    tilted = [(x, y + 0.5 * (x - 4.6)) for x, y in BASE]
    assert compare_sweeps("a", [tilted], "b", [BASE]).verdict == "crosses"


def test_reaching_a_diversity_the_other_cannot_is_worth_something():
    assert compare_sweeps("a", [moved(0.0, -0.3)], "b", [BASE]).verdict == "dominates"


def test_sweeps_that_do_not_meet_are_compared_where_the_less_diverse_one_ends():
    far = compare_sweeps("a", [[(9.0, 1.0), (8.0, 2.0)]], "b", [[(6.0, 1.5), (5.0, 3.0)]])
    assert far.verdict == "is dominated by"
    assert (far.grid, far.gain) == ((8.0,), (-0.5,))


def test_a_score_that_is_not_finite_is_not_compared():
    far = compare_sweeps("a", [[(9.0, 1.0), (8.0, 2.0)]], "b", [[(float("inf"), float("inf"))]])
    assert far.verdict == "cannot be compared with"


def test_standard_error_is_over_the_seeds():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert standard_error(values) == pytest.approx([1 / 3**0.5, 0.0])
    assert standard_error(values[:1]) == pytest.approx([0.0, 0.0])


def test_the_line_states_the_gain_in_both_scores():
    line = compare_sweeps("new", [moved(-0.1), moved(-0.12)], "old", [BASE, BASE]).line
    assert "LM score 0.110 ± 0.010 lower" in line
    assert "at the same LM scores its reverse-LM score is" in line
    assert line.endswith("lower")
    assert len(compare_all({"a": [BASE], "b": [BASE], "c": [BASE]})) == 3

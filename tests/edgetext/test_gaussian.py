"""The adversarial core on a distribution that is known."""

from edgetext.adversarial.gaussian import DEVIATION, MEAN, learn_gaussian


def test_minibatch_discrimination_keeps_the_spread_that_is_lost_without_it():
    alone, together = (learn_gaussian(kind, steps=700, seed=1) for kind in ("none", "discrimination"))
    assert abs(together.mean - MEAN) < 0.75
    late_alone, late_together = (sum(r.deviations[-10:]) / 10 for r in (alone, together))
    assert late_alone < 0.4 * DEVIATION
    assert late_together > 0.7 * DEVIATION

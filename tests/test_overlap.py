"""What groups of environments save, and how it is told."""

import numpy as np
import pytest

from learnmax_jax import config, overlap


def test_ratios_are_medians_of_the_rounds_own() -> None:
    times = {
        "act_in_groups": np.array([4.0, 8.0, 40.0]),  # a round in which all was slow changes no ratio
        "act_in_one": np.array([5.0, 16.0, 40.0]),  # ratios 0.8, 0.5, 1: the ratio of the medians would be 0.5
        "emulators": np.array([3.0, 6.0, 30.0]),
        "network": np.array([2.0, 4.0, 20.0]),
    }
    figures = overlap._figures(times)
    assert figures["act_in_groups_seconds"] == 8.0 and figures["network_seconds"] == 4.0
    ratios = {name: value for name, value in figures.items() if not name.endswith("seconds")}
    assert ratios == pytest.approx(
        {
            "groups_over_one": 0.8,
            "groups_over_longer": 4 / 3,
            "groups_over_sum": 0.8,
            "one_over_sum": 1.0,  # of 1, 1.6 and 0.8
            "emulators_over_groups": 0.75,
        }
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_emulators_and_network_are_timed_apart() -> None:
    """The network before frames that never change costs less than the phase with emulators, which they dominate."""
    fields = (("actor.num_groups", "2"), ("env.num_threads", "1"), ("search.kind", "none"))
    figures = overlap.measure(config.load("configs/smoke.py", [*fields, ("search.num_simulations", "0")]), rounds=5)
    assert all(value > 0 for value in figures.values())
    assert figures["network_seconds"] < figures["act_in_one_seconds"]
    assert figures["emulators_seconds"] < 1.5 * figures["act_in_one_seconds"]

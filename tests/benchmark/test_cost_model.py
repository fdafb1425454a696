"""The prediction for accelerators, by hand."""

import pytest

from learnmax_jax.benchmark import cost_model, plots
from learnmax_jax.benchmark.cost_model import Assumptions, Step

STEP = Step(
    agent_steps=100,
    emulator_steps_per_second=50.0,
    flops=4e9,
    num_bytes=2e9,
    kernels=1000,
    num_updates=3,
    gradient_bytes=8e6,
)
ASSUMED = Assumptions(
    flops_per_second=1e12,
    utilisation=0.5,
    bytes_per_second=1e11,
    kernel_seconds=1e-5,
    interconnect_bytes_per_second=1e9,
    latency_seconds=1e-3,
    host_cores=4,
    scale=2,
)


def test_seconds_by_hand() -> None:
    parts = cost_model.seconds(STEP, 8, ASSUMED)
    # 2 x 100 steps at 50 a second on each of 4 cores
    assert parts["emulators"] == pytest.approx(1.0)
    # arithmetic 2 x 4e9 / 5e11 = 0.016, memory 2 x 2e9 / 1e11 = 0.04; and 1000 kernels of 10 us
    assert parts["compute"] == pytest.approx(0.04 + 0.01)
    # 3 updates of 2 x 7/8 x 8e6 / 1e9 = 0.014 and 2 x 3 hops of 1 ms
    assert parts["reduce"] == pytest.approx(3 * (0.014 + 0.006))
    assert cost_model.seconds(STEP, 1, ASSUMED)["reduce"] == 0.0


def test_rates_by_hand() -> None:
    one, eight = cost_model.predict(STEP, ASSUMED, (1, 8))
    assert one["agent_steps_per_second"] == pytest.approx(200 / 1.05)
    # 8 accelerators x 2 x 100 steps in 1 + 0.05 + 0.06 s
    assert eight["agent_steps_per_second"] == pytest.approx(1600 / 1.11)
    assert "| 8 | 1,441 | 95% |" in cost_model.markdown([one, eight])


def test_the_plot_says_what_was_assumed() -> None:
    figure = plots.draw_prediction(cost_model.predict(STEP, ASSUMED), ASSUMED)
    label = " ".join(figure.axes[0].get_xlabel().split())
    assert ASSUMED.text() in label and "assumed, not measured" in label


def test_a_step_is_acting_and_learning() -> None:
    row = {"flops": 1.0, "num_bytes": 2.0, "kernels": 3.0}
    figures = {
        "roofline": [row | {"name": name} for name in ("act", "learn", "search", "step")],
        "agent_steps_per_step": 512,
        "emulator_steps_per_second": 3000.0,
        "cores": 2,
        "updates_per_step": 1,
        "gradient_bytes": 4e6,
    }
    assert cost_model.step_of(figures) == Step(512, 1500.0, 2.0, 4.0, 6.0, 1, 4e6)

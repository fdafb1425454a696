"""Exponents, and the order in which sizes are measured."""

import pytest

from learnmax_jax import agent as agents
from learnmax_jax import config
from learnmax_jax.benchmark import growth, timing
from tests import runs


def test_exponents_of_known_curves() -> None:
    sizes = (1, 2, 4, 8, 16, 32)
    assert growth.exponent([(n, 3.0 * n**2) for n in sizes]) == pytest.approx(2.0)
    assert growth.exponent([(n, 5.0) for n in sizes]) == pytest.approx(0.0)
    # a + b n: below, the constant hides the growth; the upper half is nearly linear
    assert 0.9 < growth.exponent([(n, 1.0 + n) for n in sizes]) < 1.0
    # of four sizes the last three count: log2 of 1, 2, 8 over 2, 4, 8 has slope 1.5
    assert growth.exponent([(1, 7.0), (2, 1.0), (4, 2.0), (8, 8.0)]) == pytest.approx(1.5)
    assert growth.exponent([(4, 1.0)]) is None


def test_ends_come_first_then_middles() -> None:
    assert growth.coarse_to_fine((1, 2, 4, 8, 16)) == [(0, 1), (0, 16), (1, 4), (2, 2), (2, 8)]
    assert growth.coarse_to_fine((3,)) == [(0, 3)]


def test_a_curve_holds_what_it_promises_or_not() -> None:
    curve = next(each for each in growth.curves(runs.tiny()) if each.name == "simulations")
    linear = growth.row(curve, [growth.Point(n, 0.1 * n, 1000, 0) for n in (4, 1, 2)])
    assert linear["holds"] and [point["size"] for point in linear["points"]] == [1, 2, 4]
    square = growth.row(curve, [growth.Point(n, 0.1 * n**2, 1000, 0) for n in (1, 2, 4)])
    assert square["holds"] is False and square["memory_exponent"] == pytest.approx(0.0)
    assert "**no**" in growth.markdown([square]) and "| yes |" in growth.markdown([linear])


def test_every_size_is_a_config() -> None:
    settings = runs.tiny()
    for curve in growth.curves(settings):
        assert list(curve.sizes) == sorted(set(curve.sizes)), curve.name
        for size in curve.sizes:
            section = config.thaw(settings)
            section.update_from_flattened_dict(curve.fields(size))
            agents.build(config.Settings(section))


def test_items_stop_where_the_budget_ends(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(timing.time, "monotonic", lambda: float(next(clock)))
    # begin 0; the first item at 10; at 20 and 30 an item takes 20 and 15; at 30 + 15 the budget of 40 would be over
    done = [item for _, item in timing.told([(f"size {n}", n) for n in range(9)], 9, budget_seconds=40)]
    said = capsys.readouterr().out.splitlines()
    assert done == [0, 1] and said[0] == "1 of 9: size 0" and "s left" in said[1]
    assert said[-1] == "7 of 9 left out: 40 s are over"

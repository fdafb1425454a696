"""Value rescaling and two-hot supports."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnmax_jax.models import support as support_lib

_SIZES = np.concatenate([np.logspace(-6, 0, 25), np.logspace(0, np.log10(3e5), 25)[1:]])
_SCALARS = np.concatenate([-_SIZES[::-1], [0.0], _SIZES]).astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1e-2])
def test_n08_inverse_rescale_undoes_rescale(epsilon: float):
    x = jnp.asarray(_SCALARS)
    again = support_lib.inverse_rescale(support_lib.rescale(x, epsilon=epsilon), epsilon=epsilon)
    # Tighter than the promise (relative 1e-4, absolute 1e-6 near 0): small values must not vanish in the root.
    np.testing.assert_allclose(again, x, rtol=3e-6, atol=0)


def test_n08_rescale_is_the_published_formula():
    x = _SCALARS.astype(np.float64)
    expected = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 1e-3 * x
    np.testing.assert_allclose(support_lib.rescale(jnp.asarray(_SCALARS)), expected, rtol=2e-6, atol=1e-10)
    inverse = np.sign(x) * (((np.sqrt(1 + 4e-3 * (np.abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1)
    np.testing.assert_allclose(support_lib.inverse_rescale(jnp.asarray(_SCALARS)), inverse, rtol=2e-6, atol=1e-9)
    # By hand: sqrt(8 + 1) - 1 + 0.001 * 8.
    assert float(support_lib.rescale(jnp.float32(-8.0))) == pytest.approx(-2.008)


def test_n08_rescale_is_odd_and_monotone():
    for function in (support_lib.rescale, support_lib.inverse_rescale):
        y = np.asarray(function(jnp.asarray(_SCALARS)))
        np.testing.assert_array_equal(y, -y[::-1])
        assert (np.diff(y) > 0).all()


def test_n08_gradients_are_finite_and_true_at_zero():
    # h'(0) = 1/2 + epsilon, and the inverse's is its reciprocal.
    assert float(jax.grad(support_lib.rescale)(0.0)) == pytest.approx(0.501)
    assert float(jax.grad(support_lib.inverse_rescale)(0.0)) == pytest.approx(1 / 0.501)
    for function in (support_lib.rescale, support_lib.inverse_rescale):
        slopes = jax.vmap(jax.grad(function))(jnp.asarray(_SCALARS))
        assert bool((jnp.isfinite(slopes) & (slopes > 0)).all())


def test_two_hot_by_hand():
    support = support_lib.Support(-1.0, 2.0, 7)
    np.testing.assert_array_equal(support.bins, [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
    targets = support.two_hot(jnp.asarray([[0.0, 0.625], [-9.0, 2.5]]))
    expected = np.zeros((2, 2, 7))
    expected[0, 0, 2] = 1  # zero has its own bin
    expected[0, 1, 3:5] = [0.75, 0.25]  # 0.625 is a quarter of the way from 0.5 to 1
    expected[1, 0, 0] = expected[1, 1, 6] = 1  # clipped
    np.testing.assert_array_equal(targets, expected)
    chex.assert_type(targets, jnp.float32)


@pytest.mark.parametrize("limits", [(-300.0, 300.0, 601), (-20.0, 20.0, 51), (-0.1, 0.2, 31), (0.0, 5.0, 12)])
def test_n08_two_hot_sums_to_one_and_its_mean_is_the_scalar(limits: tuple[float, float, int]):
    support = support_lib.Support(*limits)
    inside = jnp.linspace(limits[0], limits[1], 1_001)
    targets = support.two_hot(inside)
    assert targets.shape == (1_001, limits[2])
    assert float(targets.min()) >= 0
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    assert int((targets > 0).sum(-1).max()) <= 2
    # log(0) = -inf is a logit too.
    scale = max(-limits[0], limits[1])
    np.testing.assert_allclose(support.expectation(jnp.log(targets)), inside, rtol=1e-5, atol=1e-6 * scale)


def test_n08_zero_is_exact():
    for limits in [(-300.0, 300.0, 601), (-0.1, 0.2, 31), (-0.7, 0.7, 15)]:
        support = support_lib.Support(*limits)
        target = support.two_hot(jnp.float32(0.0))
        assert target.shape == (limits[2],)
        assert float(target.max()) == 1 and float(support.bins[target.argmax()]) == 0
        assert float(support.expectation(jnp.log(target))) == 0


def test_n08_outside_is_clipped_and_counted():
    support = support_lib.Support(-2.0, 2.0, 5)
    x = jnp.asarray([[-2.0, 2.0, 0.3], [-2.001, 7.0, jnp.inf]])
    assert int(support.num_clipped(x)) == 3
    decoded = support.expectation(jnp.log(support.two_hot(x)))
    np.testing.assert_allclose(decoded, [[-2, 2, 0.3], [-2, 2, 2]], atol=1e-6)


def test_two_hot_keeps_nan():
    assert bool(jnp.isnan(support_lib.Support(-1.0, 1.0, 3).two_hot(jnp.asarray([jnp.nan, 0.0]))).any())


def test_expectation_of_low_precision_logits_is_float32():
    # Uniform over -1..2: in bfloat16 31 times 1/31 is not 1.
    value = support_lib.Support(-1.0, 2.0, 31).expectation(jnp.zeros((2, 31), jnp.bfloat16))
    chex.assert_type(value, jnp.float32)
    np.testing.assert_allclose(value, [0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("limits", "field", "nearest"),
    [
        ((-1.0, 1.0, 4), "num_bins=4", "Nearest: 5"),
        ((-1.0, 2.0, 6), "num_bins=6", "Nearest: 7"),
        ((-1.0, 1.0, 1), "num_bins=1", "Nearest: 2"),
        ((0.5, 1.0, 3), "minimum=0.5", "Nearest: 0.0"),
        ((-2.0, -1.0, 3), "maximum=-1.0", "Nearest: 0.0"),
        ((0.0, 0.0, 3), "maximum=0.0", "Nearest: 1.0"),
        ((-1.0, 3.1415926535, 9), "minimum=-1.0", "Nearest: -3.14"),
    ],
)
def test_support_refuses_limits_without_zero(limits: tuple[float, float, int], field: str, nearest: str):
    with pytest.raises(ValueError, match=f"^{field}: .*{nearest}"):
        support_lib.Support(*limits)

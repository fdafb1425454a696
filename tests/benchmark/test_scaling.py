"""Weak scaling: what a flag may say, what grows, and that a process of its own measures it."""

import pytest

from learnmax_jax import config_schema, lifecycle
from learnmax_jax.benchmark import scaling
from tests import runs


def test_counts_are_read_in_order() -> None:
    assert scaling.read_counts("8,1, 2,2") == (1, 2, 8)


@pytest.mark.parametrize(("text", "value", "nearest"), [("1,3", "3", "2"), ("100", "100", "16"), ("two", "two", "1")])
def test_a_wrong_count_is_told(text: str, value: str, nearest: str) -> None:
    with pytest.raises(lifecycle.BadInput) as told:
        scaling.read_counts(text)
    assert str(told.value) == f"--devices={value}: unknown. Allowed: 1, 2, 4, 8, 16. Nearest: {nearest}"


def test_the_work_grows_and_nothing_else() -> None:
    settings = runs.tiny()
    before, after = (config_schema.flatten(values) for values in (settings.to_dict(), scaling.times(settings, 4)))
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert changed["env.num_envs"] == (2, 8) and changed["learner.batch_size"] == (2, 8)
    assert len(changed) == 6 and all(new == 4 * old for old, new in changed.values())


@pytest.mark.slow
@pytest.mark.timeout(2700)  # three processes that compile the whole step
def test_two_devices_are_timed_beside_one() -> None:
    one, two = scaling.measure(runs.tiny(), (1, 2), rounds=1)
    assert one["ratio"] == 1.0 and two["devices"] == 2 and two["num_envs"] == 4
    assert two["ratio"] == two["seconds"] / two["one_device_seconds"] > 0
    assert scaling.markdown([one, two]).count("\n") == 4

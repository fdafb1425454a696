"""mctx's own Gumbel MuZero behind the planner's signature: what the trees of our own must agree with."""

from functools import partial
from typing import Any
from unittest import mock

import mctx

from learnmax_jax.search import planner
from learnmax_jax.types import Array, SearchOutput


def _search(
    rng_key: Array,
    root: Any,
    value: Array,
    prior_logits: Array,
    edge: Any,
    *,
    num_simulations: int,
    max_depth: int,
    max_num_considered_actions: int,
    value_floor: float,
    gumbel_scale: float,
) -> SearchOutput:
    policy = partial(
        mctx.gumbel_muzero_policy,
        num_simulations=num_simulations,
        max_depth=max_depth,
        qtransform=partial(mctx.qtransform_completed_by_mix_value, epsilon=value_floor),
        max_num_considered_actions=max_num_considered_actions,
        gumbel_scale=gumbel_scale,
    )
    return planner.run_mctx(policy, rng_key, root, value, prior_logits, edge)


def plan(*args: Any, **kwargs: Any) -> SearchOutput:
    """`planner.plan` of kind gumbel, by mctx; traceable."""
    with mock.patch.dict(planner.SEARCHES, gumbel=_search):
        return planner.plan(*args, **kwargs)

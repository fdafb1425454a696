"""FLOPs and bytes of compiled programs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from learnmax_jax.benchmark import costs, program_text

M, K = 96, 64


def compiled(trips: int) -> jax.stages.Compiled:
    """x W, again and again: each trip is a matrix product of 2 M K K FLOPs that a tanh keeps from being folded."""

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, trips, lambda _, x: jnp.tanh(x @ w), x)

    return jax.jit(chain).lower(jnp.zeros((M, K)), jnp.zeros((K, K))).compile()


def test_a_loop_counts_as_often_as_it_turns() -> None:
    found = costs.cost(compiled(7))
    # 7 products of 2 x 96 x 64 x 64; XLA counts the tanh apart, once
    product = 2 * M * K * K
    assert 7 * product <= found.flops < 7 * product + 0.05 * product
    # what a trip moves at the least: x and w read, x written
    moved = 4 * (2 * M * K + K * K)
    assert 7 * moved <= found.num_bytes < 7 * 3 * moved
    once = compiled(7).cost_analysis()
    assert once["flops"] < 2 * product  # why all this is needed


def test_a_loop_of_unknown_trips_turns_as_often_as_told_if_it_multiplies_matrices() -> None:
    def chain(x: jax.Array, w: jax.Array, trips: jax.Array) -> jax.Array:
        x = jax.lax.fori_loop(0, trips, lambda _, x: jnp.tanh(x @ w), x)
        return jax.lax.while_loop(lambda x: x.sum() > 1.0, lambda x: x * 0.5, x)

    program = jax.jit(chain).lower(jnp.zeros((M, K)), jnp.zeros((K, K)), jnp.asarray(3)).compile()
    product = 2 * M * K * K
    assert costs.cost(program, trips=5).flops == pytest.approx(5 * product, rel=0.1)
    assert costs.cost(program, trips=1).flops == pytest.approx(product, rel=0.1)


def test_loops_in_loops_multiply() -> None:
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        def outer(_: jax.Array, x: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x + 1.0)

        return jax.lax.fori_loop(0, 5, outer, x)

    program = jax.jit(chain).lower(jnp.zeros((M, K)), jnp.zeros((K, K))).compile()
    assert costs.cost(program).flops == pytest.approx(15 * 2 * M * K * K, rel=0.1)


def test_what_the_text_says_of_one_trip_is_near_what_xla_says() -> None:
    program = jax.jit(lambda x, w: jnp.tanh(x @ w) @ w).lower(jnp.zeros((M, K)), jnp.zeros((K, K))).compile()
    text = program_text.read(program.as_text())
    lines = text.computations[text.entry]
    shapes = {line.name: line.shape for line in lines}
    moved = sum(program_text.moved_bytes(line, shapes, text) for line in lines)
    assert moved == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.3)
    assert sum(program_text.flops(line, shapes) for line in text.inside(text.entry)) in (0, 4 * M * K * K)


def test_a_fusion_that_slices_a_large_table_moves_the_slice() -> None:
    text = program_text.read(
        """
%fused (param_0: f32[1000,64], param_1: s32[8]) -> f32[8,64] {
  %param_0 = f32[1000,64]{1,0} parameter(0)
  %param_1 = s32[8]{0} parameter(1)
  %gather = f32[8,64]{1,0} gather(%param_0, %param_1), offset_dims={1}
  ROOT %tanh = f32[8,64]{1,0} tanh(%gather)
}

ENTRY %main (a: f32[1000,64], b: s32[8]) -> f32[8,64] {
  %a = f32[1000,64]{1,0} parameter(0)
  %b = s32[8]{0} parameter(1)
  ROOT %fusion = f32[8,64]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/search/tanh"}
}
"""
    )
    (line,) = [line for line in text.computations["main"] if line.opcode == "fusion"]
    shapes = {line.name: line.shape for line in text.computations["main"]}
    # the slice read and the result written, 8 x 64 x 4 bytes each, and 8 indices of 4 bytes
    assert program_text.moved_bytes(line, shapes, text) == 2 * 8 * 64 * 4 + 8 * 4
    assert line.op_name == "jit(f)/search/tanh" and line.is_root


def test_what_runs_one_after_the_other_adds_up() -> None:
    one = costs.Cost(flops=1.0, num_bytes=2.0, kernels=3.0)
    other = costs.Cost(flops=10.0, num_bytes=20.0, kernels=30.0)
    assert costs.total([one, other]) == costs.Cost(flops=11.0, num_bytes=22.0, kernels=33.0)

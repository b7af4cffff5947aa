"""Operations and bytes against counts made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.analysis.cost import matmul_flops, nbytes


def shape(*sizes, dtype='float32'):
  return jax.ShapeDtypeStruct(sizes, dtype)


def scanned(x, kernels):
  return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]


def either(x, dear, cheap):
  return jax.lax.cond(x[0, 0] > 0, lambda: x @ dear, lambda: x[:, :1] @ cheap)


def by_platform(x, dear, cheap):
  return jax.lax.platform_dependent(x, cpu=lambda x: x @ dear, default=lambda x: x[:, :1] @ cheap)


def convolved(image, kernel, groups=1):
  return jax.lax.conv_general_dilated(
    image, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups
  )


def looped(x, kernel):
  return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ kernel, x)


@pytest.mark.parametrize(
  'function, arguments, wanted',
  [
    (jnp.matmul, [shape(3, 5), shape(5, 7)], 2 * 3 * 5 * 7),
    (jnp.matmul, [shape(11, 3, 5), shape(11, 5, 7)], 11 * 2 * 3 * 5 * 7),
    (lambda a, b: jnp.einsum('abc,bcd->ad', a, b), [shape(2, 3, 5), shape(3, 5, 7)], 2 * 2 * 7 * 15),
    (jnp.add, [shape(3, 5), shape(3, 5)], 0),
    (scanned, [shape(3, 5), shape(13, 5, 5)], 13 * 2 * 3 * 5 * 5),
    (either, [shape(3, 5), shape(5, 7), shape(1, 7)], 2 * 3 * 5 * 7),
    (by_platform, [shape(3, 5), shape(5, 7), shape(1, 7)], 2 * 3 * 7),
    (looped, [shape(3, 5), shape(5, 5)], 2 * 3 * 5 * 5),
    # 9 x 9 pixels, windows of 3 x 3 every 2: 4 x 4 places, each 3 * 3 * 6 inputs to 8 outputs.
    (convolved, [shape(2, 9, 9, 6), shape(3, 3, 6, 8)], 2 * (2 * 4 * 4 * 8) * (3 * 3 * 6)),
    (lambda i, k: convolved(i, k, 2), [shape(2, 9, 9, 6), shape(3, 3, 3, 8)], 2 * (2 * 4 * 4 * 8) * (3 * 3 * 3)),
    (jax.jit(jnp.matmul), [shape(3, 5), shape(5, 7)], 2 * 3 * 5 * 7),
  ],
  ids=['dot', 'batched', 'two axes', 'no product', 'scan', 'cond', 'platform', 'while', 'conv', 'grouped conv', 'jit'],
)
def test_products_by_hand(function, arguments, wanted):
  assert matmul_flops(function, *arguments) == wanted


def test_remat_counts_what_is_computed_again():
  # tanh after both products: the first one's output is needed to differentiate the second.
  layers = lambda x, a, b: jnp.tanh(jnp.tanh(x @ a) @ b)
  grad = lambda f: jax.grad(lambda a, b, x: f(x, a, b).sum(), argnums=(0, 1))
  arguments = [shape(5, 7), shape(7, 4), shape(3, 5)]
  first, second = 2 * 3 * 5 * 7, 2 * 3 * 7 * 4
  # Forward; then for b: its gradient and the way back through it; for a: its gradient alone.
  kept = (first + second) + 2 * second + first
  assert matmul_flops(grad(layers), *arguments) == kept
  assert matmul_flops(grad(jax.checkpoint(layers)), *arguments) >= kept + first


def test_a_custom_gradient_is_counted_once():
  product = jax.custom_vjp(lambda a, b: a @ b)
  product.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
  assert matmul_flops(product, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7


def test_bytes():
  tree = {'a': shape(3, 5), 'b': [shape(7, dtype='bfloat16'), np.zeros((2, 2), np.int8)], 'c': None}
  assert nbytes(tree) == 3 * 5 * 4 + 7 * 2 + 4
  assert nbytes(None) == 0

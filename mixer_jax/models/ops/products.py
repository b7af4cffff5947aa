"""Products of matrices whose gradients XLA computes slowly on a CPU, with gradients by hand."""

import jax
from flax import nnx


def over_tokens(layer: nnx.Linear, x: jax.Array) -> jax.Array:
  """A linear layer over the first axis of x: [inputs, ...] -> [outputs, columns], in the type of x."""
  x = x.reshape(len(x), -1)
  return from_left(layer.kernel[...].astype(x.dtype), x) + layer.bias[...].astype(x.dtype)[:, None]


@jax.custom_vjp
def from_left(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """kernel.T @ x: [inputs, outputs], [inputs, columns] -> [outputs, columns], for many more columns than rows.

  The kernel's gradient, a sum over all columns, is taken with the smaller factor on the right and transposed as a whole
  afterwards: the other way round XLA ran it on one core of a CPU, and the barrier keeps it from turning it back.
  """
  return kernel.T @ x


def _from_left_backward(saved, dy):
  kernel, x = saved
  swap = dy.shape[0] > x.shape[0]
  product = jax.lax.optimization_barrier(dy @ x.T if swap else x @ dy.T)
  return product.T if swap else product, kernel @ dy


from_left.defvjp(lambda kernel, x: (kernel.T @ x, (kernel, x)), _from_left_backward)


@jax.custom_vjp
def from_right(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x @ kernel: [rows, inputs], [inputs, outputs] -> [rows, outputs], for many more rows than columns.

  The kernel's gradient, a sum over all rows, is the transposed x, written out, times that of the result: in the orders
  that XLA chose for a linear layer of [batch, tokens, channels] it took up to four times as long on a CPU.
  """
  return x @ kernel


def _from_right_backward(saved, dy):
  x, kernel = saved
  keep = jax.lax.optimization_barrier
  return dy @ kernel.T, keep(keep(x.T) @ dy)


from_right.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _from_right_backward)

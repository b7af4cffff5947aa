"""The cost of a function, counted in its jaxpr: nothing is compiled or allocated."""

import math
from collections.abc import Callable

import jax


def matmul_flops(function: Callable, *arguments) -> int:
  """FLOPs of the matrix products and convolutions in function(*arguments), 2 per multiply-add.

  A scan's body counts once per iteration, a while loop's once, since its trip count is unknown. A conditional counts
  as its most expensive branch, jax.lax.platform_dependent as its default.

  Args:
    arguments: arrays or ShapeDtypeStructs.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def nbytes(tree) -> int:
  """Bytes of all arrays in a tree, concrete or abstract."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _count(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, parameters = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = parameters['dimension_numbers']
      inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
    elif name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      outputs = kernel[parameters['dimension_numbers'].rhs_spec[0]]
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    inner = [_count(getattr(part, 'jaxpr', part)) for part in _bodies(parameters)]
    platforms = parameters.get('branches_platforms')
    if platforms and None in platforms:
      total += inner[platforms.index(None)]
    elif name == 'cond':
      total += max(inner)
    else:
      total += sum(inner) * (parameters['length'] if name == 'scan' else 1)
  return total


def _bodies(parameters: dict) -> list:
  values = [v for value in parameters.values() for v in (value if isinstance(value, (tuple, list)) else [value])]
  return [v for v in values if hasattr(v, 'eqns') or hasattr(getattr(v, 'jaxpr', None), 'eqns')]

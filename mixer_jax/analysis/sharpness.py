"""The sharpness of a minimum: Hessian eigenvalues and trace, m-sharpness, the loss along lines and over a plane.

All measures are of one function of the parameters, the mean loss over fixed examples:
  losses(params, batch) -> float32 [batch], the loss of each example; pass the same function object in every call to
    avoid recompilation;
  batches: arrays [batches, batch, ...] on the device, with a `mask` [batches, batch] that is 0 for padding.
Vectors are flat, float32 [parameters], in the order of jax.flatten_util.ravel_pytree. Losses, gradients and Hessian
products are computed in float32, so numbers below about 1e-5 of the largest eigenvalue are noise. Where a loss has
kinks (ReLU, L1), its Hessian is that of the smooth pieces.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from scipy import linalg

from mixer_jax.errors import MixerError

Batch = dict[str, jax.Array]
Losses = Callable[[Any, Batch], jax.Array]
MOVED = {'kernel', 'embedding'}  # names of the parameters that a filter-normalised direction moves


def mean_loss(losses: Losses, params: Any, batches: Batch) -> jax.Array:
  return along(losses, params, (), np.zeros((1, 0), np.float32), batches)[0]


@functools.partial(jax.jit, static_argnums=0)
def gradient(losses: Losses, params: Any, batches: Batch) -> jax.Array:
  """The gradient of the mean loss, [parameters]."""
  return ravel_pytree(_mean(lambda batch: jax.grad(_sum(losses, batch))(params), batches))[0]


@functools.partial(jax.jit, static_argnums=0)
def hvp(losses: Losses, params: Any, batches: Batch, vector: jax.Array) -> jax.Array:
  """Hessian-vector product of the mean loss, [parameters], forward over reverse (Pearlmutter 1994)."""
  tangent = ravel_pytree(params)[1](vector)
  of_batch = lambda batch: jax.jvp(jax.grad(_sum(losses, batch)), (params,), (tangent,))[1]
  return ravel_pytree(_mean(of_batch, batches))[0]


def _sum(losses: Losses, batch: Batch) -> Callable[[Any], jax.Array]:
  return lambda params: (losses(params, batch) * batch['mask']).sum()


def _mean(function: Callable[[Batch], Any], batches: Batch) -> Any:
  """The sum of function(batch) over the batches, divided by the number of examples."""
  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], batches))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  add = lambda total, batch: (jax.tree.map(jnp.add, total, function(batch)), None)
  return jax.tree.map(lambda x: x / batches['mask'].sum(), jax.lax.scan(add, zeros, batches)[0])


class Spectrum(NamedTuple):
  """Both ends of a Hessian's spectrum.

  Attributes:
    values: the largest eigenvalues, descending, [count].
    smallest: the smallest eigenvalue, negative at a saddle.
    residuals, smallest_residual: |H v - value v| for the unit Ritz vectors v. The Hessian has an eigenvalue within this
      distance of each value, so it measures convergence.
    vector: the unit vector of the largest eigenvalue, [parameters].
  """

  values: np.ndarray
  residuals: np.ndarray
  smallest: float
  smallest_residual: float
  vector: np.ndarray


def lanczos(
  product: Callable[[np.ndarray], Any], size: int, *, count: int, iterations: int, seed: int | tuple[int, ...]
) -> Spectrum:
  """Both ends of the spectrum of a symmetric matrix, from matrix-vector products (Lanczos 1950).

  Each new vector is orthogonalised twice against all earlier ones. One Krylov space of fixed size gives both ends at a
  cost known in advance. scipy.sparse.linalg.eigsh restarts until each value has converged relative to its own size: for
  the smallest of an auto-encoder, -0.01 against 3.6, it had not converged after 221 products. A repeated eigenvalue is
  found once, unless the Krylov space is exhausted earlier.

  Args:
    product: [size] -> [size], the matrix times a vector.
    count: number of largest eigenvalues, at most `iterations` and `size`.
    iterations: number of products, and of vectors in memory; the residuals take `count` + 1 further products.
  """
  random = np.random.default_rng(seed)
  iterations = min(iterations, size)
  basis = np.zeros((iterations, size), np.float32)
  diagonal, off_diagonal = np.zeros(iterations), np.zeros(iterations)
  following = random.standard_normal(size, np.float32)
  for i in range(iterations):
    basis[i] = following / np.linalg.norm(following)
    image = np.asarray(product(basis[i]))
    diagonal[i] = basis[i] @ image
    following = _orthogonal(image, basis[: i + 1])
    off_diagonal[i] = np.linalg.norm(following)
    if off_diagonal[i] <= 1e-6 * np.linalg.norm(image):  # an invariant subspace: continue in any remaining direction
      off_diagonal[i] = 0
      following = _orthogonal(random.standard_normal(size, np.float32), basis[: i + 1])
  values, vectors = linalg.eigh_tridiagonal(diagonal, off_diagonal[:-1])

  def measured(i):
    vector = vectors[:, i].astype(np.float32) @ basis
    vector /= np.linalg.norm(vector)
    return float(np.linalg.norm(np.asarray(product(vector)) - np.float32(values[i]) * vector)), vector

  largest = [measured(i) for i in range(iterations - 1, iterations - 1 - count, -1)]
  residuals = np.array([residual for residual, _ in largest])
  return Spectrum(values[::-1][:count], residuals, float(values[0]), measured(0)[0], largest[0][1])


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
  for _ in range(2):
    vector = vector - (basis @ vector) @ basis
  return vector


def trace(
  product: Callable[[np.ndarray], Any], size: int, *, probes: int, seed: int | tuple[int, ...]
) -> tuple[float, float]:
  """Hutchinson's estimate of the trace of a matrix (1990) and its standard error over the probes.

  Args:
    product: as for `lanczos`.
    probes: number of random +-1 vectors, at least 2.
  """
  random = np.random.default_rng(seed)
  signs = (random.choice(np.float32([-1, 1]), size) for _ in range(probes))
  found = [np.dot(v.astype(np.float64), np.asarray(product(v))) for v in signs]
  return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(probes))


def m_sharpness(losses: Losses, params: Any, batches: Batch, *, rho: float, m: int) -> np.ndarray:
  """The rise of the loss of m examples after a step of length rho along their own gradient, [groups].

  loss(w + rho g / |g|) - loss(w), with the loss and its gradient g over one group of m examples (Foret et al. 2021,
  arXiv 2010.01412; Andriushchenko and Flammarion 2022, arXiv 2206.06232); the m-sharpness is the mean over groups.
  Groups are consecutive examples; an incomplete last group is dropped.
  """
  counts = np.asarray(batches['mask']).reshape(-1) > 0
  groups = counts.sum() // m

  def cut(array):
    examples = einops.rearrange(np.asarray(array), 'k b ... -> (k b) ...')[counts]
    return einops.rearrange(examples[: groups * m], '(k m) ... -> k m ...', m=m)

  return np.asarray(_rises(losses, params, jax.tree.map(cut, batches), rho))


@functools.partial(jax.jit, static_argnums=0)
def _rises(losses, params, groups, rho):
  def rise(_, batch):
    mean = lambda params: losses(params, batch).mean()
    before, grad = jax.value_and_grad(mean)(params)
    norm = optax.tree.norm(grad)
    length = jnp.where(norm > 0, rho / norm, 0)
    return None, mean(jax.tree.map(lambda p, g: p + length * g, params, grad)) - before

  return jax.lax.scan(rise, None, groups)[1]


def filter_normalised(params: Any, seed: int | tuple[int, ...]) -> Any:
  """A random direction whose filters have the norms of the parameters' filters (Li et al. 2018, arXiv 1712.09913).

  A filter is all weights into one output: a column of a kernel [inputs, outputs] or of each kernel of a stack
  [blocks, inputs, outputs], or the window and inputs of a convolution [rows, columns, inputs, outputs]. Only the
  parameters in MOVED move, not biases and scales; zero filters stay zero.
  """
  random = np.random.default_rng(seed)

  def draw(path, leaf):
    if not MOVED & set(jax.tree_util.keystr(path, simple=True, separator='/').split('/')):
      return jnp.zeros_like(leaf)
    inputs = (0, 1, 2) if leaf.ndim == 4 else (-2,)
    length = lambda x: jnp.sqrt(jnp.square(x).sum(inputs, keepdims=True))
    noise = random.standard_normal(leaf.shape, np.float32)
    return noise * (length(leaf) / length(noise))

  return jax.tree_util.tree_map_with_path(draw, params)


@functools.partial(jax.jit, static_argnums=0)
def along(losses: Losses, params: Any, directions: tuple, coefficients: jax.Array, batches: Batch) -> jax.Array:
  """The mean loss at params + coefficients[i] @ directions for every i.

  Args:
    directions: trees like params.
    coefficients: [points, directions].
  """

  def at(weights):
    move = lambda param, *steps: sum((w * step for w, step in zip(weights, steps, strict=True)), param)
    moved = jax.tree.map(move, params, *directions)
    return _mean(lambda batch: _sum(losses, batch)(moved), batches)

  return jax.lax.map(at, coefficients)


def line(losses: Losses, params: Any, direction: Any, at: np.ndarray, batches: Batch) -> np.ndarray:
  """The mean loss at params + at[i] * direction, [points]."""
  return np.asarray(along(losses, params, (direction,), np.float32(at)[:, None], batches))


def surface(losses: Losses, params: Any, first: Any, second: Any, at: np.ndarray, batches: Batch) -> np.ndarray:
  """The mean loss at params + at[j] * first + at[i] * second, [points, points]."""
  places = einops.rearrange(np.stack(np.meshgrid(at, at)), 'd i j -> (i j) d')
  found = np.asarray(along(losses, params, (first, second), np.float32(places), batches))
  return einops.rearrange(found, '(i j) -> i j', j=len(at))


def check(
  *, eigenvalues: int, iterations: int, probes: int, rho: float, m: int | None, points: int, span: float,
  reach: float | None, seed: int,
):  # fmt: skip
  """Validates the settings of `analyse`, named as command-line options, before anything is read."""
  for what, value, least in (
    ('eigenvalues', eigenvalues, 1), ('iterations', iterations, 1), ('probes', probes, 2), ('m', m, 1),
    ('points', points, 3), ('seed', seed, 0),
  ):  # fmt: skip
    if value is not None and value < least:
      raise MixerError(f'--{what} is {value}, but must be at least {least}')
  for what, value in (('rho', rho), ('span', span), ('reach', reach)):
    if value is not None and not 0 < value < np.inf:
      raise MixerError(f'--{what} is {value}, but must be above 0 and finite')
  if eigenvalues > iterations:
    raise MixerError(
      f'--eigenvalues is {eigenvalues}, but --iterations is {iterations}, which finds at most that many; give several'
      ' iterations per eigenvalue'
    )
  if points % 2 == 0:
    raise MixerError(f'--points is {points}, but must be odd, so that one of them is at the parameters')


def analyse(
  losses: Losses, params: Any, batches: Batch, *, eigenvalues: int, iterations: int, probes: int, rho: float,
  m: int | None, points: int, span: float, seed: int, note: Callable[[str], None], reach: float | None = None,
) -> dict[str, Any]:  # fmt: skip
  """All measures above; deterministic given the arguments.

  Args:
    eigenvalues: number of largest eigenvalues.
    iterations: of `lanczos`.
    probes: of `trace`.
    rho, m: of `m_sharpness`; m None for 128, or all examples if there are fewer.
    points: along each side of the surface, odd, so that one of them is at the parameters; lines have 2 points - 1.
    span: the reach of the random line and the surface on each side, in lengths of a filter-normalised direction.
    reach: that of the sharpest line, a distance; None for where a parabola of its curvature adds four times the loss.
    note: called with progress messages.

  Returns:
    `parameters`, `examples`, `loss`, `gradient_norm`;
    `eigenvalues`, `residuals`, `smallest`, `smallest_residual`, `iterations`: see Spectrum;
    `trace`, `trace_standard_error`, `probes`;
    `m_sharpness`, `m_sharpness_standard_error` (over the groups, None for one), `groups`, `rho`, `m`;
    `line`: for `random`, the surface's first direction, and `sharpest`, the unit eigenvector of the largest
      eigenvalue: `at`, `loss`, and `slope` and `curvature` from the gradient and the Hessian at the parameters;
    `surface`: `at`, `loss` [along the second direction][along the first].
    Losses that are not finite, far from the parameters, are None.

  Raises:
    MixerError: a setting is invalid, or the parameters, the loss or its derivatives are not finite.
  """
  examples, size = int(np.asarray(batches['mask']).sum()), sum(leaf.size for leaf in jax.tree.leaves(params))
  m = min(128, examples) if m is None else m
  check(
    eigenvalues=eigenvalues, iterations=iterations, probes=probes, rho=rho, m=m, points=points, span=span, reach=reach,
    seed=seed,
  )  # fmt: skip
  if m > examples:
    raise MixerError(f'--m is {m}, but there are {examples:,} examples; choose a smaller --m or more --examples')
  if eigenvalues > size:
    raise MixerError(f'--eigenvalues is {eigenvalues}, but there are only {size:,} parameters')
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if not jnp.isfinite(leaf).all():
      name = jax.tree_util.keystr(path, simple=True, separator='.').removesuffix('.value')
      raise MixerError(f'the parameter {name} is not finite; choose another --checkpoint')
  loss, grad = float(mean_loss(losses, params, batches)), np.asarray(gradient(losses, params, batches))
  if not np.isfinite(loss) or not np.isfinite(grad).all():
    raise MixerError(f'the loss of the {examples:,} examples is {loss}, or its gradient is not finite; choose others')

  def product(vector):
    result = np.asarray(hvp(losses, params, batches, vector))
    if not np.isfinite(result).all():
      raise MixerError('a product with the Hessian is not finite: the loss has no second derivative at the parameters')
    return result

  iterations = min(iterations, size)
  note(f'{size:,} parameters, {examples:,} examples; Lanczos, {iterations} products with the Hessian')
  spectrum = lanczos(product, size, count=eigenvalues, iterations=iterations, seed=(seed, 0))
  note(f'trace, {probes} products')
  mean, error = trace(product, size, probes=probes, seed=(seed, 1))
  note(f'm-sharpness, {examples // m} groups of {m}')
  rises = m_sharpness(losses, params, batches, rho=rho, m=m)
  note(f'two lines and a surface, {points**2 + 4 * points - 2:,} losses')
  first, second = (filter_normalised(params, (seed, 2 + i)) for i in range(2))
  sharpest = ravel_pytree(params)[1](spectrum.vector)
  if reach is None:
    reach = 2 * np.sqrt(2 * loss / spectrum.values[0]) if min(loss, spectrum.values[0]) > 0 else 1.0

  def drawn(direction, at):
    vector = np.asarray(ravel_pytree(direction)[0])
    return {
      'at': at.tolist(),
      'loss': _listed(line(losses, params, direction, at, batches)),
      'slope': float(grad @ vector),
      'curvature': float(vector @ product(vector)),
    }

  steps, at = np.linspace(-1, 1, 2 * points - 1), span * np.linspace(-1, 1, points)
  return {
    'parameters': size,
    'examples': examples,
    'loss': loss,
    'gradient_norm': float(np.linalg.norm(grad)),
    'eigenvalues': spectrum.values.tolist(),
    'residuals': spectrum.residuals.tolist(),
    'smallest': spectrum.smallest,
    'smallest_residual': spectrum.smallest_residual,
    'iterations': iterations,
    'trace': mean,
    'trace_standard_error': error,
    'probes': probes,
    'm_sharpness': float(rises.mean()),
    'm_sharpness_standard_error': float(rises.std(ddof=1) / np.sqrt(len(rises))) if len(rises) > 1 else None,
    'groups': len(rises),
    'rho': rho,
    'm': m,
    'line': {'random': drawn(first, span * steps), 'sharpest': drawn(sharpest, reach * steps)},
    'surface': {'at': at.tolist(), 'loss': _listed(surface(losses, params, first, second, at, batches))},
  }


def _listed(losses: np.ndarray) -> list:
  return np.where(np.isfinite(losses), losses.astype(object), None).tolist()


def draw_lines(found: Mapping[str, Any], path: Path) -> None:
  """Draws the loss along both lines of `analyse`, each with the parabola of its slope and curvature."""
  figure = Figure(figsize=(7, 3.1), layout='constrained')
  labels = {
    'random': 'along a random direction\n(in filter norms)',
    'sharpest': f'along the sharpest direction\n(distance; eigenvalue {found["eigenvalues"][0]:.3g})',
  }
  for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
    of_line = found['line'][name]
    at, losses = np.array(of_line['at']), np.array(of_line['loss'], float)
    shown = losses[np.isfinite(losses)]
    room = 0.05 * (np.ptp(shown) or 1)
    axes.plot(at, losses, '.-', color='black', markersize=4, label='loss')
    dense = np.linspace(at[0], at[-1], 201)
    parabola = found['loss'] + of_line['slope'] * dense + of_line['curvature'] / 2 * dense**2
    axes.plot(dense, parabola, '--', color='0.5', label='parabola of slope and curvature')
    axes.plot(0, found['loss'], 'o', color='#0072b2', markersize=5, label='the run')
    axes.set(xlabel=label, ylabel='loss', ylim=(shown.min() - room, shown.max() + room))
    axes.grid(alpha=0.3)
  figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=3, frameon=False)
  figure.savefig(path, dpi=150)


def draw_surface(found: Mapping[str, Any], path: Path) -> None:
  """Draws the surface of `analyse`, darker where the loss is higher, with a cross at the parameters.

  If the highest loss is more than ten times the lowest, levels are spaced geometrically.
  """
  at, losses = np.array(found['surface']['at']), np.ma.masked_invalid(np.array(found['surface']['loss'], float))
  low, high = float(losses.min()), float(losses.max())
  high = high if high > low else low + 1
  spaced = np.geomspace if 0 < low < high / 10 else np.linspace
  levels = spaced(low, high, 10)
  levels[0], levels[-1] = low, high
  figure = Figure(figsize=(4.4, 3.8), layout='constrained')
  axes = figure.subplots()
  shades = LinearSegmentedColormap.from_list('shades', ['1', '0.3'])
  filled = axes.contourf(at, at, losses, levels, cmap=shades, norm=BoundaryNorm(levels, shades.N))
  axes.contour(at, at, losses, levels, colors='black', linewidths=0.6)
  axes.plot(0, 0, '+', color='#0072b2', markersize=9, markeredgewidth=2, label='the run')
  axes.set(xlabel='first random direction\n(in filter norms)', ylabel='second random direction', aspect='equal')
  apart = 'equal factors' if spaced is np.geomspace else 'equal differences'
  figure.colorbar(filled, label=f'loss, contours at {apart}', ticks=levels, format='%.3g', shrink=0.9)
  figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', frameon=False)
  figure.savefig(path, dpi=150)

"""Sharpness-aware minimisation around any optimizer: SAM, ASAM, GSAM, Sparse SAM, LookSAM.

Each method is an optax transformation that wraps another; its `update` also takes `grad_fn`, like `optax.contrib.sam`
in opaque mode. One step:

  1. Take g, the gradient at w: the mean over the whole batch (accumulated if configured), before clipping and decay.
  2. Compute the perturbation e from g.
  3. Take g', the gradient at w + e: same batch, same augmentation, same dropout masks.
  4. The wrapped optimizer takes g' (or what the method makes of g and g') as its gradient: it clips g', computes its
     moments from g', adds its weight decay at w, and updates w.

With `sync`, all devices share one e, from the mean g. Without it, each device computes its own e from its shard of the
batch, and the optimizer takes the mean of their g'. That minimises m-sharpness, where m is the shard size, so the
result depends on the number of devices; `grads` and grad_fn's input and output then have a leading axis of devices.
Foret et al. and Zhuang et al. use one e per accelerator. Kwon et al.'s code is for one device, Mi et al.'s averages
both gradients over devices, which is `sync`; what Liu et al. do is unknown.

Any optimizer can be wrapped. With `schedule_free`, w is its y, where it takes gradients. With `rho` 0 no second
gradient is taken, and the result is the wrapped optimizer's, bit for bit.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.optim import groups
from mixer_jax.optim.schedules import Length
from mixer_jax.ranges import Amount, Count, Rate, Share

EPSILON = 1e-12  # added to norms in denominators, as in SAM's own code


class Report(NamedTuple):
  """The last step's perturbation: its norm and the loss there, means over devices; all 0 if there was none."""

  norm: jax.Array
  loss: jax.Array  # also 0 if grad_fn returns no loss
  taken: jax.Array  # 1, or 0 for a step without a second gradient


class Step(NamedTuple):
  """A method's view of a step.

  `grads` is the mean over devices with `sync`; otherwise it has a leading axis of devices, over which `each` maps a
  function and `mean` averages. `at` returns the gradient at params + a perturbation, and the report.
  """

  grads: Any
  params: Any
  memory: Any
  count: jax.Array
  each: Callable
  mean: Callable
  at: Callable


class SamState(NamedTuple):
  """`base` is the wrapped optimizer's state, `memory` the method's own."""

  count: jax.Array
  base: optax.OptState
  memory: Any
  report: Report


def measures(state: SamState) -> dict[str, jax.Array]:
  """The last step's report for the log: `sam_norm`, `sam_loss` and `sam_taken`."""
  return {f'sam_{name}': value for name, value in state.report._asdict().items()}


def sam(
  base: optax.GradientTransformation, *, rho: Amount, sync: bool = True, has_loss: bool = False
) -> optax.GradientTransformationExtraArgs:
  """SAM (Foret et al. 2021, arXiv 2010.01412): e = rho g / |g|; the optimizer takes g'.

  Args:
    base: the optimizer to wrap.
    rho: the norm of the perturbation.
    sync: one perturbation for all devices, or one each, see above.
    has_loss: whether grad_fn returns (loss, gradient), as jax.value_and_grad does, or the gradient alone.

  Raises:
    MixerError: rho is negative or not finite; `update` is called without grad_fn or params.
  """

  def direction(step):
    second, report = step.at(step.each(lambda g: _to_norm(g, rho))(step.grads))
    return step.mean(second), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def asam(
  base: optax.GradientTransformation, *, rho: Amount, eta: Amount = 0.01, sync: bool = True, has_loss: bool = False
) -> optax.GradientTransformationExtraArgs:
  """ASAM (Kwon et al. 2021, arXiv 2102.11600): e = rho T^2 g / |T g| with T = |w| + eta, elementwise.

  Sharpness is then invariant to rescaling one kernel by c and the next by 1 / c. As in the authors' code, T is 1 for
  biases; deviation: also for norm scales and embeddings, where theirs is |w| + eta for all that torch calls a weight.
  The paper's rho is at least 10 times SAM's.

  Args:
    eta: keeps small weights moving.
  """

  def direction(step):
    size = lambda path, w: jnp.abs(w) + eta if groups.name(path)[-1] == 'kernel' else jnp.ones(())
    sizes = jax.tree.map_with_path(size, step.params)
    times_sizes = lambda tree: jax.tree.map(jnp.multiply, sizes, tree)
    second, report = step.at(step.each(lambda g: times_sizes(_to_norm(times_sizes(g), rho)))(step.grads))
    return step.mean(second), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def gsam(
  base: optax.GradientTransformation, *, rho: Amount, rho_min: Amount = 0.0, alpha: Amount = 0.2,
  schedule: optax.Schedule, peak: float, sync: bool = True, has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """GSAM (Zhuang et al. 2022, arXiv 2203.08065): g' minus alpha times the component of g orthogonal to g'.

  To first order, that component lowers the surrogate gap, loss(w + e) - loss(w), and leaves loss(w + e) unchanged. e is
  SAM's, with a radius that follows the learning rate: rho_min + (rho - rho_min) x rate / peak. Deviation: the paper
  uses the rate minus its lowest value, which is the same for schedules that end at 0.

  Args:
    rho, rho_min: the largest and the smallest norm of the perturbation.
    alpha: 0 for SAM with that radius.
    schedule, peak: of the learning rate.
  """
  if not 0 <= rho_min <= rho:
    raise MixerError(f'sam.rho_min is {rho_min}, but must be between 0 and sam.rho, {rho}')

  def direction(step):
    radius = rho_min + (rho - rho_min) * schedule(step.count) / peak
    second, report = step.at(step.each(lambda g: _to_norm(g, radius))(step.grads))
    gap = step.each(_rejection)(step.grads, second)
    return step.mean(jax.tree.map(lambda s, g: s - alpha * g, second, gap)), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def fisher_sam(
  base: optax.GradientTransformation, *, rho: Amount, sparsity: Rate = 0.5, refresh: Count = 100, sync: bool = True,
  has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Sparse SAM with the Fisher mask, SSAM-F (Mi et al. 2022, arXiv 2210.05177): SAM's e, masked.

  The mask keeps the entries with the largest Fisher information, the mean squared gradient. As in the authors' code, g
  is normalised before masking, so |e| < rho, and sparsity saves no time. Deviations: the squares are of batch gradients
  since the last refresh, where the paper uses single examples; the first batch makes the first mask, which the authors
  leave empty.

  Args:
    sparsity: the fraction of entries that is 0, in [0, 1).
    refresh: steps between masks.
  """
  renew = lambda scores, *_: _largest(scores, _kept(scores, sparsity))
  return _sparse(base, renew, True, refresh, rho=rho, sync=sync, has_loss=has_loss)


def dynamic_sam(
  base: optax.GradientTransformation, *, rho: Amount, sparsity: Rate = 0.5, refresh: Count = 100, drop: Share = 0.5,
  seed: int, length: Length, sync: bool = True, has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Sparse SAM with the dynamic mask, SSAM-D (Mi et al. 2022, arXiv 2210.05177): SAM's e, masked.

  The mask starts random. Each refresh replaces the fraction drop x (1 + cos(pi t / T)) / 2 of the kept entries, those
  with the smallest |g|, by random others. As for `fisher_sam`, |e| < rho, and sparsity saves no time. Deviation: a new
  mask applies at once, the authors' from the next step.

  Args:
    sparsity: the fraction of entries that is 0, in [0, 1).
    refresh: steps between masks.
    drop: the largest fraction that a refresh replaces, in [0, 1].
    seed: of the random choices, together with the step.
    length: of the run; T is its total steps.
  """

  def renew(scores, old, count):
    kept = _kept(scores, sparsity)
    part = drop * (1 + jnp.cos(jnp.pi * count / length.total)) / 2
    dropped = jnp.minimum(jnp.floor(part * kept).astype(jnp.int32), scores.size - kept)
    dropped = jnp.where(count == 0, kept, dropped)
    others = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), count), scores.shape)
    return _largest(jnp.where(old, scores, -1), kept - dropped) | _largest(jnp.where(old, -1, others), dropped)

  return _sparse(base, renew, False, refresh, rho=rho, sync=sync, has_loss=has_loss)


def _sparse(
  base: optax.GradientTransformation, renew: Callable, gathering: bool, refresh: int, *, rho: float,
  sync: bool, has_loss: bool,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """SAM with a mask that renew(squared gradient, old mask, step) returns, all flat.

  Args:
    gathering: whether to sum the squared gradients since the last refresh, or to take the current step's alone.
  """

  def init(params):
    nothing = jax.tree.map(lambda w: jnp.zeros(w.shape, bool), params)
    return nothing, optax.tree.zeros_like(params) if gathering else ()

  def direction(step):
    mask, gathered = step.memory
    squares = jax.tree.map(jnp.square, step.mean(step.grads))
    squares = jax.tree.map(jnp.add, gathered, squares) if gathering else squares

    def next_mask():
      scores, shaped = ravel_pytree(squares)
      new = renew(scores, ravel_pytree(mask)[0].astype(bool), step.count)
      return jax.tree.map(lambda x: x.astype(bool), shaped(new.astype(scores.dtype))), optax.tree.zeros_like(gathered)

    same_mask = lambda: (mask, squares if gathering else ())
    mask, gathered = jax.lax.cond(step.count % refresh == 0, next_mask, same_mask)
    masked = lambda g: jax.tree.map(lambda e, keep: jnp.where(keep, e, 0), _to_norm(g, rho), mask)
    second, report = step.at(step.each(masked)(step.grads))
    return step.mean(second), (mask, gathered), report

  return _wrap(base, direction, init, rho=rho, sync=sync, has_loss=has_loss)


def _kept(scores: jax.Array, sparsity: float) -> int:
  return scores.size - round(sparsity * scores.size)


def look_sam(
  base: optax.GradientTransformation, *, rho: Amount, every: Count = 5, alpha: Amount = 0.7, sync: bool = True,
  has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """LookSAM (Liu et al. 2022, arXiv 2203.02714): SAM's second gradient in every `every`-th step only.

  v, the component of g' orthogonal to g, changes slowly, so the steps in between use g + alpha |g| / |v| v. Deviation:
  v is a float32 mean over devices. Look-LayerSAM, the paper's layerwise variant for very large batches, is not
  implemented.

  Args:
    every: steps between second gradients, 5 in the paper.
    alpha: the weight of the old direction, 0.7 in the paper.
  """

  def direction(step):
    def look():
      second, report = step.at(step.each(lambda g: _to_norm(g, rho))(step.grads))
      return step.mean(second), step.mean(step.each(_rejection)(second, step.grads)), report

    def reuse():
      g, v = step.mean(step.grads), step.memory
      return jax.tree.map(jnp.add, g, _to_norm(v, alpha * optax.tree.norm(g))), v, _nothing()

    return jax.lax.cond(step.count % every == 0, look, reuse)

  return _wrap(base, direction, optax.tree.zeros_like, rho=rho, sync=sync, has_loss=has_loss)


def outside(function: Callable, name: str, what: str) -> Callable:
  """Wraps a user's method and checks that its state is a SamState, whose report the training loop logs."""

  @functools.wraps(function)
  def make(**settings):
    method = function(**settings)
    is_optax = isinstance(method, optax.GradientTransformation)
    params = {'layer': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
    if not is_optax or not isinstance(jax.eval_shape(method.init, nnx.State(params)), SamState):
      raise MixerError(f'{what} is {name!r}, but must return an optax.GradientTransformation whose state is a SamState')
    return method

  return make


SAMS = parts.Table(
  {
    'sam': sam, 'asam': asam, 'gsam': gsam, 'fisher_sam': fisher_sam, 'dynamic_sam': dynamic_sam, 'look_sam': look_sam,
  },
  context=('base', 'schedule', 'peak', 'length', 'seed', 'has_loss'), adapt=outside,
)  # fmt: skip


def _wrap(
  base: optax.GradientTransformation, direction: Callable, init: Callable = lambda _: (), *, rho: Amount,
  sync: bool, has_loss: bool,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Builds a method's transformation around `base`.

  Args:
    direction: Step -> (the gradient for `base`, new memory, report).
    init: params -> memory.
  """
  base = optax.with_extra_args_support(base)
  each = (lambda function: function) if sync else jax.vmap
  mean = (lambda tree: tree) if sync else lambda tree: jax.tree.map(lambda x: x.mean(axis=0), tree)

  def start(params) -> SamState:
    return SamState(jnp.zeros((), jnp.int32), base.init(params), init(params) if rho else (), _nothing())

  def update(grads, state: SamState, params=None, *, grad_fn=None, **extra):
    if grad_fn is None or params is None:
      missing = 'grad_fn' if grad_fn is None else 'params'
      raise MixerError(
        f'SAM takes the gradient twice, but update() got no {missing}; pass params and'
        ' grad_fn=lambda params, i: (the gradient at those params, of the same batch)'
      )

    def at(perturbation):
      given = grad_fn(jax.tree.map(jnp.add, params, perturbation), 0)
      loss, second = given if has_loss else (jnp.zeros(()), given)
      return second, Report(each(optax.tree.norm)(perturbation).mean(), loss.mean(), jnp.ones(()))

    if rho:
      gradient, memory, report = direction(Step(grads, params, state.memory, state.count, each, mean, at))
    else:
      gradient, memory, report = mean(grads), state.memory, _nothing()
    updates, base_state = base.update(gradient, state.base, params, **extra)
    return updates, SamState(state.count + 1, base_state, memory, report)

  return optax.GradientTransformationExtraArgs(start, update)


def _nothing() -> Report:
  return Report(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def _to_norm(tree: Any, norm: jax.Array | float) -> Any:
  return optax.tree.scale(norm / (optax.tree.norm(tree) + EPSILON), tree)


def _rejection(a: Any, b: Any) -> Any:
  """The component of a orthogonal to b."""
  unit = _to_norm(b, 1.0)
  along = optax.tree.vdot(a, unit)
  return jax.tree.map(lambda x, u: x - along * u, a, unit)


def _largest(scores: jax.Array, many: jax.Array | int) -> jax.Array:
  """True for exactly the `many` largest entries; ties go to the first."""
  ranks = jnp.zeros(scores.shape, jnp.int32).at[jnp.argsort(-scores)].set(jnp.arange(scores.size, dtype=jnp.int32))
  return ranks < many

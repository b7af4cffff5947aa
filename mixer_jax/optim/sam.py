"""Sharpness-aware minimisation around any optimizer: SAM, ASAM, GSAM, Sparse SAM, LookSAM.

Each wraps an optimizer and is one too: an optax transformation whose `update` also takes `grad_fn`, as that of
`optax.contrib.sam` in its opaque mode does. One step, in this order:

  1. g, the gradient at w: the mean over the whole batch, of all parts of an accumulation, neither clipped nor decayed.
  2. e, the perturbation that g leads to. It is forgotten after the step.
  3. g', the gradient at w + e: same batch, same augmentation, same dropout masks.
  4. The wrapped optimizer takes g' (or what the method makes of g and g') as its gradient: it clips g', computes its
     moments from g', adds its weight decay, taken at w, and moves w.

With `sync` there is one e, from the mean g of all devices. Without it, every device computes an e from the g of its own
shard of the batch, and the optimizer takes the mean of their g'. That minimises m-sharpness, m being the size of a
shard, so the result depends on the number of devices; `grads` and what grad_fn takes and returns then have the devices
as their first axis. Foret et al. and Zhuang et al. do so, each accelerator with an e of its own; the code of Kwon et
al. is for one device; that of Mi et al. averages both gradients over devices, which is `sync`; what Liu et al. do is
unknown.

Any optimizer can be wrapped, `schedule_free` too: w is then its y, where its gradients are taken. The gradient must be
available twice: every task here is a function of parameters, batch and key, and an update without grad_fn is refused.

A `rho` of 0 is the wrapped optimizer itself, bit for bit: no second gradient is taken.
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
from mixer_jax.errors import MixerError, check_amount
from mixer_jax.optim import groups
from mixer_jax.optim.schedules import Length

EPSILON = 1e-12  # beside norms that are divided by, as in SAM's own code


class Report(NamedTuple):
  """What the last step's perturbation was: its norm and the loss there, means over the devices; all 0 without one."""

  norm: jax.Array
  loss: jax.Array  # 0 also where grad_fn gives no loss
  taken: jax.Array  # 1, or 0 for a step without a second gradient


class Step(NamedTuple):
  """What a method sees of a step.

  `grads` are of the mean of all devices with `sync`, and have an axis of devices in front without. `each` makes a
  function of one device's trees one of such trees, `mean` is over that axis. `at` gives the gradient at params + a
  perturbation, and the report.
  """

  grads: Any
  params: Any
  memory: Any
  count: jax.Array
  each: Callable
  mean: Callable
  at: Callable


class SamState(NamedTuple):
  """`base` is the state of the wrapped optimizer, `memory` what a method keeps from step to step."""

  count: jax.Array
  base: optax.OptState
  memory: Any
  report: Report


def measures(state: SamState) -> dict[str, jax.Array]:
  """What is logged of the last step: its report, as `sam_norm`, `sam_loss` and `sam_taken`."""
  return {f'sam_{name}': value for name, value in state.report._asdict().items()}


def sam(
  base: optax.GradientTransformation, *, rho: float, sync: bool = True, has_loss: bool = False
) -> optax.GradientTransformationExtraArgs:
  """SAM (Foret et al. 2021, arXiv 2010.01412): e = rho g / |g|, the optimizer has g'.

  Args:
    base: the optimizer to wrap.
    rho: the norm of the perturbation.
    sync: one perturbation for all devices, or one for each, see above.
    has_loss: whether grad_fn gives (loss, gradient), as jax.value_and_grad does, or the gradient alone.

  Raises:
    MixerError: rho below 0 or not finite; in `update`, no grad_fn or no params.
  """

  def direction(step):
    second, report = step.at(step.each(lambda g: _to_norm(g, rho))(step.grads))
    return step.mean(second), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def asam(
  base: optax.GradientTransformation, *, rho: float, eta: float = 0.01, sync: bool = True, has_loss: bool = False
) -> optax.GradientTransformationExtraArgs:
  """ASAM (Kwon et al. 2021, arXiv 2102.11600): e = rho T^2 g / |T g| with T = |w| + eta, entry by entry.

  A kernel multiplied by c, and what follows it divided by c, have the same sharpness. As in the authors' code T is 1
  for biases; deviation: also for the scales of norms and for embeddings, where theirs is |w| + eta for all that torch
  calls a weight. The paper's rho is 10 times SAM's and more.

  Args:
    eta: keeps small weights moving.
  """
  check_amount('sam.eta', eta)

  def direction(step):
    size = lambda path, w: jnp.abs(w) + eta if groups.name(path)[-1] == 'kernel' else jnp.ones(())
    sizes = jax.tree.map_with_path(size, step.params)
    times_sizes = lambda tree: jax.tree.map(jnp.multiply, sizes, tree)
    second, report = step.at(step.each(lambda g: times_sizes(_to_norm(times_sizes(g), rho)))(step.grads))
    return step.mean(second), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def gsam(
  base: optax.GradientTransformation, *, rho: float, rho_min: float = 0.0, alpha: float = 0.2,
  schedule: optax.Schedule, peak: float, sync: bool = True, has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """GSAM (Zhuang et al. 2022, arXiv 2203.08065): g' less alpha times the part of g that is orthogonal to g'.

  That part lowers the surrogate gap, loss(w + e) - loss(w), and leaves loss(w + e) as it is, to first order. e is SAM's
  with a radius that follows the learning rate: rho_min + (rho - rho_min) x rate / peak. Deviation: the paper takes the
  rate's distance from its lowest value instead of the rate, which is the same for schedules that end at 0.

  Args:
    rho, rho_min: the largest and the smallest norm of the perturbation.
    alpha: 0 for SAM with that radius.
    schedule, peak: of the learning rate.
  """
  check_amount('sam.rho', rho)
  if not 0 <= rho_min <= rho:
    raise MixerError(f'sam.rho_min is {rho_min}, but must be between 0 and sam.rho, {rho}')
  check_amount('sam.alpha', alpha)

  def direction(step):
    radius = rho_min + (rho - rho_min) * schedule(step.count) / peak
    second, report = step.at(step.each(lambda g: _to_norm(g, radius))(step.grads))
    gap = step.each(_rejection)(step.grads, second)
    return step.mean(jax.tree.map(lambda s, g: s - alpha * g, second, gap)), step.memory, report

  return _wrap(base, direction, rho=rho, sync=sync, has_loss=has_loss)


def fisher_sam(
  base: optax.GradientTransformation, *, rho: float, sparsity: float = 0.5, refresh: int = 100, sync: bool = True,
  has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Sparse SAM with the Fisher mask, SSAM-F (Mi et al. 2022, arXiv 2210.05177): SAM's e, zero in most entries.

  Kept are the entries with the largest Fisher information, the mean of the squared gradient. As in the authors' code
  |e| is below rho, the norm being that of the whole g; and no time is spared, since zeros are added like other numbers.
  Deviations: the squares are of batches, those since the mask was made last, where the paper goes through single
  examples for them; the first mask, of the first batch, is there in the first step, where the authors' is empty.

  Args:
    sparsity: the part of all entries that is 0, in [0, 1).
    refresh: steps from one mask to the next.
  """

  renew = lambda scores, *_: _largest(scores, _kept(scores, sparsity))
  return _sparse(base, renew, True, sparsity, refresh, rho=rho, sync=sync, has_loss=has_loss)


def dynamic_sam(
  base: optax.GradientTransformation, *, rho: float, sparsity: float = 0.5, refresh: int = 100, drop: float = 0.5,
  seed: int, length: Length, sync: bool = True, has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Sparse SAM with the dynamic mask, SSAM-D (Mi et al. 2022, arXiv 2210.05177): SAM's e, zero in most entries.

  Kept are random entries at first. At every refresh the part drop x (1 + cos(pi t / T)) / 2 of them, those where |g| is
  smallest, gives way to as many random others. As in the authors' code |e| is below rho, the norm being that of the
  whole g; and no time is spared, since zeros are added like other numbers. Deviation: a new mask serves from the step
  that makes it, theirs from the next.

  Args:
    sparsity: the part of all entries that is 0, in [0, 1).
    refresh: steps from one mask to the next.
    drop: of those kept, at most all.
    seed: of the random choices, with the step.
    length: of the run: T in steps.
  """
  if not 0 <= drop <= 1:
    raise MixerError(f'sam.drop is {drop}, but must be in [0, 1]')

  def renew(scores, old, count):
    kept = _kept(scores, sparsity)
    part = drop * (1 + jnp.cos(jnp.pi * count / length.total)) / 2
    dropped = jnp.minimum(jnp.floor(part * kept).astype(jnp.int32), scores.size - kept)
    dropped = jnp.where(count == 0, kept, dropped)
    others = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), count), scores.shape)
    return _largest(jnp.where(old, scores, -1), kept - dropped) | _largest(jnp.where(old, -1, others), dropped)

  return _sparse(base, renew, False, sparsity, refresh, rho=rho, sync=sync, has_loss=has_loss)


def _sparse(
  base: optax.GradientTransformation, renew: Callable, gathering: bool, sparsity: float, refresh: int, *, rho: float,
  sync: bool, has_loss: bool,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """SAM under a mask that renew(squares of the gradient, old mask, step) gives, all flat.

  Args:
    gathering: the squares are those of all steps since the last mask, not of the present one alone.
  """
  if not 0 <= sparsity < 1:
    raise MixerError(f'sam.sparsity is {sparsity}, but must be in [0, 1): the part of the perturbation that is 0')
  if refresh < 1:
    raise MixerError(f'sam.refresh is {refresh} steps, but must be at least 1')

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
  base: optax.GradientTransformation, *, rho: float, every: int = 5, alpha: float = 0.7, sync: bool = True,
  has_loss: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """LookSAM (Liu et al. 2022, arXiv 2203.02714): SAM's second gradient in every `every`-th step only.

  There, v is the part of g' that is orthogonal to g: it changes slowly, so that until the next time the optimizer has
  g + alpha |g| / |v| v. Deviation: v is a float32 mean over the devices. The paper perturbs every layer by its own norm
  at very large batches (Look-LayerSAM); this is its LookSAM.

  Args:
    every: steps from one second gradient to the next, 5 in the paper.
    alpha: how much of the old direction is taken, 0.7 in the paper.
  """
  if every < 1:
    raise MixerError(f'sam.every is {every} steps, but must be at least 1')
  check_amount('sam.alpha', alpha)

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
  """A method of a user, such as one made with `_wrap`: its state must be a SamState, since the loop logs its report."""

  @functools.wraps(function)
  def make(**settings):
    method = function(**settings)
    is_optax = isinstance(method, optax.GradientTransformation)
    params = {'layer': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
    if not is_optax or not isinstance(jax.eval_shape(method.init, nnx.State(params)), SamState):
      raise MixerError(f'{what} is {name!r}, but must give an optax.GradientTransformation whose state is a SamState')
    return method

  return make


SAMS = parts.Table(
  {
    'sam': sam, 'asam': asam, 'gsam': gsam, 'fisher_sam': fisher_sam, 'dynamic_sam': dynamic_sam, 'look_sam': look_sam,
  },
  context=('base', 'schedule', 'peak', 'length', 'seed', 'has_loss'), adapt=outside,
)  # fmt: skip


def _wrap(
  base: optax.GradientTransformation, direction: Callable, init: Callable = lambda _: (), *, rho: float,
  sync: bool, has_loss: bool,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """A method as a transformation around `base`.

  Args:
    direction: Step -> (what the optimizer has for a gradient, new memory, report).
    init: params -> memory.
  """
  check_amount('sam.rho', rho, ': it is the size of the perturbation')
  base = optax.with_extra_args_support(base)
  each = (lambda function: function) if sync else jax.vmap
  mean = (lambda tree: tree) if sync else lambda tree: jax.tree.map(lambda x: x.mean(axis=0), tree)

  def start(params) -> SamState:
    return SamState(jnp.zeros((), jnp.int32), base.init(params), init(params) if rho else (), _nothing())

  def update(grads, state: SamState, params=None, *, grad_fn=None, **extra):
    if grad_fn is None or params is None:
      missing = 'grad_fn' if grad_fn is None else 'params'
      raise MixerError(
        f'SAM takes the gradient twice, but update() was given no {missing}; give it params and'
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
  """The part of a that is orthogonal to b."""
  unit = _to_norm(b, 1.0)
  along = optax.tree.vdot(a, unit)
  return jax.tree.map(lambda x, u: x - along * u, a, unit)


def _largest(scores: jax.Array, many: jax.Array | int) -> jax.Array:
  """True for so many of the largest entries, exactly; of equal ones for the first."""
  ranks = jnp.zeros(scores.shape, jnp.int32).at[jnp.argsort(-scores)].set(jnp.arange(scores.size, dtype=jnp.int32))
  return ranks < many

"""Optimizers by name: gradient clipping first, weight decay on kernels only, then the transformations `after`.

`optax.NAME` selects any optax optimizer (`optax.lion`, `optax.contrib.prodigy`), `module:function` your own, see
`outside`. `after` transforms the final update (noise, groups.scale); in schedule_free that is the step of z.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.ranges import Amount, Rate, Within

After = Sequence[optax.GradientTransformation]


def is_kernel(params: nnx.State) -> nnx.State:
  """True for kernels, by name: stacked biases and scales have two axes, so ndim cannot tell."""
  return nnx.map_state(lambda path, _: path[-1] == 'kernel', params)


def adam(
  *, schedule: optax.Schedule, b1: Rate = 0.9, b2: Rate = 0.999, eps: Amount = 1e-8, clip: Amount = 0.0,
  after: After = (),
) -> optax.GradientTransformation:  # fmt: skip
  """Adam (Kingma and Ba 2015, arXiv 1412.6980); `clip` is the maximum global gradient norm, 0 for no clipping."""
  return optax.chain(*_clipping(clip), optax.adam(schedule, b1, b2, eps), *after)


def adamw(
  *, schedule: optax.Schedule, b1: Rate = 0.9, b2: Rate = 0.999, eps: Amount = 1e-8, weight_decay: Amount = 0.05,
  clip: Amount = 0.0, after: After = (),
) -> optax.GradientTransformation:  # fmt: skip
  """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), decaying kernels only.

  A step shrinks each kernel by learning rate x `weight_decay`, as in torch. big_vision's value is relative to the peak
  of the schedule: its 1e-4 at peak 1e-3 is 0.1 here.
  """
  optimizer = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=is_kernel)
  return optax.chain(*_clipping(clip), optimizer, *after)


def sgd(
  *, schedule: optax.Schedule, momentum: Rate = 0.9, clip: Amount = 0.0, after: After = ()
) -> optax.GradientTransformation:
  """SGD with momentum, as the paper fine-tunes: no dampening, no Nesterov, no weight decay."""
  return optax.chain(*_clipping(clip), optax.sgd(schedule, momentum or None), *after)


def muon(
  *, schedule: optax.Schedule, beta: Rate = 0.95, b1: Rate = 0.9, b2: Rate = 0.999, eps: Amount = 1e-8,
  weight_decay: Amount = 0.05, clip: Amount = 0.0, after: After = (),
) -> optax.GradientTransformation:  # fmt: skip
  """Muon (Jordan et al. 2024) from optax: orthogonalises the momentum of each kernel.

  As in arXiv 2502.16982, the update is scaled to the size of Adam's, so AdamW's learning rates and decays carry over.
  All other parameters use Adam with Nesterov momentum. Deviation: the first and the last layer use Muon too.

  Args:
    beta: momentum of the kernels.
    b1, b2, eps: Adam's, for the other parameters; eps also keeps Muon from dividing by 0.
  """
  optimizer = optax.contrib.muon(
    schedule, beta=beta, eps=eps, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2, consistent_rms=0.2,
    muon_weight_dimension_numbers=_matrices,
  )  # fmt: skip
  return optax.chain(*_clipping(clip), optimizer, *after)


def schedule_free(
  *, schedule: optax.Schedule, b1: Annotated[float, Within('(0, 1]')] = 0.9, b2: Rate = 0.999, eps: Amount = 1e-8,
  weight_decay: Amount = 0.05, clip: Amount = 0.0, after: After = (),
) -> optax.GradientTransformation:  # fmt: skip
  """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682) from optax, decaying kernels only.

  Use it with the schedule `constant` and a warm-up. Gradients are taken at y; evaluation uses the average x, see
  `averaged`.

  Args:
    b1: the weight of the average x in y; above 0.
  """
  base = optax.chain(
    *_clipping(clip),
    optax.scale_by_rms(b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
    optax.add_decayed_weights(weight_decay, is_kernel),
    optax.scale_by_learning_rate(schedule),
    *after,
  )
  return optax.contrib.schedule_free(base, schedule, b1)


def outside(function: Callable, name: str, what: str) -> Callable:
  """Wraps an optax or user-defined optimizer so that it takes the same arguments as those here.

  `function` takes the learning rate, a function of the step, as `schedule` or `learning_rate`. `clip` and `after` are
  applied around it unless it takes them itself. If it takes `mask` or `weight_decay_mask`, only kernels decay.

  Raises:
    MixerError: it takes no learning rate; or, when called, it returns no optax transformation, or one whose update
      needs more than the gradient and the parameters.
  """
  takes = parts.parameters(function)
  rate = next((key for key in ('schedule', 'learning_rate') if key in takes), None)
  if rate is None:
    raise MixerError(f'{what} is {name!r}, which takes no learning_rate or schedule, so it is not an optimizer')
  masks = [key for key in ('mask', 'weight_decay_mask') if key in takes]

  def make(*, schedule: optax.Schedule, after: After = (), **settings):
    norm = 0.0 if 'clip' in takes else settings.pop('clip')
    given = {rate: schedule, **dict.fromkeys(masks, is_kernel)} | ({'after': after} if 'after' in takes else {})
    optimizer = check(function(**settings, **given), f'{what} is {name!r}, which')
    return optax.chain(*_clipping(norm), optimizer, *(() if 'after' in takes else after))

  own = {key: p.replace(kind=p.KEYWORD_ONLY) for key, p in takes.items() if key not in (rate, 'after', *masks)}
  ours = dict(inspect.signature(sgd).parameters)
  keys = {'schedule': ours['schedule'], **({'clip': ours['clip']} | own), 'after': ours['after']}
  make.__signature__ = inspect.Signature([*keys.values()])
  return make


def check(optimizer: object, what: str) -> optax.GradientTransformation:
  """Rejects anything but an optax transformation of gradients and parameters, by tracing it on one small layer."""
  if not isinstance(optimizer, optax.GradientTransformation):
    raise MixerError(f'{what} gives a {type(optimizer).__name__}, not an optax.GradientTransformation')
  params = nnx.State({'layer': {'kernel': nnx.Param(jnp.ones((2, 2))), 'bias': nnx.Param(jnp.ones(2))}})
  try:
    jax.eval_shape(lambda params: optimizer.update(params, optimizer.init(params), params), params)
  except Exception as error:  # User code may raise anything.
    reason = ' '.join(str(error).split())[:200]
    raise MixerError(f'{what} fails on a gradient and parameters: {type(error).__name__}: {reason}') from error
  return optimizer


OPTIMIZERS = parts.Table(
  {'adam': adam, 'adamw': adamw, 'sgd': sgd, 'muon': muon, 'schedule_free': schedule_free},
  context=('schedule', 'after'), package='optax', adapt=outside,
)  # fmt: skip


def averaged(opt_state: optax.OptState, params: nnx.State) -> nnx.State | None:
  """The averaged parameters, if the optimizer keeps an average itself, as schedule_free does; else None."""
  is_average = lambda state: isinstance(state, optax.contrib.ScheduleFreeState)
  states = [state for state in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(state)]
  return optax.contrib.schedule_free_eval_params(states[0], params) if states else None


def noise(*, eta: Amount, gamma: Amount = 0.55, seed: int) -> optax.GradientTransformation:
  """Gaussian noise on every update (Neelakantan et al. 2015, arXiv 1511.06807), from optax.

  The variance at step t = 1, 2, ... is eta / t^gamma. Deviation: the paper adds the noise to the gradient, where Adam
  would divide it by the gradient's size; here it is added last, independent of the learning rate.

  Args:
    eta: variance at the first step.
    gamma: decay exponent, 0.55 in the paper.
  """
  inner = optax.add_noise(eta, gamma, key=seed)
  # Checkpoints store arrays of numbers, not typed PRNG keys.
  pack = lambda state: state._replace(rng_key=jax.random.key_data(state.rng_key))
  unpack = lambda state: state._replace(rng_key=jax.random.wrap_key_data(state.rng_key))

  def update(updates, state, params=None):
    updates, state = inner.update(updates, unpack(state), params)
    return updates, pack(state)

  return optax.GradientTransformation(lambda params: pack(inner.init(params)), update)


def _matrices(params: nnx.State) -> nnx.State:
  """The axes that form a kernel's matrix: stacked blocks have one axis before them, convolutions a 2-D window."""

  def axes(path, leaf):
    if path[-1] != 'kernel':
      return None
    return optax.contrib.MuonDimensionNumbers((0, 1, 2) if leaf.ndim == 4 else leaf.ndim - 2, leaf.ndim - 1)

  return nnx.map_state(axes, params)


def _clipping(norm: float) -> list[optax.GradientTransformation]:
  return [optax.clip_by_global_norm(norm)] if norm else []

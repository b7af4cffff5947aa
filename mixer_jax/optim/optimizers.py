"""Optimizers by name: optax's, with clipping in front, weight decay on kernels only, and `after` behind.

`after` are transformations of the update as it is about to be made, such as noise and groups.scale: of the step that
changes z in schedule_free.
"""

from collections.abc import Sequence

import jax
import optax
import optax.contrib
from flax import nnx

from mixer_jax.errors import MixerError, check_amount

After = Sequence[optax.GradientTransformation]


def is_kernel(params: nnx.State) -> nnx.State:
  """True for the kernels, by name: stacked biases and scales have two axes, so their number says nothing."""
  return nnx.map_state(lambda path, _: path[-1] == 'kernel', params)


def adam(
  *, schedule: optax.Schedule, b1: float, b2: float, eps: float, clip: float, after: After = ()
) -> optax.GradientTransformation:
  """Adam (Kingma and Ba 2015, arXiv 1412.6980); gradients clipped to the global norm `clip` first, 0 for never."""
  return optax.chain(*_clipping(clip), optax.adam(schedule, b1, b2, eps), *after)


def adamw(
  *, schedule: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float, clip: float, after: After = ()
) -> optax.GradientTransformation:
  """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), decaying kernels only.

  A step takes learning rate x `weight_decay` of each kernel, as torch's does; big_vision's number is relative to the
  peak of the schedule, so its 1e-4 at peak 1e-3 is 0.1 here.
  """
  optimizer = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=is_kernel)
  return optax.chain(*_clipping(clip), optimizer, *after)


def sgd(*, schedule: optax.Schedule, momentum: float, clip: float, after: After = ()) -> optax.GradientTransformation:
  """Gradient descent with momentum as the original fine-tunes: no dampening, not Nesterov's; no decay."""
  return optax.chain(*_clipping(clip), optax.sgd(schedule, momentum or None), *after)


def muon(
  *,
  schedule: optax.Schedule,
  beta: float,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip: float,
  after: After = (),
) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024), optax's: the momentum of a kernel becomes the nearest matrix of equal singular values.

  As in arXiv 2502.16982 that matrix is scaled to the size of Adam's updates, so that AdamW's learning rates and decays
  fit. All else has Adam with Nesterov's momentum. Deviation: the first and the last layer have Muon too.

  Args:
    beta: of the kernels' momentum.
    b1, b2, eps: of Adam for all else; eps also keeps Muon from dividing by 0.
  """
  optimizer = optax.contrib.muon(
    schedule, beta=beta, eps=eps, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2, consistent_rms=0.2,
    muon_weight_dimension_numbers=_matrices,
  )  # fmt: skip
  return optax.chain(*_clipping(clip), optimizer, *after)


def schedule_free(
  *, schedule: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float, clip: float, after: After = ()
) -> optax.GradientTransformation:
  """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682), optax's, decaying kernels only.

  Its own schedule is `constant` with a warm-up. Trained is y, evaluated is the average x, see `averaged`.

  Args:
    b1: how much of the average x is in y; above 0.
  """
  if not 0 < b1 <= 1:
    raise MixerError(f'optimizer.b1 is {b1}, but must be in (0, 1] for schedule_free')
  base = optax.chain(
    *_clipping(clip),
    optax.scale_by_rms(b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
    optax.add_decayed_weights(weight_decay, is_kernel),
    optax.scale_by_learning_rate(schedule),
    *after,
  )
  return optax.contrib.schedule_free(base, schedule, b1)


OPTIMIZERS = {'adam': adam, 'adamw': adamw, 'sgd': sgd, 'muon': muon, 'schedule_free': schedule_free}


def averaged(opt_state: optax.OptState, params: nnx.State) -> nnx.State | None:
  """The parameters to evaluate where the optimizer averages itself, as schedule_free does; None where it does not."""
  is_average = lambda state: isinstance(state, optax.contrib.ScheduleFreeState)
  states = [state for state in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(state)]
  return optax.contrib.schedule_free_eval_params(states[0], params) if states else None


def noise(*, eta: float, gamma: float, seed: int) -> optax.GradientTransformation:
  """Gaussian noise on the update of every parameter (Neelakantan et al. 2015, arXiv 1511.06807), optax's.

  Its variance is eta / t^gamma in step t, the first being 1. Deviation: the paper adds it to the gradient, where Adam
  would divide it by the gradient's size; here it comes last and so does not depend on the learning rate.

  Args:
    eta: variance of the first step.
    gamma: how fast it falls, 0.55 in the paper.
    seed: of the noise.

  Raises:
    MixerError: eta or gamma below 0 or not finite.
  """
  check_amount('update_noise.eta', eta)
  check_amount('update_noise.gamma', gamma)
  inner = optax.add_noise(eta, gamma, key=seed)
  # Checkpoints hold numbers, not keys.
  pack = lambda state: state._replace(rng_key=jax.random.key_data(state.rng_key))
  unpack = lambda state: state._replace(rng_key=jax.random.wrap_key_data(state.rng_key))

  def update(updates, state, params=None):
    updates, state = inner.update(updates, unpack(state), params)
    return updates, pack(state)

  return optax.GradientTransformation(lambda params: pack(inner.init(params)), update)


def _matrices(params: nnx.State) -> nnx.State:
  """Which axes of a kernel make its matrix: stacked blocks have one before them, convolutions a window of two."""

  def axes(path, leaf):
    if path[-1] != 'kernel':
      return None
    return optax.contrib.MuonDimensionNumbers((0, 1, 2) if leaf.ndim == 4 else leaf.ndim - 2, leaf.ndim - 1)

  return nnx.map_state(axes, params)


def _clipping(norm: float) -> list[optax.GradientTransformation]:
  check_amount('optimizer.clip', norm, ', a norm; 0 is for no clipping')
  return [optax.clip_by_global_norm(norm)] if norm else []

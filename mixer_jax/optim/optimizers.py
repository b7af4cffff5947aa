"""Optimizers by name: optax's, with clipping in front and weight decay on kernels only."""

import optax
from flax import nnx

from mixer_jax.errors import MixerError


def is_kernel(params: nnx.State) -> nnx.State:
  """True for the kernels, by name: stacked biases and scales have two axes, so their number says nothing."""
  return nnx.map_state(lambda path, _: path[-1] == 'kernel', params)


def adam(*, schedule: optax.Schedule, b1: float, b2: float, eps: float, clip: float) -> optax.GradientTransformation:
  """Adam (Kingma and Ba 2015, arXiv 1412.6980); gradients clipped to the global norm `clip` first, 0 for never."""
  return optax.chain(*_clipping(clip), optax.adam(schedule, b1, b2, eps))


def adamw(
  *, schedule: optax.Schedule, b1: float, b2: float, eps: float, weight_decay: float, clip: float
) -> optax.GradientTransformation:
  """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), decaying kernels only.

  A step takes learning rate x `weight_decay` of each kernel, as torch's does; big_vision's number is relative to the
  peak of the schedule, so its 1e-4 at peak 1e-3 is 0.1 here.
  """
  return optax.chain(*_clipping(clip), optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=is_kernel))


def sgd(*, schedule: optax.Schedule, momentum: float, clip: float) -> optax.GradientTransformation:
  """Gradient descent with momentum as the original fine-tunes: no dampening, not Nesterov's; no decay."""
  return optax.chain(*_clipping(clip), optax.sgd(schedule, momentum or None))


OPTIMIZERS = {'adam': adam, 'adamw': adamw, 'sgd': sgd}


def _clipping(norm: float) -> list[optax.GradientTransformation]:
  if norm < 0:
    raise MixerError(f'optimizer.clip is {norm}, but must be a positive norm, or 0 for no clipping')
  return [optax.clip_by_global_norm(norm)] if norm else []

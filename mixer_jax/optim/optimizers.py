"""Optimizers by name: optax's, with clipping in front and weight decay on kernels only."""

import optax
import optax.contrib
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


def muon(
  *, schedule: optax.Schedule, beta: float, b1: float, b2: float, eps: float, weight_decay: float, clip: float
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
  return optax.chain(*_clipping(clip), optimizer)


OPTIMIZERS = {'adam': adam, 'adamw': adamw, 'sgd': sgd, 'muon': muon}


def _matrices(params: nnx.State) -> nnx.State:
  """Which axes of a kernel make its matrix: stacked blocks have one before them, convolutions a window of two."""

  def axes(path, leaf):
    if path[-1] != 'kernel':
      return None
    return optax.contrib.MuonDimensionNumbers((0, 1, 2) if leaf.ndim == 4 else leaf.ndim - 2, leaf.ndim - 1)

  return nnx.map_state(axes, params)


def _clipping(norm: float) -> list[optax.GradientTransformation]:
  if norm < 0:
    raise MixerError(f'optimizer.clip is {norm}, but must be a positive norm, or 0 for no clipping')
  return [optax.clip_by_global_norm(norm)] if norm else []

"""The training state: all that a step changes and a checkpoint holds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixer_jax.models import params as names
from mixer_jax.optim.optimizers import averaged


class TrainState(NamedTuple):
  """The state of a run; data order, augmentation and dropout follow from `step` alone.

  `sums` are the metrics summed since the last log line; they are part of the state, so that a run interrupted between
  two lines logs the same numbers after it resumes. `ema` is None if no average is kept.
  """

  step: jax.Array
  params: nnx.State
  opt_state: optax.OptState
  ema: nnx.State | None
  sums: dict[str, jax.Array]


def evaluated(state: TrainState) -> dict[str, nnx.State]:
  """The parameters to evaluate by metric prefix: `''` for the average, if there is one, with `raw_` for the others."""
  average = averaged(state.opt_state, state.params) if state.ema is None else state.ema
  return {'': state.params} if average is None else {'': average, 'raw_': state.params}


def init_state(
  model: Any, optimizer: optax.GradientTransformation, *, ema: bool, metrics: tuple[str, ...],
  start: Mapping[str, Any] | None = None,
) -> TrainState:  # fmt: skip
  """The state before the first step, of a concrete or abstract model.

  Args:
    start: arrays that replace the model's own, by dotted names, see models/params.py.
  """
  params = names.place(nnx.state(model, nnx.Param), start or {})
  zeros = {name: jnp.zeros((), jnp.float32) for name in metrics}
  average = jax.tree.map(jnp.copy, params) if ema else None
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average, zeros)

"""Says what a config is, from shapes alone: nothing is downloaded, compiled or held in memory; a table is read.

python -m mixer_jax.describe --config=configs/digits.py
python -m mixer_jax.describe --config=configs/imagenet.py:H/14 --json
"""

import json
from typing import Any

from mixer_jax import doors


def describe(config: dict[str, Any], data_dir: str | None = None) -> dict[str, Any]:
  """Model, sizes and costs of a config.

  Returns:
    model, parameters, tokens (None where a model has none), forward_flops (matrix products, one example),
    parameter_bytes, optimizer_bytes, ema_bytes, batch and eval_batch (name -> shape and dtype, global),
    batch_per_device, devices.
  """
  import jax
  from flax import nnx

  from mixer_jax.analysis import cost
  from mixer_jax.optim.schedules import Length
  from mixer_jax.training import experiment as experiments

  experiment = experiments.build(config, schema=experiments.learn_schema(config, data_dir))
  settings = experiment.settings
  state = experiment.init_state(experiment.optimizer(Length(10**9, 1.0))[0], abstract=True)
  seen = jax.eval_shape(experiment.preprocess, experiment.data.batch(1))
  forward = lambda params, *inputs: nnx.merge(experiment.graphdef, params)(*inputs)
  shapes = lambda size: {k: f'{v.dtype}{list(v.shape)}' for k, v in experiment.data.batch(size).items()}
  return {
    'model': settings.model,
    'parameters': experiment.parameters,
    'tokens': getattr(experiment.model, 'tokens', None),
    'forward_flops': cost.matmul_flops(forward, state.params, *(seen[name] for name in experiment.data.inputs)),
    'parameter_bytes': cost.nbytes(state.params),
    'optimizer_bytes': cost.nbytes(state.opt_state),
    'ema_bytes': cost.nbytes(state.ema),
    'batch': shapes(settings.batch_size),
    'eval_batch': shapes(settings.eval_batch_size),
    'batch_per_device': settings.batch_size // experiment.mesh.size,
    'devices': experiment.mesh.size,
  }


def main(arguments: list[str]) -> None:
  options = doors.parser('describe', __doc__, data=True)
  options.add_argument('--json', action='store_true', help='print JSON')
  known, rest = options.parse_known_args(arguments)
  from mixer_jax import config as configs

  result = describe(configs.load(rest), known.data_dir)
  if known.json:
    print(json.dumps(result, indent=2))
    return
  for name, value in result.items():
    shown = f'{value:,}' if isinstance(value, int) else value
    if isinstance(value, dict):
      shown = ', '.join(f'{k}={v}' for k, v in value.items())
    print(f'{name.replace("_", " "):17} {shown}')


if __name__ == '__main__':
  doors.run(main)

"""Converts weights between runs, files and model folders.

  python -m mixer_jax.convert --from=runs/digits --to=digits                   # a model folder
  python -m mixer_jax.convert --from=Mixer-B_16.npz --to=mixer_b16.safetensors # timm's layout
  python -m mixer_jax.convert --from=hf://OWNER/NAME/model.safetensors --to=mixer.npz --check

--from: a run directory, .npz (the original's layout, in either naming), .safetensors and .pth (timm's; FILE.pth#KEY for
another state dict of a training checkpoint, such as state_dict_ema), a model folder, or the address of a file, hf:// or
gs://. --to: the original's layout for NAME.npz, timm's for NAME.safetensors, a model folder for a name without a
suffix. --check reads the written file again and compares logits and the features before the head on random images,
before the file is moved into place.
"""

from pathlib import Path

from mixer_jax import cli
from mixer_jax.errors import MixerError
from mixer_jax.messages import logger
from mixer_jax.weights import trust

TOLERANCE = 1e-5  # of the largest number; the same arrays in another order of files give the same bits


def main(arguments: list[str]) -> None:
  options = cli.parser('convert', __doc__, prints_result=True)
  options.add_argument('--from', dest='source', required=True, help='a run, a file, a model folder or an address')
  options.add_argument('--to', required=True, help='NAME.npz, NAME.safetensors, or the name of a model folder')
  options.add_argument('--checkpoint', default='last', help='of a run: last, best or a step')
  options.add_argument('--gelu', choices=('tanh', 'exact'), help='of the training, where the weights do not say')
  options.add_argument('--check', action='store_true', help='compare the networks before and after')
  trust.add_option(options)
  known = options.parse_args(arguments)
  trust.trust(known.trust)
  from mixer_jax.training import warm_start
  from mixer_jax.weights import checking, reading, writing

  target = Path(known.to)
  writing.check_target(target)
  weights = warm_start.read(known.source, known.checkpoint)
  if known.gelu and not weights.is_mixer:
    raise MixerError(f'--gelu={known.gelu} is for a Mixer, but {known.source} is a {weights.model["name"]}')
  if known.gelu:
    weights = reading.with_gelu(weights, known.gelu)
  for note in weights.notes:
    logger.info(f'{known.source}: {note}')
  check = (lambda part: checking.compare(weights, part, TOLERANCE, logger.info)) if known.check else None
  for note in writing.write(weights, target, check):
    logger.info(f'{target}: {note}')
  count = sum(array.size for array in weights.arrays.values())
  print(f'{weights.kind} {known.source}, {count:,} parameters -> {target}')


if __name__ == '__main__':
  cli.run(main)

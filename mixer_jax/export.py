"""Writes a run as one StableHLO or ONNX file that runs without this code: network, weights and preprocessing.

  python -m mixer_jax.export --workdir=runs/digits --output=digits.stablehlo
  python -m mixer_jax.export --workdir=runs/digits --output=digits.onnx

It takes batches of any size: raw pixels, uint8 [batch, height, width, channels], or a table's columns scaled by the
run's schema.json, and gives logits and probabilities, or an auto-encoder's images. Beside it comes OUTPUT.json: inputs,
outputs, labels (null for an auto-encoder), SHA-256. With jax alone:
jax.export.deserialize(bytearray(open(OUTPUT, 'rb').read())).call(pixels).
A name that ends in .onnx makes ONNX, by jax2onnx (python -m pip install -e '.[onnx]'); .stablehlo, or no end,
StableHLO.
"""

import hashlib
from pathlib import Path

from mixer_jax import cli, files
from mixer_jax.errors import MixerError

ENDS = ('.stablehlo', '.onnx', '')


def main(arguments: list[str]) -> None:
  options = cli.parser('export', __doc__)
  cli.add_run(options)
  options.add_argument('--output', required=True, help='the file to write')
  options.add_argument('--platforms', help='of StableHLO: of cpu, cuda, rocm, tpu (default: cpu,cuda,tpu)')
  known = options.parse_args(arguments)
  output = Path(known.output)
  files.check_output(output)
  if output.is_dir():
    raise MixerError(f'--output={output} is a folder; choose the name of a file')
  if output.suffix not in ENDS:
    raise MixerError(
      f'--output={output} ends in {output.suffix}, but an export is NAME.stablehlo, NAME.onnx, or StableHLO in a name'
      f' without an end; choose a name such as {output.stem}.stablehlo'
    )
  from mixer_jax.inference import artefact as artefacts
  from mixer_jax.training import restore

  onnx = output.suffix == '.onnx'
  if onnx and known.platforms is not None:
    raise MixerError(f'--platforms={known.platforms} is for StableHLO, and {output} is ONNX; leave it out')
  platforms = tuple(name for name in (known.platforms or 'cpu,cuda,tpu').split(',') if name)
  artefacts.check_platforms(platforms)
  run = restore.restore(known.workdir, step=known.checkpoint)
  artefact, about = artefacts.export_onnx(run) if onnx else artefacts.export_run(run, platforms)
  try:
    with files.whole(output) as part:
      part.write_bytes(artefact)
  except OSError as error:
    raise files.cannot_write(f'--output={output}', error, 'choose another place') from error
  files.write_json(Path(f'{output}.json'), {**about, 'sha256': hashlib.sha256(artefact).hexdigest()})
  print(f'step {run.step} of {known.workdir}, {len(artefact):,} bytes -> {output}, {output}.json')


if __name__ == '__main__':
  cli.run(main)

"""Tasks by the name that configs use, imported when asked for: each takes its settings and what the data imply."""

TASKS = {
  'classification': 'mixer_jax.tasks.classification:Classification',
  'binary': 'mixer_jax.tasks.binary:Binary',
  'reconstruction': 'mixer_jax.tasks.reconstruction:Reconstruction',
}

"""STUB, to be replaced by the real one."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The keys of a config; README explains them one by one."""

  seed: int
  total: str
  batch_size: int
  eval_batch_size: int
  accumulate: int
  ema: float
  model: dict
  task: dict
  data: dict
  augment: dict
  augment_until: str
  optimizer: dict
  schedule: dict
  init_from: dict = dataclasses.field(default_factory=dict)
  sam: dict = dataclasses.field(default_factory=dict)
  update_noise: dict = dataclasses.field(default_factory=dict)
  layers: dict = dataclasses.field(default_factory=dict)
  mesh: dict
  watch: dict
  log_every: str
  eval_every: str
  checkpoint_every: str


def resolve(config):
  return config


def outside_names(config):
  return []

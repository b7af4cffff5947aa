"""What reading damaged checkpoints leaves on stderr."""

import sys

from mixer_jax.training import checkpoints


def test_threads_that_are_late_are_quiet(tmp_path, monkeypatch, capsys):
  """As TensorStore calls it, after orbax has given a damaged checkpoint up."""
  checkpoints._spare_late_threads.cache_clear()
  monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
  checkpoints.Checkpoints(tmp_path).close()
  for error, is_quiet in ((RuntimeError('Event loop is closed'), True), (RuntimeError('other'), False)):
    sys.excepthook(type(error), error, None)
    assert (capsys.readouterr().err == '') == is_quiet
  checkpoints._spare_late_threads.cache_clear()

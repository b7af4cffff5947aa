"""The one exception for users' mistakes."""

import difflib
from collections.abc import Iterable

SHOWN = 60


class MixerError(Exception):
  """A mistake that the user can fix; the message names the thing, the values and the way out."""


def unknown(kind: str, name: object, known: Iterable[str], besides: str = '') -> MixerError:
  """The error for a name that is not in a table: lists the known ones, SHOWN at most, and guesses the one meant."""
  known = sorted(known)
  folded = {each.casefold(): each for each in reversed(known)}
  close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
  guess = f'; did you mean {folded[close[0]]!r}?' if close else '.'
  shown = ', '.join(known[:SHOWN]) + (f', ... ({len(known):,} in all)' if len(known) > SHOWN else '')
  return MixerError(f'unknown {kind} {name!r}{guess} Known: {shown or "none"}{besides and f", {besides}"}.')

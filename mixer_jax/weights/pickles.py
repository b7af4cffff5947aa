"""A look at PyTorch's pickles before torch builds what they say, so that it comes to an end.

torch's weights_only keeps code from running, but not little from standing for much: a tuple of a tuple twice, and so on
60 times, takes 400 bytes, and longer than anyone lives once its hash or its text is asked for. Nothing is built here:
of every value, only the number of its parts is kept.
"""

import io
import pickletools

MOST_BYTES = 2**20  # of a pickle; that of the largest Mixer with its optimizer's state has 2**18
MOST_PARTS = 10**7  # of what a pickle takes from its memo: a few seconds


def check(data: bytes, count: int = 1) -> None:
  """Raises ValueError if one of so many pickles, one behind another, has too many parts or bytes, or is none.

  Args:
    data: the pickles, and whatever follows them.
  """
  file = io.BytesIO(data[:MOST_BYTES])
  for _ in range(count):
    taken, stack, memo = 0, [], {}
    for opcode, argument, _ in pickletools.genops(file):
      if opcode.name in ('GET', 'BINGET', 'LONG_BINGET'):
        stack.append(memo.get(argument, 1))
        taken += stack[-1]
      elif opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
        memo[len(memo) if argument is None else argument] = stack[-1]
      elif opcode.name == 'DUP':
        stack.append(stack[-1])
        taken += stack[-1]
      elif opcode.name == 'MARK':
        stack.append(0)
      else:
        _apply(opcode, stack)
      if taken > MOST_PARTS:
        raise ValueError(f'its pickle repeats itself, and would have more than {MOST_PARTS:,} parts')


def _apply(opcode: pickletools.OpcodeInfo, stack: list[int]) -> None:
  """Replaces what an opcode takes from the stack of sizes by what it puts there; a mark is of size 0."""
  before, size = opcode.stack_before, 1
  if pickletools.markobject in before:
    while part := stack.pop():
      size += part
    before = before[: before.index(pickletools.markobject)]
  for _ in before:
    size += stack.pop()
  stack += [size] * len(opcode.stack_after)

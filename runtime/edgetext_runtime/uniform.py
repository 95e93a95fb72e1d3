"""The random numbers of a generation: those of numpy's ``Generator(PCG64(seed)).random(dtype=float32)``.

Written out because they are part of what a seed means, and because importing ``numpy.random`` takes as long
as loading a small model. PCG64 (XSL-RR 128/64): O'Neill 2014, "PCG: A Family of Simple Fast Space-Efficient
Statistically Good Algorithms for Random Number Generation". Seeding: numpy's ``SeedSequence``.
"""

_MASK32, _MASK64, _MASK128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645


class UniformStream:
    """The uniform numbers of one generation, float32 in [0, 1), one for each token.

    Args:
        seed: 0 to 2**64 - 1.
    """

    def __init__(self, seed: int) -> None:
        a, b, c, d = _spread(seed)
        self._increment = (c << 65 | d << 1 | 1) & _MASK128
        self._state = self._increment + (a << 64 | b)
        self._left: int | None = None
        self._next_64()

    def _next_64(self) -> int:
        self._state = state = (self._state * _MULTIPLIER + self._increment) & _MASK128
        value, turn = (state >> 64 ^ state) & _MASK64, state >> 122
        return (value >> turn | value << 64 - turn) & _MASK64

    def next(self) -> float:
        """Draw the next number: 24 bits of one half of an output, the lower half first."""
        if (left := self._left) is not None:
            self._left = None
            return (left >> 8) * 2.0**-24
        value = self._next_64()
        self._left = value >> 32
        return ((value & _MASK32) >> 8) * 2.0**-24


def _spread(seed: int) -> list[int]:
    """Four words of 64 bits from a seed, every bit of which changes about half of theirs."""
    constant = 0x43B0D7E5

    def mixed(value: int, multiplier: int = 0x931E8875) -> int:
        nonlocal constant
        value ^= constant
        constant = constant * multiplier & _MASK32
        value = value * constant & _MASK32
        return value ^ value >> 16

    pool = [mixed(word) for word in (seed & _MASK32, seed >> 32, 0, 0)]
    for source in range(4):
        for at in range(4):
            if at != source:
                value = (pool[at] * 0xCA01F9DD - mixed(pool[source]) * 0x4973F715) & _MASK32
                pool[at] = value ^ value >> 16
    constant = 0x8B51F9DD
    words = [mixed(pool[at % 4], 0x58F38DED) for at in range(8)]
    return [low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True)]

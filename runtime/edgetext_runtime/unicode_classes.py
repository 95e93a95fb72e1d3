r"""Letters, numbers and white space of Unicode 16.0, as the splitting patterns of other models name them.

Python's own tables belong to the Unicode version of the interpreter, and ``str.isspace`` counts U+001C to
U+001F. These are the classes of the ``tokenizers`` library, which a test compares over every code point.
"""

import base64
import re
import zlib
from functools import cache
from typing import Final

__all__ = ["UNICODE_VERSION", "character_classes"]

UNICODE_VERSION: Final = "16.0"
"""The version whose code points are classified; what was not assigned in it is neither letter nor number."""

# Letters, numbers, white space: each as the count of numbers to come, then pairs of how far a range of code
# points starts after the end of the one before, and its last after its first. Seven bits a byte, the lowest
# first, the eighth saying that more follow (LEB128); compressed, to keep a device's install small.
_RANGES: Final = (
    "c-mD|X^0#}6n;k?UEMR?)7>+@GqZDTW;eT;*?Y4jB#~sJF+sc!5`TDtM-&ysAPRyjn1BZ&BJm)2q5e_SAD$@UeFg+IiXbY+14R-4"
    "M9?3;o>d{#RQ1%WdhdPj`04|Hsb*`l5P$}gQH$PZ9Yo3lf}2qhG80%JBA}E`r(4lIhBU@tCw9~|PxnTVE+i<ShXFCfK+V>!0@OM_"
    "ioJ>k9~4xpo^OUoCu=q?DoDX|rAS*wu8<*6tVAzFq6h<UTCd14A06>trq~nzD>9Yqm#_+j|MUm4wrH0i0n&<y6$)BZ0$&9~uxLd)"
    "qe#K9AY^QVUXi$5vm;(gnB*QNa{NZbHEm)wL>>W~jWdKrvoW`*Xh>E^=mRT)j7MOLrEWuA+p9pVwZx&&BV8y$GDcv4d-RdOVF^;!"
    "37MV$cOk8pb?fRVK8v;bMRAF0<^*fKI835ADo8vFqf(ROc6o|N#M-u?HQ!`a=<C|L%wKy3oI9P^b<Gfi{&2TPL6?2gW0Iei*ulJp"
    "OZO0K9+PRsWj<QGc93x*qnNcW82PscLWm0&i!XL^rtHdHCSR~B4U719`7m0^YH=m1bsof-Z|JCT8XRKmD}(wh$?n<2rbp)_?YU@K"
    "y|%D)`%`$_6yHuN3a~OAw|LvU#~1Tf&hu)sNV3nAwHBhe&00zA3d2EGZ+O#9h!wd&(L|NVRx-)(oM1#&EEsFVzDGqZ5$XY+9u@61"
    "tw(njGd+9D)?bNtkDH=0dC>||J{UCB<*R<CbTcom3HB)3i(}IMg<Wc3glROO8YOZo<YM=Rz1&c<v+Xb?YsZ2nceR~6fN58E^|)Io"
    "`V<Zt@ZYamC_YbqC9pM3YsfoZ3&wt43(kVfZ*3K`K_#edUuSU%N-Qxq`VG|>wKUvVl#?WkuiCMGKAaD`<HLUT7p}1w)24=yqSB9N"
    "%8jhJb^|hmlOxsPZVMRPDh0)vh%-sXXiU{IZW(l!;Bnsc_)!!|p{UwYU;!m%tc%9f+Ek9)GZiVqOE}%*v6%{N>V>eQzS_Ku{XLsI"
    "RtRH7f2bt)&$GN*2o6mM#y!ZOFja<h$9vf6cr=>8eDmtu)mR2~=|E~n@E#?iSD=v_;ne%=kN74YET3O`+Dml({<e8Xy}a1`uK1$z"
    "TFJ>tGo6XKQ#Q%7JozbZUd9s)99vitXw4%t?laeOKW*bdERP7&Tf*ds-EDkJa+xV8&vQRcpGn8db0q|qCo7OF7}_EXv+@<*=hat+"
    "J|V7BRbIKHr+qGLS-qEzxf>?~6T=(SO#9#S@b}nc_+1#wc}LJ&xan9Ao^wof+2@&basv4SsaHrt|H}Ux`7TGzgL{rjLO4aGw^x0A"
    "kVanW*sqY6r=n*zlzvr@rU%q_!3V3&*PVxG)?JUnG<qa(`_R3M?f|>%<Y~M@*6SSWs|wdTXD)TSjh9^ME)d!F^bT^{-N!op!_e>O"
    "tQ&Gqky}Rp@qF_Fx}CWx>-Kw~v=y84tUlKpPpKSH&7Xa^)j-{g=nLZ8(6udvBW@!6_6KyYqI;e61L($c97AGeKfC>6^f#U?u21j~"
    ")yKF64)&q?5Z%+(*3E=>q8ic<BXY!3OWq>3=|r{L)@;vwNO~?uL9GYT_4#VE51Y&Aj&XOP^U}Z3eNGb15ptI}o1PRr#>u&Ezjiwt"
    "hf%_Ng54$MC%r4*xZXXHtVBfSPUZGd_T?**s30w-S5yyqbFU})-6QP&M0Zeo;^AJiA%A5~nxybeTR2>CWv5cO2!`RCKHQZ0ElKz+"
    "JluwV0QFYR+5"
)


@cache
def character_classes(*, ascii_only: bool = False) -> tuple[str, ...]:
    r"""Returns ``\p{L}``, ``\p{N}`` and ``\s`` as the inside of a bracket expression of `re`.

    With ``ascii_only`` just their ASCII part, which matches ASCII text faster.
    """
    numbers, value, shift = [], 0, 0
    for byte in zlib.decompress(base64.b85decode(_RANGES)):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    classes = []
    while numbers:
        count = numbers[0]
        classes.append(_bracket(numbers[1 : count + 1], ascii_only))
        del numbers[: count + 1]
    return tuple(classes)


def _bracket(numbers: list[int], ascii_only: bool) -> str:
    """Returns ranges as the inside of a bracket expression."""
    parts, high = [], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        low, high = high + gap, high + gap + length
        if not ascii_only or high < 0x80:
            parts.append(f"{re.escape(chr(low))}-{re.escape(chr(high))}")
    return "".join(parts)

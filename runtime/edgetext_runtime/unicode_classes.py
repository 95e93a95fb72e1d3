r"""Letters, numbers and white space of Unicode 16.0, as the splitting patterns of other models name them.

Python's own tables belong to the Unicode version of the interpreter, and ``str.isspace`` counts U+001C to
U+001F. These are the classes of the ``tokenizers`` library, which a test compares over every code point.
"""

import base64
import re
import zlib
from functools import cache
from typing import Final, NamedTuple

__all__ = ["UNICODE_VERSION", "CharacterClasses", "character_classes"]

UNICODE_VERSION: Final = "16.0"
"""The version whose code points are classified; what was not assigned in it is neither letter nor number."""

# Letters, numbers, white space, a line each, as pairs in base 36: how far a range of code points starts after
# the end of the one before, and its last after its first. Compressed, to keep a device's install small.
_RANGES: Final = (
    "c-nneXPV+T6#PG@ct@}-"
    "IUNUMj0q;1c>1j>$qYTaJ72dz@x^)pH`&Q547aq*T8sjtw9#_AVJuJBXsx$kH4btNKVp%aGmk%RR658t&uz=u0w4ZnjfFk0@-"
    "FW=Jk0D2lHT0HTxl)?Av`$i^%{#Bqvdm~2T`0T$=WF3$sUGxNyxpv7Z?HKh`$=E(hhi3*v4F8?qF`v@fM?oL~AHhKo&0zC|)Vv0jrRB"
    "uA)%5>12}zFNz=c-"
    "Df<K6?XU>z#&@V`(F6)r+!C#FaO2=_q}`Ky~cba{R`PUmwYZ+*=Zj1s)fQC)vOZpQKFOBB^i>;?sD$;o#w;zk(8l;n~xGMe7sPm>x4s"
    "Tv?z^SM?heQc5X$YORFR(MLeW=qYDc?3ECSmds6tT1bf?+eyE9zy*L-"
    "bN|1k?_!Y2TC)>Elqm24V!dm+J<kC1N=rno!$Ki@1?dF>|bF|!Gd50zKKG0EXDUN43q^uytfOi{R>>*9`mg@=T7(eboz}CXlGYRRQa1"
    "<D<fM;s7G*{s=B5w;b0My_@tmPv^W5a0K;_6Be#MKL|BPCl*yl{>sv6sGz1Pd}N@MN;;BrSXlKu)Tp`aEttTz|ztu6d9-"
    "3fa0$d%jU%&?!*)mNfNpY9<&}KS)!gMY4B@RvCzjd}n3Ee-K)JdU2~XGsq%klIwp4<>{z0j1y=LTA-"
    "T&K1hTznk?VLpa`rE{#qfJy{CBwzow^LL&K~=qo<_-"
    "JlKDTrg_p|HFdc~eE1KrE6CWVK=BHw8!^z6i@OLsF;JIqU5n#0z+IE}Bn^WCqK&yUAT8t~y0>wLdzUQhWGkO6dlJ8eVxf~$<M?easZ2"
    "xo5;E0ei^a(N1!rz1Tkw7k&1jxZrkjIvnF2QZ%5eGHUbbLfhgM!rWJLfR6jx_DFqV)dK_9+E5;!wub4tBQ6jwOt2;!A3Zi;wFhW|TGw"
    "iaW|5%mm|w{jM25jq@l#o>rMSi7@@2>wo@Ki45%stKn(C{{{fIaOfxaxY0Kb*oSKcv!0y0&jGA6uZ@XMC+R%tq8kG8QmugTuFk;T&Xj"
    "uT{s=m%MGL&48TJHM8W~AR`KIaWiDVgTKT46q)qg?Bi_gAvnTC=8Fq)gkx>Kajuz`G2-Qe4N2Q3H6yT$ml<D}YmrfBsE)(@5NIB-"
    "+@+)3f!ht~Q{9kI+R)hmQ)}#uM#WK&ud1lm5%55TWryTnfJw=hqzfzM9GU|&RW*GGdj!cV^ngeUV-"
    "a`UqDT_JPmGzu%4pG`XwG5eptfdyU$_#5R1lmb>&@XnN_fQbISZ8BmE`C>cr)TGsSE)fyy9V5jY#A+2^Ws?BX>TPu3#0__$&a`*U2wG"
    "k1)sk_b`5nF>}K5ZZ9Q{=uvOw?Vsy2{2V_Ei#MaW$tHnc6w`b{Ln7TXln35SM3+JAm?r6Ej%7;?bM}<0e5x3L?^vc!?fb0sLDAH1G9l"
    "N41LU1aCkjN9R{HMoj6GlY%nyO`$HZBP~A*Cx7V)8l)X0ea_+cyB;H(0S8R)EFHf~WGWIt_GfuV|pkx&hqEPKf~sjNtX3w1OJA7L4xl"
    "`g73PIi1fiZPJ_U)4Ucx3RnKe{XfTiHe1?%(QDKS#F7~__p8YsuLFTnF(;SmXV#8g=w*is1Hk>*S`U90ck@%pT3h$OkPuOr;Mr6fStZ"
    "E8U)YXrSvv+U+ti(UH?QIcw>&)T>E4DiJt*E2vl{sF681D-"
    "M_NNx8{!Oc!Z0~9^OZ*|D~tm(L&y7jB&#r{?Lr+uKMTgK$qNTXJl`_1Sip7_`@)<hZeVBQa)#YL23f6I+U#goW|h0(wSw6iR>zf%R|;"
    "29mHNr*DyjW!i^D8M%l-"
    "9=G`cfU)G^(nS+r(j=hz9|lpixn3^Doi%$jp%yTE|RgZf)A859BpGqc&m)HtY>&f_JRvr_eQbX!9NyDpibx`0ujOiW=hwSeP912#lCq"
    "RuJZ!txZT+0Ncr@Kt^nA*3tT+xEm{L91{2sOyz|RPtAQi4S%*9qHO-M)$hur*nwc71ga+-"
    "ZtZlci_OSv9@~tHo4u@zf99iw0kSD;A8t_Cq&uDjK$~E`V=%Xopru2Cn5%$U+fN8CGttXLV$;Mr~I{xWi@6q{-pCTO!f~2Rr+="
)


class CharacterClasses(NamedTuple):
    """The three classes as the inside of a bracket expression of `re`, as in ``rf"[^{classes.letters}]"``."""

    letters: str
    r"""``\p{L}``."""
    numbers: str
    r"""``\p{N}``."""
    white_space: str
    r"""``\s``."""


@cache
def character_classes(*, ascii_only: bool = False) -> CharacterClasses:
    """Returns the classes; with ``ascii_only`` just their ASCII part, which matches ASCII text faster."""
    lines = zlib.decompress(base64.b85decode(_RANGES)).decode().splitlines()
    return CharacterClasses(*(_bracket(ranges, ascii_only) for ranges in lines))


def _bracket(ranges: str, ascii_only: bool) -> str:
    """Returns ranges as the inside of a bracket expression."""
    parts, numbers, high = [], [int(number, 36) for number in ranges.split()], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        low, high = high + gap, high + gap + length
        if not ascii_only or high < 0x80:
            parts.append(f"{re.escape(chr(low))}-{re.escape(chr(high))}")
    return "".join(parts)

"""MediaPipe's canonical face: where the 468 landmarks of its mesh lie on an expressionless face, and which of them hold
still against the skull.

Taken from `geometry_pipeline_metadata_landmarks.pbtxt` of MediaPipe's face geometry module, rounded to 10 micrometres;
Copyright 2020 The MediaPipe Authors, Apache License 2.0. x points to the subject's left, y up, z towards the camera, in
centimetres.
"""

import base64
import struct

NUM_MESH_LANDMARKS = 468

# Landmarks from which MediaPipe fits the pose of a head, and their weights.
POSE_WEIGHTS = {
    4: 0.0709,
    6: 0.0321,
    10: 0.0084,
    33: 0.0587,
    54: 0.0077,
    67: 0.0091,
    117: 0.0098,
    119: 0.0146,
    121: 0.0186,
    127: 0.0052,
    129: 0.1206,
    132: 0.0056,
    133: 0.0533,
    136: 0.0669,
    143: 0.0148,
    147: 0.0143,
    198: 0.0255,
    205: 0.0473,
    263: 0.0587,
    284: 0.0077,
    297: 0.0091,
    346: 0.0098,
    348: 0.0146,
    350: 0.0186,
    356: 0.0052,
    358: 0.1206,
    361: 0.0056,
    362: 0.0533,
    365: 0.0669,
    372: 0.0148,
    376: 0.0143,
    420: 0.0255,
    425: 0.0473,
}

_THOUSANDTHS = (
    "006S`To(WUnfo*y007tbsuwW+y94SO001%mqa6SMZUIXi005~8ofc#75(>}^006TOr4#@F783~-"
    "002fHf)M}!h4JYY006S^!4&`iX7FPa002Vn9TflocI}xJ003m{;S~S?3+ta1008>u&l3OuBl^f2VE#t>Fd0zfI~8OAyY=)32oHku!Uxq3LGk"
    "woJ`RrVcL`GrjQ5TR3=eqom<$vUj`f8M{10F8T?~W|zwh%4hz>gJjtAHZCHMZ~CK00UXbNQv(c{+$NdQ>sE(x3n<Mc26Q4u-"
    ")|MK+~qW!DzMHOiJQ}TEfh4>}$r4yC=dhkXR<oONo>Jp~)bnILZRsOpB!5k3&B>oT`d+RC>BMnLU&jZd8xA{^0wib=~o&C)fV(mix&kZ8}C;"
    "`12Y4My9#t{?l&JfTKdFR&|k_9{aE)en)Z}%Jwp%3Bn|Ly<~z~xKrFZovc<@#zCCjG|w$rfn#3GciRWA`ubLJ)@R!V;(s$oUrgQ5CE8tr0pC"
    "IQ8ulm=iqmMjw$5AnH>VqzVZ1rWvvkr|F*%4+|RSvJyB3U;UWzY8DauH1R4GJNb|Bi4*MmNBSNX@Aen(q7e7@g6^pim-kHX#t%*W_4{xcL;5"
    "`M{Sg5CYVbc3>-"
    "}f&5)}UYG3a^|MEz9jNEKrJs_cdpiT$bVNfo*MTJGEw|M|J@i4w5+gznA~Kl%0T_7c(fBkkA{!1mtr1QUwl=lg;7002b!$r;`F(C#l0cKF2Z"
    "krAu?BKYbSg8EMRc@%2><@o3p+V(sG#t;GXX#f%sLiuU@nH2NuJ{@EVMeeW|V-"
    "9Wb^%HUthWEhgXc3J1loP}htog?oITM}uEFiNGobS5`FAbaNgav>Jy!bQ;0}q4j0}Kod>H3HT-xB8fU;Pjnzvig}ng(_2vICwAu<p_V!wnnr"
    "UIQTyg7#|!#}DK9yaj*|&HV%kzZE{`@BLW^Eb531fC>%&N&24~wfR#49}~ghJqauLk@`CaVG#!TF8uNm!R=@Y3=GQp<o?kYnd7zeH21*x849"
    "irW&BA15E^&v3Fu`9Bkc9#%K{1H)cm;rE$M*koC87SPY%@rllHye7Z6PUX8Eld$oE|T))DyTya*Wvs_{4pGY*&Y_6WcZZ1)Q8fDxtVX!w8z^"
    "ZKyc{ttEYtKRYo8}P^Ag$Dotkr|^C002eXs1RKB3<<#w5cgjRat<>1!3k*&4(LY>_XiO7M+?6WT=kL*AP<-"
    "GlnW&fs_}3Oj1ErlDGQqoeBuibApB17v<Yzy001WTEEf>@g!Nq%I{RY#Ko=$b7xuRn0074fbQIa|tK@JB5c3n_Hx1tUK;B*w%jmG@iTyJ8xC"
    ")>Sd;HY|dKLfx!`&Mb`}XqO84lLuc=mn&wfmLs0Tg5V9PUOG82e1^brjS34eV7E_W4EWmJ(k0sP9k_y7$-b%MlazE%4?M-"
    "t?~Vg%M%vLH8{SP5g8RO%&exAq<BQ4EZbzDi6!}{qL6$#OgxuJ_rK+ZVderZTKqYsSyAGBLsIE`~5Hm1Q-ASzy_@tA^YY4F%|#-"
    "`rthj006P%Aru<??c{V5C-"
    "eF0)DHOe;`#0oi1i@o01yZ9|M@BqZuB1aSrOgth4nlRKl^6kX%qVScmGio+VE!R?+o<wX65D%UGZq{jt(;Ddh@{r6YhuYrwd8uoA5>eTk?eS"
    "A`lq+A_Ke>n)_P(iy2+|iTe>3W&H2`TN@?$$qncbxAlS!4H3lhiVoEf6!2RP><{tnlMOx&%<Je0Zwi0o`vTAZo$Yf5CJY$x#RZiOI`h8;lnx"
    ";FQ3e?gP546xdJok3G6?k#5aOW%eD;g_#QOdfi~N%USr`HRIQ*s?H2%u^gBlb4)ccMaEc?#+Xcc|_e)=vO!2Y=TZ5f#P{0SHj82h6MY!LbTP"
    "YDPTWAD@o^9)YzUJDEj&;h#x>KUC75(>}^paDkuFd48LI~8OAMGEu>2oHV?!Uxq3zYg~YJ`QpbcL`GrbO??J3=fD5m<$vUatehE{12fHT?~W"
    "|K@jr`hz`aRjtAHZ+X(*RCJ|l{XbNQvFC5nhNdTx8E(x3n9Sbl0Q4z-"
    "i|MK+~UIMG|MHQF@Q}TEfdj}=)r4wredhkXR90m>W>JnNCbnILZs{y+E!5r`bB>oT`g%m0eBMr9(&jZd8Nd{5;wia^+o&C)fo)SX+&kf!IC;"
    "`12mkyi}#u4oi&JfTKhZxrxk_E*CE)en)kq8_Np${Jn|Ly<~KpIQ!FZrqj<@#zC+5*P;$rhLi3GciRod_@QLJ)cr!V;(sI0hE`Q597Rtr0pC"
    "$O`Qfm=nYeMjw$5;1yFAqzd>8rWvvkSr(rV4-"
    "4iPvJyB3p#qrkY8LMVH1R4G#RiY?i4znANBSNX5eXOXq7VrPg6^piX$Va3#t*Xt_4{xcy#+k*{Sg2JYVbc36#{4Q5)=XhG3a^|yaH6~NEMy}"
    "s_cdpcLJ&HNfk!|TJGEw0S3A5i4sr-gznA~!3Op1_7X1#BkkA{KndRS1QT{0=lg;7BL~p#FA<6d#O{$1RRSXT>K1+lPWgEhmICGY=oTgkJOa"
    "iL{|spW5)i%yY5bWK4HP~dWD2_xuoz<wlMnS1auIq6!0KobbOn?X#1vEp#~C>jV+SlCvk+tuy9h50Wfp`5fC)qgGzkL_eG>x=3=9_qhy~vg8"
    "U<hd5E(%ksRNn@ixjd0o(oVB(gMQ`<qTc}ArF2DYXrv+9S6JxfDkhR1PQ+t!Wi%USqIb=hzx)V^8iWupBqaCQvn|nKOQ{^EBJ2(I|pGA`UWo"
    "i@)AE1XbKDrHU;GV(HCbNwe&RiKnEELt`3_6NdOQUi4zIvWe438_2bI|_Z!swxc}1@fa{zCzZy>t)dFn^z26rQv;b!Ltr<87T>sV)2pPNx83"
    "tAkI0-WjX$<xVzz&oM3hsarTNr5gfCdc(u-pC*iwvvY@(Se-$KZtrqzViP!4B{UUkP#!&IiE>X%6xiM-BG}@CZi>zYe4dk_#XYX$+JLB@b2("
    "a0`qMvJWW>n+=2=3lJduvJbQgaSiYWg!Nq%#sp&fKo{Er7xuRnClIUTa0>7Y6XG`wA_YL+UJ^AIu;+>W&Ih;(pbmut)dYGL1qt%p84fBNc=m"
    "n&O9Ykf0Ti7C9PUOG=mbpdbrdZH4eV7E3I;{#mJ*@|sP9k_MhMsM%MtAeE%4?MA`7nZg%O_=LH8{SvjcPoO%x&pAq<BQ^ad;oDi1XW{qL6$J"
    "QYIlJ_!B-ZVderlLsp1sSyPNFa`t|-"
    "vs6WF&5?n?c{V5*$nyW)D8#<;`#0ocnTos01){O|M@Bqk_#U9SrH=<h4nlR!31XEX%hwpcmGioCJ$!l?+gqKX65D%qYh~9jt<Tjdh@{r?GcC"
    "Vrwg|koA5>er45AhA`s{VA_Ke>W&~RNiy5N@iTe>3n*;CtTN~R3$qncbNeY4v4G}yIiVoEf><?QG><<qTlMOx&G!*CwZwi4N`vTAZV-j-"
    ")CJg8g#RZiO#tgp&ln&qtQ3e?gvj;;5dJilHG6?k#@ExH7eD-"
    "w(#QOdfbpw+ESs4EUIQ*s?%mK>!gBtAu)ccMa)CA7?XcdD2e)=vOKmoY<Z5e0={0SHj=met)Y!C+oPYDPToe<Ot^9-^PUJDEj"
)


def canonical_face() -> list[tuple[float, float, float]]:
    """x, y and z of the 468 landmarks, cm."""
    numbers = struct.unpack("<1404h", base64.b85decode(_THOUSANDTHS))
    return [tuple(number / 1000 for number in numbers[i : i + 3]) for i in range(0, len(numbers), 3)]


__all__ = ["NUM_MESH_LANDMARKS", "POSE_WEIGHTS", "canonical_face"]

"""Functions that Triton lacks, in plain Triton, of float32 where the name says nothing: the emitter copies those that a kernel
uses into its module.

Each stands alone but for the functions it names, and runs alike compiled and interpreted (libdevice would not run in
the interpreter, and is NVIDIA's). Polynomials marked Cephes are those of Stephen Moshier's single-precision library
(netlib.org/cephes, tanhf.c, sinhf.c, asinf.c, atanf.c), with relative errors below 2e-7 there.
"""

import triton
import triton.language as tl


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def bitwise_and(a, b):
    return a & b


@triton.jit
def bitwise_or(a, b):
    return a | b


@triton.jit
def larger(a, b):
    """The larger; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    """The smaller; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def nearest(x):
    """x rounded to an integer, ties to even."""
    low = tl.floor(x)
    rest = x - low
    odd = low - 2.0 * tl.floor(low * 0.5)
    return tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), low + 1.0, low)


@triton.jit
def tanh(x):
    """Cephes below 0.625, else 1 - 2 / (exp(2 |x|) + 1)."""
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x + x * z * p, tl.where(x < 0.0, -far, far))


@triton.jit
def sinh(x):
    """Cephes below 1, else (exp |x| - exp -|x|) / 2, by halves so that it overflows no sooner than it must."""
    z = x * x
    p = 2.03721912945e-4 * z + 8.33028376239e-3
    p = p * z + 1.66667160211e-1
    size = tl.abs(x)
    half = tl.exp(0.5 * size)
    far = (0.5 * half) * half - 0.5 / (half * half)
    return tl.where(size < 1.0, x + x * z * p, tl.where(x < 0.0, -far, far))


@triton.jit
def cosh(x):
    """(exp |x| + exp -|x|) / 2, by halves."""
    half = tl.exp(0.5 * tl.abs(x))
    return (0.5 * half) * half + 0.5 / (half * half)


@triton.jit
def expm1(x):
    """exp(x) - 1: its Taylor series below 0.7, where the difference would cancel."""
    p = x * (1.0 / 39916800.0) + 1.0 / 3628800.0
    p = p * x + 1.0 / 362880.0
    p = p * x + 1.0 / 40320.0
    p = p * x + 1.0 / 5040.0
    p = p * x + 1.0 / 720.0
    p = p * x + 1.0 / 120.0
    p = p * x + 1.0 / 24.0
    p = p * x + 1.0 / 6.0
    p = p * x + 0.5
    return tl.where(tl.abs(x) < 0.7, x + x * x * p, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x): below 0.4 its series in s = x / (2 + x), where 1 + x would lose x's low bits."""
    s = x / (2.0 + x)
    z = s * s
    p = z * (1.0 / 15.0) + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 0.2
    p = p * z + 1.0 / 3.0
    return tl.where(tl.abs(x) < 0.4, 2.0 * (s + s * z * p), tl.log(1.0 + x))


@triton.jit
def asinh(x):
    """sign(x) log(|x| + sqrt(x^2 + 1)), as log1p; above 1e9 x^2 may overflow and the 1 is below an ulp."""
    size = tl.abs(x)
    capped = tl.minimum(size, 1e9)
    near = log1p(capped + capped * capped / (1.0 + tl.sqrt_rn(capped * capped + 1.0)))
    y = tl.where(size > 1e9, tl.log(size) + 0.69314718055994530942, near)
    y = tl.where(x != x, x, y)
    return tl.where(x < 0.0, -y, y)


@triton.jit
def acosh(x):
    """log(x + sqrt(x^2 - 1)), as log1p of t + sqrt(2 t + t^2) with t = x - 1; NaN below 1."""
    t = tl.minimum(x, 1e9) - 1.0
    y = tl.where(x > 1e9, tl.log(x) + 0.69314718055994530942, log1p(t + tl.sqrt_rn(2.0 * t + t * t)))
    return tl.where(x < 1.0, float("nan"), tl.where(x != x, x, y))


@triton.jit
def atanh(x):
    """sign(x) log1p(2 |x| / (1 - |x|)) / 2."""
    size = tl.abs(x)
    y = 0.5 * log1p(2.0 * size / (1.0 - size))
    return tl.where(x < 0.0, -y, y)


@triton.jit
def tan(x):
    return tl.sin(x) / tl.cos(x)


@triton.jit
def asin_small(x):
    """Cephes, |x| <= 0.5."""
    z = x * x
    p = 4.2163199048e-2 * z + 2.4181311049e-2
    p = p * z + 4.5470025998e-2
    p = p * z + 7.4953002686e-2
    p = p * z + 1.6666752422e-1
    return x + x * z * p


@triton.jit
def asin(x):
    """Above 0.5 by pi/2 - 2 asin(sqrt((1 - |x|) / 2)); NaN beyond 1."""
    size = tl.abs(x)
    far = 1.57079632679489661923 - 2.0 * asin_small(tl.sqrt_rn(0.5 * (1.0 - size)))
    return tl.where(size <= 0.5, asin_small(x), tl.where(x < 0.0, -far, far))


@triton.jit
def acos(x):
    """Above 0.5 by 2 asin(sqrt((1 - |x|) / 2)), below -0.5 by pi minus that, else pi/2 - asin; NaN beyond 1."""
    size = tl.abs(x)
    far = 2.0 * asin_small(tl.sqrt_rn(0.5 * (1.0 - size)))
    far = tl.where(x < 0.0, 3.14159265358979323846 - far, far)
    return tl.where(size <= 0.5, 1.57079632679489661923 - asin_small(x), far)


@triton.jit
def atan(x):
    """Cephes: reduced at tan(pi/8) by (a - 1) / (a + 1), at tan(3 pi/8) by -1 / a."""
    a = tl.abs(x)
    far = a > 2.414213562373095
    middle = a > 0.4142135623730950
    t = tl.where(far, -1.0 / tl.where(far, a, 1.0), tl.where(middle, (a - 1.0) / (a + 1.0), a))
    start = tl.where(far, 1.57079632679489661923, tl.where(middle, 0.785398163397448309616, 0.0))
    z = t * t
    p = 8.05374449538e-2 * z - 1.38776856032e-1
    p = p * z + 1.99777106478e-1
    p = p * z - 3.33329491539e-1
    y = start + (t + t * z * p)
    return tl.where(x < 0.0, -y, y)


@triton.jit
def atan2(y, x):
    """The angle of (x, y); at the origin 0, or pi for a negative x."""
    both = (tl.abs(x) == float("inf")) & (tl.abs(y) == float("inf"))
    wide = tl.abs(y) > tl.abs(x)
    top = tl.where(wide, tl.abs(x), tl.abs(y))
    bottom = tl.where(wide, tl.abs(y), tl.abs(x))
    a = tl.where(both, 0.785398163397448309616, atan(top / tl.where(bottom == 0.0, 1.0, bottom)))
    a = tl.where(wide, 1.57079632679489661923 - a, a)
    a = tl.where(x < 0.0, 3.14159265358979323846 - a, a)
    a = tl.where((x != x) | (y != y), x + y, a)
    return tl.where(y < 0.0, -a, a)


@triton.jit
def cbrt(x):
    """exp2(log2 |x| / 3), and one step of Newton's to lose the error of both."""
    size = tl.abs(x)
    plain = (size > 0.0) & (size < float("inf"))
    a = tl.where(plain, size, 1.0)
    t = tl.exp2(tl.log2(a) * 0.33333333333333333333)
    t = t - (t - a / (t * t)) * 0.33333333333333333333
    t = tl.where(x < 0.0, -t, t)
    return tl.where(plain, t, x)


@triton.jit
def pow_ends(x, y, r, minus):
    """r, which is |x| to the y where both are finite and x is not 0; the sign and the ends as IEEE 754 has them. minus: x has
    the sign bit."""
    size = tl.abs(x)
    grows = (size > 1.0) == (y > 0.0)
    r = tl.where(size == 0.0, tl.where(y < 0.0, float("inf"), 0.0), r)
    r = tl.where((size == float("inf")) | (tl.abs(y) == float("inf")), tl.where(grows, float("inf"), 0.0), r)
    r = tl.where((size == 1.0) & (tl.abs(y) == float("inf")), 1.0, r)
    integral = tl.floor(y) == y
    odd = integral & (tl.floor(y * 0.5) * 2.0 != y)
    r = tl.where(minus & odd, -r, r)
    r = tl.where((x < 0.0) & ~integral & (size != float("inf")), float("nan"), r)
    r = tl.where((x != x) | (y != y), x + y, r)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, r)


@triton.jit
def pow(x, y):
    """x to the y, within a few ulp: log2 |x| is taken in two floats, so that y does not magnify its error.

    log2 of the mantissa m in [0.7, 1.4): with f = m - 1 and s = f / (2 + f), 2 / ln 2 (s + s^3/3 + ...), the division's
    remainder and the products' low parts kept by fused multiply-adds.
    """
    size = tl.abs(x)
    tiny = size < 1.17549435e-38
    scaled = tl.where(tiny, size * 16777216.0, size)
    bits = scaled.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    f = m - 1.0
    t = 2.0 + f
    s = f / t
    low = (tl.fma(-s, t, f) - s * (f - (t - 2.0))) / t
    z = s * s
    p = z * (1.0 / 11.0) + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 0.2
    p = p * z + 0.33333333333333333333
    tail = low + s * z * p
    high = s * 2.88539004325866699  # float32(2 / ln 2)
    rest = tl.fma(s, 2.88539004325866699, -high) + s * 3.8519827e-8 + tail * 2.88539004325866699
    whole = exponent.to(tl.float32) - tl.where(tiny, 24.0, 0.0)
    log = whole + high
    rest = rest + (high - (log - whole))
    both = log + rest
    rest = rest - (both - log)
    log = both
    high = y * log
    low = tl.fma(y, log, -high) + y * rest
    low = tl.where(tl.abs(high) < 300.0, low, 0.0)
    r = tl.exp2(tl.minimum(tl.maximum(high, -300.0), 300.0))
    r = r * (1.0 + low * 0.69314718055994530942)
    return pow_ends(x, y, r, x.to(tl.int32, bitcast=True) < 0)


@triton.jit
def pow_float64(x, y):
    """x to the y in float64, within an ulp, and exact where the result is an integer that fits: as `pow`, with the series' first
    term in two floats as well, and 2 to the rest as 1 + (q + p) with q the large part.

    What tl.fma takes is a tensor, made from a float64 zero: a bare number would be float32 there.
    """
    zero = y * 0.0
    size = tl.abs(x)
    tiny = size < 2.2250738585072014e-308
    scaled = tl.where(tiny, size * 18014398509481984.0, size)
    bits = scaled.to(tl.int64, bitcast=True)
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = (bits - (exponent << 52)).to(tl.float64, bitcast=True)
    f = m - 1.0
    t = 2.0 + f
    s = f / t
    low = (tl.fma(-s, t, f) - s * (f - (t - 2.0))) / t
    z = s * s
    q = z * s
    q_low = tl.fma(z, s, -q) + tl.fma(s, s, -z) * s
    third = q / 3.0
    third_low = (tl.fma(zero - 3.0, third, q) + q_low) / 3.0
    p = z * (1.0 / 25.0) + 1.0 / 23.0
    p = p * z + 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    a = s + third
    rest = third - (a - s) + (third_low + low * (1.0 + z) + q * z * p)
    c = zero + 2.8853900817779268  # 2 / ln 2, in two floats
    high = a * c
    rest = tl.fma(a, c, -high) + (a * 4.0710547481862066e-17 + rest * c)
    whole = exponent.to(tl.float64) - tl.where(tiny, 54.0, 0.0)
    log = whole + high
    rest = rest + (high - (log - whole))
    both = log + rest
    rest = rest - (both - log)
    log = both
    high = y * log
    low = tl.fma(y, log, -high) + y * rest
    low = tl.where(tl.abs(high) < 1200.0, low, 0.0)
    high = tl.minimum(tl.maximum(high, -1200.0), 1200.0)
    n = tl.floor(high + 0.5)
    r = high - n
    c = zero + 0.6931471805599453  # ln 2, in two floats
    q = r * c
    q_low = tl.fma(r, c, -q) + (r * 2.3190468138462996e-17 + low * c)
    p = q * (1.0 / 1307674368000.0) + 1.0 / 87178291200.0
    p = p * q + 1.0 / 6227020800.0
    p = p * q + 1.0 / 479001600.0
    p = p * q + 1.0 / 39916800.0
    p = p * q + 1.0 / 3628800.0
    p = p * q + 1.0 / 362880.0
    p = p * q + 1.0 / 40320.0
    p = p * q + 1.0 / 5040.0
    p = p * q + 1.0 / 720.0
    p = p * q + 1.0 / 120.0
    p = p * q + 1.0 / 24.0
    p = p * q + 1.0 / 6.0
    p = p * q + 0.5
    p = q * q * p
    r = 1.0 + (q + (p + q_low * (1.0 + (q + p))))
    half = n.to(tl.int64) >> 1
    other = n.to(tl.int64) - half
    r = r * ((half + 1023) << 52).to(tl.float64, bitcast=True) * ((other + 1023) << 52).to(tl.float64, bitcast=True)
    return pow_ends(x, y, r, x.to(tl.int64, bitcast=True) < 0)


@triton.jit
def integer_pow(x, y):
    """x to a y >= 0 of the same integer type, wrapping as the multiplications do."""
    result = x * 0 + 1
    base = x
    power = y
    for _ in tl.static_range(0, 32):
        result = tl.where((power & 1) != 0, result * base, result)
        base = base * base
        power = power >> 1
    return result

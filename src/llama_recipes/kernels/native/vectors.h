// Vectors of float in the width that the compiler's target has, and what all kernels do with them.
//
// Everything here is GCC's vector extension: one source for every instruction set. A bf16 number
// is the upper half of a float.
#pragma once

#include <cstdint>
#include <cstring>

// EMULATED_LANES: the code for 512 bits on any processor, for tests.
#if defined(__AVX512F__) || defined(EMULATED_LANES)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4)));
typedef uint32_t VecBits __attribute__((vector_size(LANES * 4)));
typedef uint16_t VecHalf __attribute__((vector_size(LANES * 2)));

struct bf16 {
    uint16_t bits;
};

INLINE Vec splat(float value) { return value - Vec{}; }  // -0 stays -0, unlike value + Vec{}

INLINE Vec load(const float* from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float* to, Vec v) { memcpy(to, &v, sizeof v); }

INLINE Vec load(const bf16* from) {
    VecHalf half;
    memcpy(&half, from, sizeof half);
    return (Vec)(__builtin_convertvector(half, VecBits) << 16);
}

// The bits of v rounded to the nearest bf16, ties to even, in the upper half of each lane.
INLINE VecBits rounded(Vec v) {
    VecBits bits = (VecBits)v;
    return bits + 0x7fff + ((bits >> 16) & 1);
}

INLINE void store(bf16* to, Vec v) {
    VecHalf half = __builtin_convertvector(rounded(v) >> 16, VecHalf);
    memcpy(to, &half, sizeof half);
}

INLINE float widen(float value) { return value; }

INLINE float widen(bf16 value) {
    uint32_t bits = (uint32_t)value.bits << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

INLINE void narrow(float* to, float value) { *to = value; }

INLINE void narrow(bf16* to, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    to->bits = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Per lane: a where the mask is set, b elsewhere. NaN in what is not chosen is left behind.
INLINE Vec choose(VecInt mask, Vec a, Vec b) { return mask ? a : b; }

INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

INLINE float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

INLINE float largest(Vec v) {
    float top = v[0];
    for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
    return top;
}

INLINE VecInt lane_numbers() {
    VecInt v;
    for (int i = 0; i < LANES; i++) v[i] = i;
    return v;
}

// 2^x for x <= 127, with a relative error of 1e-7 (degree 6) or 3e-6 (degree 4, a
// thousandth of bf16's rounding). Below -125 the result is about 2^-125 and not smaller; NaN stays NaN.
// Polynomials: minimax of the relative error on [-1/2, 1/2] (Remez).
template <int DEGREE>
INLINE Vec exp2_of(Vec x) {
    x = choose(x < splat(-125.0f), splat(-125.0f), x);
    Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: the sum's lowest bits are x rounded
    Vec f = x - (shifted - 12582912.0f);
    Vec p;
    if (DEGREE == 4) {
        p = splat(0.00957010221f);
        p = p * f + 0.0559178628f;
        p = p * f + 0.240247443f;
        p = p * f + 0.693121791f;
        p = p * f + 0.999999285f;
    } else {
        p = splat(0.000153458124f);
        p = p * f + 0.00133999309f;
        p = p * f + 0.00961848907f;
        p = p * f + 0.0555032864f;
        p = p * f + 0.240226462f;
        p = p * f + 0.693147182f;
        p = p * f + 1.0f;
    }
    return (Vec)((VecInt)p + ((VecInt)shifted << 23));
}

// Degree of the exponential that a kernel's storage type deserves.
template <class T>
constexpr int EXP_DEGREE = sizeof(T) == 4 ? 6 : 4;

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.69314718055994531f;

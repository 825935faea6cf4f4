// C = A B and C += A B for blocks that stay in the cache: the inner loops of attention.
//
// A is row-major. B stands in panels of 16 columns: [depth / GROUP][16][GROUP] numbers, so that 4
// bytes hold as many steps of depth as the instruction multiplies at once: one float, two bf16.
// It is at the same time what AMX loads as a tile. C is row-major float. Rows, columns and depth are
// multiples of 32.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "vectors.h"

template <class T>
constexpr int GROUP = 4 / (int)sizeof(T);

constexpr int BLOCK = 32;
constexpr int PANEL = 16;

INLINE long round_up(long count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

#if defined(__AMX_BF16__) || defined(EMULATED_TILES)
#define HAS_TILES 1
#include "tiles.h"
#else
#define HAS_TILES 0
INLINE void start_tiles() {}
INLINE void end_tiles() {}
#endif

// Where A, B and C stand. Strides in numbers: of a row of A, of a panel of B, of a row of C.
template <class T>
struct Operands {
    float* c;
    long c_stride;
    const T* a;
    long a_stride;
    const T* b;
    long b_stride;
};

INLINE Vec multiply_add(Vec sum, Vec a, Vec b, float) { return sum + a * b; }

INLINE Vec multiply_add(Vec sum, Vec a, Vec b, bf16) {
#if defined(__AVX512BF16__)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    VecBits upper = VecBits{} + 0xffff0000u;
    Vec a_first = (Vec)((VecBits)a << 16), b_first = (Vec)((VecBits)b << 16);
    Vec a_second = (Vec)((VecBits)a & upper), b_second = (Vec)((VecBits)b & upper);
    return sum + a_first * b_first + a_second * b_second;
#endif
}

// ROWS rows and two vectors of C, held in registers over the whole depth.
template <class T, int ROWS>
INLINE void register_block(float* c, long c_stride, const T* a, long a_stride, const float* b0,
                           const float* b1, long steps, bool add) {
    Vec sums[ROWS][2];
    for (int i = 0; i < ROWS; i++) {
        sums[i][0] = add ? load(c + i * c_stride) : Vec{};
        sums[i][1] = add ? load(c + i * c_stride + LANES) : Vec{};
    }
    for (long k = 0; k < steps; k++) {
        Vec first = load(b0 + k * PANEL), second = load(b1 + k * PANEL);
        for (int i = 0; i < ROWS; i++) {
            float pair;
            memcpy(&pair, a + i * a_stride + k * GROUP<T>, sizeof pair);
            Vec broadcast = splat(pair);
            sums[i][0] = multiply_add(sums[i][0], broadcast, first, T{});
            sums[i][1] = multiply_add(sums[i][1], broadcast, second, T{});
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store(c + i * c_stride, sums[i][0]);
        store(c + i * c_stride + LANES, sums[i][1]);
    }
}

template <class T>
INLINE void vector_product(const Operands<T>& x, int rows, int columns, int depth, bool add) {
    constexpr int ROWS = LANES == 16 ? 8 : 6;
    const long steps = depth / GROUP<T>;
    for (int column = 0; column < columns; column += 2 * LANES) {
        auto panel = [&](int at) {
            return (const float*)(x.b + at / PANEL * x.b_stride) + at % PANEL;
        };
        const float *b0 = panel(column), *b1 = panel(column + LANES);
        int row = 0;
        for (; row + ROWS <= rows; row += ROWS)
            register_block<T, ROWS>(x.c + row * x.c_stride + column, x.c_stride,
                                    x.a + row * x.a_stride, x.a_stride, b0, b1, steps, add);
        for (; row < rows; row += 2)
            register_block<T, 2>(x.c + row * x.c_stride + column, x.c_stride,
                                 x.a + row * x.a_stride, x.a_stride, b0, b1, steps, add);
    }
}

INLINE void product(const Operands<float>& x, int rows, int columns, int depth, bool add) {
    vector_product(x, rows, columns, depth, add);
}

INLINE void product(const Operands<bf16>& x, int rows, int columns, int depth, bool add) {
#if HAS_TILES
    tile_product(x.c, x.c_stride, x.a, x.a_stride, x.b, x.b_stride, rows, columns, depth, add);
#else
    vector_product(x, rows, columns, depth, add);
#endif
}

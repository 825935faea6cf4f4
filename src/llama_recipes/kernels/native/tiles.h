// Products of bf16 blocks with AMX: tiles of 16 rows and 64 bytes, two by two of them at a time.
//
// EMULATED_TILES puts the same instructions, in plain C++, in the place of the processor's, so that
// the code around them can be tested anywhere.
#pragma once

#include "vectors.h"

#if defined(EMULATED_TILES)

struct Tile {
    unsigned char bytes[16][64];
};
static thread_local Tile emulated[8];

#define TILE_ZERO(t) memset(&emulated[t], 0, sizeof(Tile))
#define TILE_LOAD(t, from, stride)    \
    for (int row = 0; row < 16; row++) \
    memcpy(emulated[t].bytes[row], (const char*)(from) + row * (long)(stride), 64)
#define TILE_STORE(t, to, stride)     \
    for (int row = 0; row < 16; row++) \
    memcpy((char*)(to) + row * (long)(stride), emulated[t].bytes[row], 64)
#define TILE_PRODUCT(c, a, b) emulated_product(emulated[c], emulated[a], emulated[b])

static void emulated_product(Tile& c, const Tile& a, const Tile& b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, c.bytes[m] + 4 * n, 4);
            for (int k = 0; k < 16; k++)
                for (int half = 0; half < 2; half++) {
                    bf16 x, y;
                    memcpy(&x, a.bytes[m] + 4 * k + 2 * half, 2);
                    memcpy(&y, b.bytes[k] + 4 * n + 2 * half, 2);
                    sum += widen(x) * widen(y);
                }
            memcpy(c.bytes[m] + 4 * n, &sum, 4);
        }
}

INLINE void start_tiles() {}
INLINE void end_tiles() {}

#else

#include <immintrin.h>

#define TILE_ZERO(t) _tile_zero(t)
// GCC's intrinsics do not say what they read: without a barrier it may move stores behind the load.
#define TILE_LOAD(t, from, stride)     \
    do {                               \
        asm volatile("" ::: "memory"); \
        _tile_loadd(t, from, stride);  \
    } while (0)
#define TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define TILE_PRODUCT(c, a, b) _tile_dpbf16ps(c, a, b)

// The tiles' shapes are state of the thread. PyTorch's own products configure what they need each
// time, so they are released after each call.
INLINE void start_tiles() {
    alignas(64) struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    asm volatile("" : : "m"(shapes));  // all 64 bytes are read, of which the intrinsic names 8
    _tile_loadconfig(&shapes);
}
INLINE void end_tiles() { _tile_release(); }

#endif

INLINE void tile_product(float* c, long c_stride, const bf16* a, long a_stride, const bf16* b,
                         long b_stride, int rows, int columns, int depth, bool add) {
    const long c_bytes = c_stride * 4, a_bytes = a_stride * 2;
    for (int row = 0; row < rows; row += 32)
        for (int column = 0; column < columns; column += 32) {
            float *c0 = c + row * c_stride + column, *c1 = c0 + 16 * c_stride;
            const bf16 *a0 = a + row * a_stride, *a1 = a0 + 16 * a_stride;
            const bf16 *b0 = b + column / 16 * b_stride, *b1 = b0 + b_stride;
            if (add) {
                TILE_LOAD(0, c0, c_bytes);
                TILE_LOAD(1, c0 + 16, c_bytes);
                TILE_LOAD(2, c1, c_bytes);
                TILE_LOAD(3, c1 + 16, c_bytes);
            } else {
                TILE_ZERO(0);
                TILE_ZERO(1);
                TILE_ZERO(2);
                TILE_ZERO(3);
            }
            for (int k = 0; k < depth; k += 32) {
                TILE_LOAD(4, a0 + k, a_bytes);
                TILE_LOAD(6, b0 + k * 16, 64);
                TILE_PRODUCT(0, 4, 6);
                TILE_LOAD(7, b1 + k * 16, 64);
                TILE_PRODUCT(1, 4, 7);
                TILE_LOAD(5, a1 + k, a_bytes);
                TILE_PRODUCT(2, 5, 6);
                TILE_PRODUCT(3, 5, 7);
            }
            TILE_STORE(0, c0, c_bytes);
            TILE_STORE(1, c0 + 16, c_bytes);
            TILE_STORE(2, c1, c_bytes);
            TILE_STORE(3, c1 + 16, c_bytes);
        }
}

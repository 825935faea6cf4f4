// From tensors to the operands of products.h, padded with zeros to blocks of 32.
#pragma once

#include "products.h"

// A LANES x LANES block turned around its diagonal, in registers.
INLINE void transpose(Vec* rows) {
    for (int half = 1; half < LANES; half *= 2) {
        VecInt low, high;
        for (int i = 0; i < LANES; i++) {
            low[i] = i & half ? i - half + LANES : i;
            high[i] = i & half ? i + LANES : i + half;
        }
        for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            Vec first = __builtin_shuffle(rows[i], rows[i + half], low);
            rows[i + half] = __builtin_shuffle(rows[i], rows[i + half], high);
            rows[i] = first;
        }
    }
}

// to[column][row] = from[row][column]; rows and columns are multiples of 16, strides in numbers.
template <class To, class From>
INLINE void transpose(To* to, long to_stride, const From* from, long from_stride, long rows,
                      long columns) {
    for (long row = 0; row < rows; row += LANES)
        for (long column = 0; column < columns; column += LANES) {
            Vec block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load(from + (row + i) * from_stride + column);
            transpose(block);
            for (int i = 0; i < LANES; i++) store(to + (column + i) * to_stride + row, block[i]);
        }
}

// [rows][width] numbers, a row every `stride`, to [padded_rows][padded_width].
template <class T>
INLINE void pack_rows(T* to, long padded_rows, long padded_width, const T* from, long stride,
                      long rows, long width) {
    for (long row = 0; row < padded_rows; row++) {
        long filled = row < rows ? width : 0;
        if (filled) memcpy(to + row * padded_width, from + row * stride, filled * sizeof(T));
        memset((void*)(to + row * padded_width + filled), 0, (padded_width - filled) * sizeof(T));
    }
}

// The panels of B = X^T (depth: columns of X), X being padded rows: 16 rows make a panel.
// Numbers that belong together stay together, as 4 bytes.
template <class T>
INLINE void pack_transposed(T* panels, const T* x, long rows, long width) {
    const long units = width / GROUP<T>;
    for (long row = 0; row < rows; row += PANEL)
        transpose((float*)(panels + row * width), PANEL, (const float*)(x + row * width), units,
                  PANEL, units);
}

// One lane of B for two steps of depth: bf16 of `first` below, of `second` above.
INLINE Vec pair(Vec first, Vec second) {
    return (Vec)((rounded(first) >> 16) | (rounded(second) & 0xffff0000u));
}

// Two rows of B, at step `row` of its depth, that stand in registers.
INLINE void store_rows(float* panel, long row, Vec first, Vec second) {
    store(panel + row * PANEL, first);
    store(panel + (row + 1) * PANEL, second);
}

INLINE void store_rows(bf16* panel, long row, Vec first, Vec second) {
    store((float*)panel + row / 2 * PANEL, pair(first, second));
}

// What stands between a layer's products: normalisation, rotation, gated activation, dropout.
//
// Numbers are rounded to T where the plain path rounds them, so that both give the same model.
// Shapes: N tokens, D hidden size, H heads, d head dimension. Arrays are contiguous.

#include "vectors.h"

namespace {

// body(at, size) for whole vectors of LANES numbers, then for what is left.
template <class Body>
INLINE void for_each(long count, const Body& body) {
    long at = 0;
    for (; at + LANES <= count; at += LANES) body(at, LANES);
    if (at < count) body(at, count - at);
}

// The first numbers of a vector, zeros behind them.
template <class T>
INLINE Vec load_some(const T* from, long count) {
    if (count == LANES) return load(from);
    Vec v = {};
    for (long i = 0; i < count; i++) v[i] = widen(from[i]);
    return v;
}

template <class T>
INLINE void store_some(T* to, Vec v, long count) {
    if (count == LANES) return store(to, v);
    for (long i = 0; i < count; i++) narrow(to + i, v[i]);
}

// As stored and read again.
template <class T>
INLINE Vec as_stored(Vec v) {
    return sizeof(T) == 4 ? v : (Vec)(rounded(v) & 0xffff0000u);
}

// total = x + branch (without a branch x is read as it is), out = total / rms(total) * weight.
template <class T>
void norm_forward(const T* x, const T* branch, const T* weight, T* total, T* out, float* inverse_rms,
                  long tokens, long size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long token = 0; token < tokens; token++) {
        const T *row = x + token * size, *added = branch + token * size;
        if (branch) {
            T* sums = total + token * size;
            for_each(size, [&](long at, long count) {
                Vec both = load_some(row + at, count) + load_some(added + at, count);
                store_some(sums + at, both, count);
            });
            row = sums;
        }
        Vec squares = {};
        for_each(size, [&](long at, long count) {
            Vec v = load_some(row + at, count);
            squares += v * v;
        });
        const float inverse = 1 / __builtin_sqrtf(sum(squares) / size + eps);
        inverse_rms[token] = inverse;
        T* to = out + token * size;
        for_each(size, [&](long at, long count) {
            Vec normed = as_stored<T>(load_some(row + at, count) * inverse);
            store_some(to + at, normed * load_some(weight + at, count), count);
        });
    }
}

// grad_x from the gradients of out and of total (null: there is none). grad_weight [threads, D], if
// wanted, holds the sum of each thread's share of the tokens.
template <class T>
void norm_backward(const T* grad_out, const T* grad_total, const T* total, const T* weight,
                   const float* inverse_rms, T* grad_x, float* grad_weight, long tokens, long size,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        float* shares = grad_weight ? grad_weight + thread * size : nullptr;
        for (long token = tokens * thread / threads; token < tokens * (thread + 1) / threads;
             token++) {
            const T *grad = grad_out + token * size, *row = total + token * size;
            const float inverse = inverse_rms[token];
            Vec products = {};
            for_each(size, [&](long at, long count) {
                products += load_some(grad + at, count) * load_some(weight + at, count) *
                            load_some(row + at, count);
            });
            const float slope = sum(products) / size * inverse * inverse * inverse;
            T* to = grad_x + token * size;
            const T* direct = grad_total ? grad_total + token * size : nullptr;
            for_each(size, [&](long at, long count) {
                Vec g = load_some(grad + at, count), v = load_some(row + at, count);
                Vec value = g * load_some(weight + at, count) * inverse - v * slope;
                if (direct) value += load_some(direct + at, count);
                store_some(to + at, value, count);
                if (!shares) return;
                Vec share = load_some(shares + at, count) + g * as_stored<T>(v * inverse);
                store_some(shares + at, share, count);
            });
        }
    }
}

// Rotate heads [N, H, d] by the angles whose cosines and sines are [N, d] (both halves equal);
// direction -1 turns back, which is the derivative.
template <class T>
void rotate(const T* x, const T* cosines, const T* sines, T* out, long tokens, long heads, long dim,
            float direction, int threads) {
    const long half = dim / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long token = 0; token < tokens; token++)
        for (long head = 0; head < heads; head++) {
            const T *first = x + (token * heads + head) * dim, *second = first + half;
            const T *cosine = cosines + token * dim, *sine = sines + token * dim;
            T *to_first = out + (token * heads + head) * dim, *to_second = to_first + half;
            for_each(half, [&](long at, long count) {
                Vec a = load_some(first + at, count), b = load_some(second + at, count);
                Vec c = load_some(cosine + at, count), s = load_some(sine + at, count) * direction;
                store_some(to_first + at, as_stored<T>(a * c) - as_stored<T>(b * s), count);
                store_some(to_second + at, as_stored<T>(b * c) + as_stored<T>(a * s), count);
            });
        }
}

INLINE Vec sigmoid(Vec x) {
    Vec power = x * -LOG2_E;
    // Beyond, the power is no float; the result is 0 to float32 long before.
    power = choose(power > splat(126.0f), splat(126.0f), power);
    return 1.0f / (1.0f + exp2_of<6>(power));
}

constexpr long CHUNK = 4096;  // numbers that a thread takes at a time

// out = silu(gate) * up (Shazeer 2020)
template <class T>
void swiglu_forward(const T* gate, const T* up, T* out, long count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < count; chunk += CHUNK)
        for_each(count - chunk < CHUNK ? count - chunk : CHUNK, [&](long offset, long size) {
            const long at = chunk + offset;
            Vec g = load_some(gate + at, size);
            Vec activated = as_stored<T>(g * sigmoid(g));
            store_some(out + at, activated * load_some(up + at, size), size);
        });
}

template <class T>
void swiglu_backward(const T* grad, const T* gate, const T* up, T* grad_gate, T* grad_up, long count,
                     int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < count; chunk += CHUNK)
        for_each(count - chunk < CHUNK ? count - chunk : CHUNK, [&](long offset, long size) {
            const long at = chunk + offset;
            Vec g = load_some(gate + at, size), u = load_some(up + at, size);
            Vec slope = load_some(grad + at, size), s = sigmoid(g);
            store_some(grad_gate + at, slope * u * s * (1.0f + g * (1.0f - s)), size);
            store_some(grad_up + at, slope * as_stored<T>(g * s), size);
        });
}

// 32 well mixed bits (Wellons 2018, "lowbias32").
template <class Bits>
INLINE Bits mixed(Bits x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// out = x where the draw of (seed, place) falls on `keep` (of 2^32), scaled; elsewhere 0.
// The same seed draws the same mask, so that none is stored for the derivative.
template <class T>
void dropout(const T* x, T* out, uint64_t seed, uint32_t keep, float scale, long rows,
             long size, int threads) {
    VecBits places;
    for (int i = 0; i < LANES; i++) places[i] = i;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++) {
        const uint32_t key = mixed((uint32_t)row ^ mixed((uint32_t)seed)) ^ (uint32_t)(seed >> 32);
        for_each(size, [&](long at, long count) {
            VecBits draw = mixed(places + (uint32_t)at + key);
            Vec kept = choose(draw < keep, load_some(x + row * size + at, count) * scale, Vec{});
            store_some(out + row * size + at, kept, count);
        });
    }
}

}  // namespace

#define LAYERS(NAME, T)                                                                           \
    extern "C" int  norm_forward_##NAME(const T* x, const T* branch, const T* weight, T* total,   \
                                        T* out, float* inverse_rms, long tokens, long size,       \
                                        float eps, int threads) {                                 \
        norm_forward(x, branch, weight, total, out, inverse_rms, tokens, size, eps, threads);     \
        return 0;                                                                                \
    }                                                                                             \
    extern "C" int  norm_backward_##NAME(const T* grad_out, const T* grad_total, const T* total,  \
                                         const T* weight, const float* inverse_rms, T* grad_x,    \
                                         float* grad_weight, long tokens, long size,              \
                                         int threads) {                                           \
        norm_backward(grad_out, grad_total, total, weight, inverse_rms, grad_x, grad_weight,      \
                      tokens, size, threads);                                                     \
        return 0;                                                                                \
    }                                                                                             \
    extern "C" int  rotate_##NAME(const T* x, const T* cosines, const T* sines, T* out,           \
                                  long tokens, long heads, long dim, float direction,             \
                                  int threads) {                                                  \
        rotate(x, cosines, sines, out, tokens, heads, dim, direction, threads);                   \
        return 0;                                                                                \
    }                                                                                             \
    extern "C" int  swiglu_forward_##NAME(const T* gate, const T* up, T* out, long count,         \
                                          int threads) {                                          \
        swiglu_forward(gate, up, out, count, threads);                                            \
        return 0;                                                                                \
    }                                                                                             \
    extern "C" int  swiglu_backward_##NAME(const T* grad, const T* gate, const T* up,             \
                                           T* grad_gate, T* grad_up, long count, int threads) {   \
        swiglu_backward(grad, gate, up, grad_gate, grad_up, count, threads);                      \
        return 0;                                                                                \
    }                                                                                             \
    extern "C" int  dropout_##NAME(const T* x, T* out, uint64_t seed, uint32_t keep,     \
                                   float scale, long rows, long size, int threads) {              \
        dropout(x, out, seed, keep, scale, rows, size, threads);                             \
        return 0;                                                                                \
    }

LAYERS(float32, float)
LAYERS(bfloat16, bf16)

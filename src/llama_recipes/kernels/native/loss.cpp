// Cross-entropy of rows of logits and its derivative, in the memory of the logits.
// Shapes: S rows, V vocabulary.

#include "vectors.h"

namespace {

// losses[row] = log sum exp(logits[row]) - logits[row][target]; then, if wanted, the logits become
// softmax - onehot(target).
template <class T>
void cross_entropy(T* logits, const int64_t* targets, float* losses, bool differentiate, long rows,
                   long vocabulary, int threads) {
    constexpr int DEGREE = sizeof(T) == 4 ? 6 : 4;
    const long whole = vocabulary / LANES * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++) {
        T* logit = logits + row * vocabulary;
        const float at_target = widen(logit[targets[row]]);
        Vec tops[4];
        for (Vec& top : tops) top = splat(-__builtin_inff());
        long at = 0;
        for (; at + 4 * LANES <= whole; at += 4 * LANES)
            for (int i = 0; i < 4; i++) tops[i] = larger(tops[i], load(logit + at + i * LANES));
        for (; at < whole; at += LANES) tops[0] = larger(tops[0], load(logit + at));
        float top = largest(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3])));
        for (; at < vocabulary; at++) top = widen(logit[at]) > top ? widen(logit[at]) : top;

        const float offset = top * LOG2_E;
        Vec sums[2] = {};
        for (at = 0; at + 2 * LANES <= whole; at += 2 * LANES)
            for (int i = 0; i < 2; i++)
                sums[i] += exp2_of<DEGREE>(load(logit + at + i * LANES) * LOG2_E - offset);
        for (; at < whole; at += LANES) sums[0] += exp2_of<DEGREE>(load(logit + at) * LOG2_E - offset);
        float total = sum(sums[0] + sums[1]);
        for (; at < vocabulary; at++) total += __builtin_exp2f(widen(logit[at]) * LOG2_E - offset);

        const float log_sum = offset + __builtin_log2f(total);
        losses[row] = log_sum * LN_2 - at_target;
        if (!differentiate) continue;
        for (at = 0; at < whole; at += LANES)
            store(logit + at, exp2_of<DEGREE>(load(logit + at) * LOG2_E - log_sum));
        for (; at < vocabulary; at++)
            narrow(logit + at, __builtin_exp2f(widen(logit[at]) * LOG2_E - log_sum));
        narrow(logit + targets[row], __builtin_exp2f(at_target * LOG2_E - log_sum) - 1);
    }
}

}  // namespace

#define LOSS(NAME, T)                                                                              \
    extern "C" int  cross_entropy_##NAME(T* logits, const int64_t* targets, float* losses,        \
                                         int differentiate, long rows, long vocabulary,           \
                                         int threads) {                                           \
        cross_entropy(logits, targets, losses, differentiate, rows, vocabulary, threads);         \
        return 0;                                                                                 \
    }

LOSS(float32, float)
LOSS(bfloat16, bf16)

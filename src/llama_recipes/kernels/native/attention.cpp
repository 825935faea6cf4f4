// Causal attention within documents, forward and backward, without ever holding all scores
// (FlashAttention-2, Dao 2023, https://arxiv.org/abs/2307.08691).
//
// Scores stand transposed, keys as rows and queries as lanes: maxima, sums and the terms of the
// softmax's derivative are then vertical, and what one product leaves is what the next one reads.
// Queries go in strips of 32; keys end where the strip does, so that only the last 32 x 32 scores of
// a strip need a mask. Every task's arithmetic is its own: results do not depend on which thread
// runs it, nor on how many there are.
//
// Shapes: N tokens of all documents, H heads, K key/value heads, d head dimension, D = d padded to
// 32. q and out [N, H, d], k and v [N, K, d], log_sum [H, N] in powers of two.

#include <algorithm>
#include <atomic>
#include <vector>

#include "packing.h"
#include "workspace.h"

namespace {

constexpr int STRIP = 32;
constexpr int STRIPS = 4;                  // that share one pass over the keys
constexpr int QUERIES = STRIPS * STRIP;
constexpr long FORWARD_QUERIES = 512;      // of a forward task
constexpr long WHOLE_KEYS = 1024;          // a document's backward is one task up to here
constexpr long PARTS = 4;                  // and this many beyond

template <class T>
constexpr int KEYS = sizeof(T) == 4 ? 64 : 128;  // held in the cache at a time

struct Task {
    long start, length;  // the document
    int kv_head;
    long first, count;   // its queries (forward), its keys (backward)
    long partial;        // where the task's part of dQ stands, -1: it is the whole
    double cost;
};

struct Shape {
    const int64_t* starts;  // [documents + 1]
    int documents, heads, kv_heads, dim, threads;
    float scale;

    long tokens() const { return starts[documents]; }
    int group() const { return heads / kv_heads; }
    long padded() const { return round_up(dim); }
};

void longest_first(std::vector<Task>& tasks) {
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const Task& a, const Task& b) { return a.cost > b.cost; });
}

// Write columns of [D][32], one for each query of the strip, as rows of a tensor.
template <class T>
void write_rows(T* to, long stride, const float* columns, float* turned, long rows, long dim,
                long padded) {
    transpose(turned, padded, columns, STRIP, padded, STRIP);
    for (long row = 0; row < rows; row++) {
        long at = 0;
        for (; at + LANES <= dim; at += LANES)
            store(to + row * stride + at, load(turned + row * padded + at));
        for (; at < dim; at++) narrow(to + row * stride + at, turned[row * padded + at]);
    }
}

// In the last 32 x 32 scores of a strip, a key that comes after the query.
INLINE VecInt is_hidden(int key, int lane) { return lane_numbers() + lane < key; }

template <class T>
class Forward {
  public:
    Forward(const Shape& shape, const T* q, const T* k, const T* v, T* out, float* log_sum)
        : shape(shape), q(q), k(k), v(v), out(out), log_sum(log_sum), dim(shape.dim),
          padded(shape.padded()) {}

    std::vector<Task> tasks() const {
        std::vector<Task> tasks;
        for (int document = 0; document < shape.documents; document++) {
            long start = shape.starts[document], length = shape.starts[document + 1] - start;
            for (long first = 0; first < length; first += FORWARD_QUERIES) {
                long count = std::min(FORWARD_QUERIES, length - first);
                for (int head = 0; head < shape.kv_heads; head++)
                    tasks.push_back({start, length, head, first, count, -1,
                                     (double)count * (2 * first + count)});
            }
        }
        longest_first(tasks);
        return tasks;
    }

    bool run(const Task& task, Workspace& space) const {
        const long keys = round_up(task.first + task.count);
        if (!space.reserve(2 * space.bytes<T>(keys * padded) + space.bytes<T>(QUERIES * padded) +
                           space.bytes<T>(STRIP * padded) + space.bytes<float>(KEYS<T> * STRIP) +
                           space.bytes<T>(KEYS<T> * STRIP) +
                           space.bytes<float>(QUERIES * padded) +
                           space.bytes<float>(STRIP * padded)))
            return false;
        T* k_rows = space.take<T>(keys * padded);
        T* v_columns = space.take<T>(keys * padded);
        Strips work;
        work.queries = space.take<T>(QUERIES * padded);
        work.rows = space.take<T>(STRIP * padded);
        work.scores = space.take<float>(KEYS<T> * STRIP);
        work.weights = space.take<T>(KEYS<T> * STRIP);
        work.sums = space.take<float>(QUERIES * padded);
        work.turned = space.take<float>(STRIP * padded);

        const long stride = (long)shape.kv_heads * dim, at = task.start * stride + task.kv_head * dim;
        const long count = task.first + task.count;
        pack_rows(k_rows, keys, padded, v + at, stride, count, dim);
        transpose(v_columns, keys, k_rows, padded, keys, padded);
        pack_rows(k_rows, keys, padded, k + at, stride, count, dim);
        for (int member = 0; member < shape.group(); member++)
            for (long first = task.first; first < count; first += QUERIES)
                pass(task, task.kv_head * shape.group() + member, first, k_rows, v_columns, keys,
                     work);
        return true;
    }

  private:
    struct Strips {
        T *queries, *rows, *weights;
        float *scores, *sums, *turned;
        float top[QUERIES], total[QUERIES];
    };

    // QUERIES queries of one head over all keys that they see.
    void pass(const Task& task, int head, long first, const T* k_rows, const T* v_columns,
              long keys, Strips& work) const {
        const long stride = (long)shape.heads * dim, end = task.first + task.count;
        const int strips = (int)((std::min(end - first, (long)QUERIES) + STRIP - 1) / STRIP);
        for (int strip = 0; strip < strips; strip++) {
            long query = first + strip * STRIP;
            pack_rows(work.rows, STRIP, padded, q + (task.start + query) * stride + head * dim,
                      stride, std::min((long)STRIP, end - query), dim);
            pack_transposed(work.queries + strip * STRIP * padded, work.rows, STRIP, padded);
        }
        for (long key = 0; key < first + strips * STRIP; key += KEYS<T>)
            for (int strip = 0; strip < strips; strip++) {
                long query_end = first + (strip + 1) * STRIP;
                if (key >= query_end) continue;
                int count = (int)std::min((long)KEYS<T>, query_end - key);
                float* sums = work.sums + strip * STRIP * padded;
                product(Operands<T>{work.scores, STRIP, k_rows + key * padded, padded,
                                    work.queries + strip * STRIP * padded, PANEL * padded},
                        count, STRIP, (int)padded, false);
                weigh(work, strip, count, key == 0, key + count == query_end);
                product(Operands<T>{sums, STRIP, v_columns + key, keys, work.weights,
                                    PANEL * KEYS<T>},
                        (int)padded, STRIP, count, key > 0);
            }
        for (int strip = 0; strip < strips; strip++)
            finish(task, head, first + strip * STRIP, end, strip, work);
    }

    // Scores to weights, relative to the largest score so far; what was summed before is rescaled.
    void weigh(Strips& work, int strip, int count, bool is_first, bool has_diagonal) const {
        const Vec unit = splat(shape.scale * LOG2_E);
        const int masked = has_diagonal ? count - BLOCK : count;
        float* sums = work.sums + strip * STRIP * padded;
        for (int lane = 0; lane < STRIP; lane += LANES) {
            float *top_at = work.top + strip * STRIP + lane, *total_at = work.total + strip * STRIP + lane;
            float* column = work.scores + lane;
            T* weights = work.weights + lane / PANEL * PANEL * KEYS<T> + lane % PANEL * GROUP<T>;
            Vec lowest = splat(-__builtin_inff());
            for (int key = masked; key < count; key++)
                store(column + key * STRIP,
                      choose(is_hidden(key - masked, lane), lowest, load(column + key * STRIP)));
            Vec tops[4] = {is_first ? lowest : load(top_at), lowest, lowest, lowest};
            for (int key = 0; key < count; key += 4)
                for (int i = 0; i < 4; i++)
                    tops[i] = larger(tops[i], load(column + (key + i) * STRIP));
            Vec top = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
            Vec offset = top * unit, total = {};
            for (int key = 0; key < count; key += 2) {
                Vec two[2];
                for (int i = 0; i < 2; i++) {
                    two[i] = exp2_of<EXP_DEGREE<T>>(load(column + (key + i) * STRIP) * unit - offset);
                    if (key >= masked) two[i] = choose(is_hidden(key + i - masked, lane), Vec{}, two[i]);
                    total += two[i];
                }
                store_rows(weights, key, two[0], two[1]);
            }
            if (!is_first) {
                Vec rescale = exp2_of<EXP_DEGREE<T>>(load(top_at) * unit - offset);
                total += load(total_at) * rescale;
                for (long row = 0; row < padded; row++)
                    store(sums + row * STRIP + lane, load(sums + row * STRIP + lane) * rescale);
            }
            store(top_at, top);
            store(total_at, total);
        }
    }

    void finish(const Task& task, int head, long query, long end, int strip, Strips& work) const {
        const float* total = work.total + strip * STRIP;
        float* sums = work.sums + strip * STRIP * padded;
        for (int lane = 0; lane < STRIP; lane += LANES) {
            Vec inverse = 1.0f / load(total + lane);
            for (long row = 0; row < padded; row++)
                store(sums + row * STRIP + lane, load(sums + row * STRIP + lane) * inverse);
        }
        const long rows = std::min((long)STRIP, end - query), stride = (long)shape.heads * dim;
        write_rows(out + (task.start + query) * stride + head * dim, stride, sums, work.turned,
                   rows, dim, padded);
        for (long row = 0; row < rows; row++)
            log_sum[head * shape.tokens() + task.start + query + row] =
                work.top[strip * STRIP + row] * shape.scale * LOG2_E + __builtin_log2f(total[row]);
    }

    const Shape& shape;
    const T *q, *k, *v;
    T* out;
    float* log_sum;
    const long dim, padded;
};

template <class T>
struct Gradients {
    const T *q, *k, *v, *out, *grad_out;
    const float* log_sum;
    T *grad_q, *grad_k, *grad_v;
};

template <class T>
class Backward {
  public:
    Backward(const Shape& shape, const Gradients<T>& x)
        : shape(shape), x(x), dim(shape.dim), padded(shape.padded()) {}

    // Also sets how many numbers the parts of dQ take, of documents with more than one task a head.
    std::vector<Task> tasks(long& partials) const {
        std::vector<Task> tasks;
        partials = 0;
        for (int document = 0; document < shape.documents; document++) {
            long start = shape.starts[document], length = shape.starts[document + 1] - start;
            long size = part_keys(length);
            for (int head = 0; head < shape.kv_heads; head++)
                for (long first = 0; first < length; first += size) {
                    long count = std::min(size, length - first), queries = round_up(length) - first;
                    bool is_whole = size >= length;
                    tasks.push_back({start, length, head, first, count, is_whole ? -1 : partials,
                                     (double)count * (2 * queries - count)});
                    if (!is_whole) partials += shape.group() * queries * padded;
                }
        }
        longest_first(tasks);
        return tasks;
    }

    bool run(const Task& task, Workspace& space, float* partials) const {
        const long keys = round_up(task.count), queries = round_up(task.length) - task.first;
        const bool is_whole = task.partial < 0;
        size_t bytes = 3 * space.bytes<T>(keys * padded) + 2 * space.bytes<float>(keys * padded) +
                       4 * space.bytes<T>(queries * padded) + 2 * space.bytes<float>(queries) +
                       2 * space.bytes<T>(STRIP * padded) +
                       2 * space.bytes<float>(KEYS<T> * STRIP) + 2 * space.bytes<T>(KEYS<T> * QUERIES) +
                       space.bytes<T>(KEYS<T> * STRIP) + space.bytes<float>(STRIP * padded);
        if (is_whole) bytes += space.bytes<float>(queries * padded);
        if (!space.reserve(bytes)) return false;
        Work work;
        work.k_rows = space.take<T>(keys * padded);
        work.v_rows = space.take<T>(keys * padded);
        work.k_columns = space.take<T>(keys * padded);
        work.grad_k = space.take<float>(keys * padded);
        work.grad_v = space.take<float>(keys * padded);
        work.q_lanes = space.take<T>(queries * padded);
        work.q_panels = space.take<T>(queries * padded);
        work.grad_lanes = space.take<T>(queries * padded);
        work.grad_panels = space.take<T>(queries * padded);
        work.delta = space.take<float>(queries);
        work.log_sum = space.take<float>(queries);
        work.rows = space.take<T>(STRIP * padded);
        work.grad_rows = space.take<T>(STRIP * padded);
        work.scores = space.take<float>(KEYS<T> * STRIP);
        work.slopes = space.take<float>(KEYS<T> * STRIP);
        work.weight_rows = space.take<T>(KEYS<T> * QUERIES);
        work.slope_rows = space.take<T>(KEYS<T> * QUERIES);
        work.slope_panels = space.take<T>(KEYS<T> * STRIP);
        work.turned = space.take<float>(STRIP * padded);
        work.keys = keys;
        work.queries = queries;

        const long stride = (long)shape.kv_heads * dim;
        const long at = (task.start + task.first) * stride + task.kv_head * dim;
        pack_rows(work.k_rows, keys, padded, x.k + at, stride, task.count, dim);
        pack_rows(work.v_rows, keys, padded, x.v + at, stride, task.count, dim);
        transpose(work.k_columns, keys, work.k_rows, padded, keys, padded);
        memset(work.grad_k, 0, keys * padded * sizeof(float));
        memset(work.grad_v, 0, keys * padded * sizeof(float));
        float* own = is_whole ? space.take<float>(queries * padded) : nullptr;
        for (int member = 0; member < shape.group(); member++) {
            float* grad_q = is_whole ? own : partials + task.partial + member * queries * padded;
            const int head = task.kv_head * shape.group() + member;
            memset(grad_q, 0, queries * padded * sizeof(float));
            pack_queries(task, head, work);
            for (long key = 0; key < keys; key += KEYS<T>) pass(key, grad_q, work);
            if (!is_whole) continue;
            for (long query = 0; query < task.length; query += STRIP)
                write_queries(task.start, task.length, head, query, grad_q + query * padded,
                              work.turned);
        }
        for (long i = 0; i < keys * padded; i++) work.grad_k[i] *= shape.scale;
        write_keys(x.grad_k + at, stride, work.grad_k, task.count);
        write_keys(x.grad_v + at, stride, work.grad_v, task.count);
        return true;
    }

    // Sum the parts of dQ of the strip that begins at `query`, in the order of the keys.
    bool reduce(long start, long length, int head, long query, const std::vector<Task>& parts,
                const float* partials, Workspace& space) const {
        if (!space.reserve(2 * space.bytes<float>(STRIP * padded))) return false;
        float* total = space.take<float>(STRIP * padded);
        float* turned = space.take<float>(STRIP * padded);
        memset(total, 0, STRIP * padded * sizeof(float));
        for (const Task& task : parts) {
            if (query < task.first) continue;
            long queries = round_up(length) - task.first;
            const float* part = partials + task.partial + head % shape.group() * queries * padded +
                                (query - task.first) * padded;
            for (long i = 0; i < STRIP * padded; i++) total[i] += part[i];
        }
        write_queries(start, length, head, query, total, turned);
        return true;
    }

  private:
    struct Work {
        T *k_rows, *v_rows, *k_columns, *q_lanes, *q_panels, *grad_lanes, *grad_panels, *rows,
            *grad_rows, *weight_rows, *slope_rows, *slope_panels;
        float *grad_k, *grad_v, *delta, *log_sum, *scores, *slopes, *turned;
        long keys, queries;
    };

    static long part_keys(long length) {
        if (length <= WHOLE_KEYS) return std::max(length, 1L);
        return std::max(WHOLE_KEYS, (length + PARTS - 1) / PARTS + QUERIES - 1) / QUERIES * QUERIES;
    }

    // A head's queries and output gradients from the task's first key on, both as lanes (B of the
    // products over d) and as panels (B of the products over queries).
    void pack_queries(const Task& task, int head, Work& work) const {
        const long stride = (long)shape.heads * dim;
        for (long query = 0; query < work.queries; query += STRIP) {
            const long token = task.start + task.first + query;
            const long rows = std::max(0L, std::min((long)STRIP, task.length - task.first - query));
            const long at = token * stride + head * dim;
            pack_rows(work.rows, STRIP, padded, x.q + at, stride, rows, dim);
            pack_rows(work.grad_rows, STRIP, padded, x.grad_out + at, stride, rows, dim);
            pack_transposed(work.q_lanes + query * padded, work.rows, STRIP, padded);
            pack_transposed(work.grad_lanes + query * padded, work.grad_rows, STRIP, padded);
            panels(work.q_panels, work.queries, query, work.rows);
            panels(work.grad_panels, work.queries, query, work.grad_rows);
            for (long row = 0; row < STRIP; row++) {
                float delta = 0;
                for (long i = 0; row < rows && i < dim; i++)
                    delta += widen(x.out[at + row * stride + i]) * widen(x.grad_out[at + row * stride + i]);
                work.delta[query + row] = delta;
                work.log_sum[query + row] =
                    row < rows ? x.log_sum[head * shape.tokens() + token + row] : 0;
            }
        }
    }

    // 32 rows, from step `row` on, of panels that have `steps` of them.
    void panels(T* to, long steps, long row, const T* rows) const {
        for (long column = 0; column < padded; column += LANES) {
            T* panel = to + column / PANEL * steps * PANEL + column % PANEL * GROUP<T>;
            for (long i = 0; i < STRIP; i += 2)
                store_rows(panel, row + i, load(rows + i * padded + column),
                           load(rows + (i + 1) * padded + column));
        }
    }

    // KEYS keys over all queries that see them.
    void pass(long key, float* grad_q, Work& work) const {
        const int count = (int)std::min((long)KEYS<T>, work.keys - key);
        for (long first = key; first < work.queries; first += QUERIES) {
            const int queries = (int)std::min((long)QUERIES, work.queries - first);
            for (int at = 0; at < queries; at += STRIP) {
                const long query = first + at;
                const int seen = (int)std::min((long)count, query + STRIP - key);
                const T *lanes = work.q_lanes + query * padded, *grads = work.grad_lanes + query * padded;
                product(Operands<T>{work.scores, STRIP, work.k_rows + key * padded, padded, lanes,
                                    PANEL * padded},
                        seen, STRIP, (int)padded, false);
                product(Operands<T>{work.slopes, STRIP, work.v_rows + key * padded, padded, grads,
                                    PANEL * padded},
                        seen, STRIP, (int)padded, false);
                differentiate(work, query, at, seen, count, key + seen == query + STRIP);
                product(Operands<T>{grad_q + query * padded, STRIP, work.k_columns + key, work.keys,
                                    work.slope_panels, PANEL * KEYS<T>},
                        (int)padded, STRIP, seen, true);
            }
            product(Operands<T>{work.grad_v + key * padded, padded, work.weight_rows, QUERIES,
                                work.grad_panels + first * PANEL, work.queries * PANEL},
                    count, (int)padded, queries, true);
            product(Operands<T>{work.grad_k + key * padded, padded, work.slope_rows, QUERIES,
                                work.q_panels + first * PANEL, work.queries * PANEL},
                    count, (int)padded, queries, true);
        }
    }

    // From scores and d loss / d weights of a strip: the weights, and d loss / d scores.
    void differentiate(Work& work, long query, int at, int seen, int count, bool has_diagonal) const {
        const Vec unit = splat(shape.scale * LOG2_E);
        const int masked = has_diagonal ? seen - BLOCK : seen;
        for (int lane = 0; lane < STRIP; lane += LANES) {
            const Vec log_sum = load(work.log_sum + query + lane), delta = load(work.delta + query + lane);
            T* panel = work.slope_panels + lane / PANEL * PANEL * KEYS<T> + lane % PANEL * GROUP<T>;
            T *weights = work.weight_rows + at + lane, *slopes = work.slope_rows + at + lane;
            for (int key = 0; key < seen; key += 2) {
                Vec slope[2];
                for (int i = 0; i < 2; i++) {
                    const int row = key + i;
                    Vec weight = exp2_of<EXP_DEGREE<T>>(load(work.scores + row * STRIP + lane) * unit - log_sum);
                    if (row >= masked) weight = choose(is_hidden(row - masked, lane), Vec{}, weight);
                    slope[i] = weight * (load(work.slopes + row * STRIP + lane) - delta);
                    store(weights + (long)row * QUERIES, weight);
                    store(slopes + (long)row * QUERIES, slope[i]);
                }
                store_rows(panel, key, slope[0], slope[1]);
            }
            for (int row = seen; row < count; row++) {
                store(weights + (long)row * QUERIES, Vec{});
                store(slopes + (long)row * QUERIES, Vec{});
            }
        }
    }

    void write_queries(long start, long length, int head, long query, float* columns,
                       float* turned) const {
        for (long i = 0; i < STRIP * padded; i++) columns[i] *= shape.scale;
        const long stride = (long)shape.heads * dim;
        write_rows(x.grad_q + (start + query) * stride + head * dim, stride, columns, turned,
                   std::min((long)STRIP, length - query), dim, padded);
    }

    void write_keys(T* to, long stride, const float* from, long rows) const {
        for (long row = 0; row < rows; row++)
            for (long i = 0; i < dim; i++) narrow(to + row * stride + i, from[row * padded + i]);
    }

    const Shape& shape;
    const Gradients<T>& x;
    const long dim, padded;
};

// Run body(index, workspace) for 0 <= index < count on all threads; false where memory ran out.
template <class Body>
bool in_parallel(long count, int threads, const Body& body) {
    std::atomic<bool> has_memory{true};
#pragma omp parallel num_threads(threads)
    {
        static thread_local Workspace space;
        start_tiles();
#pragma omp for schedule(dynamic, 1)
        for (long index = 0; index < count; index++)
            if (!body(index, space)) has_memory = false;
        end_tiles();
    }
    return has_memory;
}

template <class T>
bool forward(const Shape& shape, const T* q, const T* k, const T* v, T* out, float* log_sum) {
    Forward<T> kernel(shape, q, k, v, out, log_sum);
    std::vector<Task> tasks = kernel.tasks();
    return in_parallel((long)tasks.size(), shape.threads, [&](long index, Workspace& space) {
        return kernel.run(tasks[index], space);
    });
}

template <class T>
bool backward(const Shape& shape, const Gradients<T>& x) {
    Backward<T> kernel(shape, x);
    long count;
    std::vector<Task> tasks = kernel.tasks(count);
    Workspace shared;
    if (!shared.reserve(shared.bytes<float>(count))) return false;
    float* partials = shared.take<float>(count);
    bool done = in_parallel((long)tasks.size(), shape.threads, [&](long index, Workspace& space) {
        return kernel.run(tasks[index], space, partials);
    });
    if (!done || !count) return done;

    // Tasks of one document and key/value head, in the order of their keys.
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return a.start != b.start ? a.start < b.start
               : a.kv_head != b.kv_head ? a.kv_head < b.kv_head : a.first < b.first;
    });
    for (size_t from = 0, to; from < tasks.size(); from = to) {
        for (to = from; to < tasks.size() && tasks[to].start == tasks[from].start &&
                        tasks[to].kv_head == tasks[from].kv_head;)
            to++;
        const Task& task = tasks[from];
        if (task.partial < 0) continue;
        std::vector<Task> parts(tasks.begin() + from, tasks.begin() + to);
        long strips = round_up(task.length) / STRIP;
        done &= in_parallel(strips * shape.group(), shape.threads, [&](long index, Workspace& space) {
            int head = task.kv_head * shape.group() + (int)(index / strips);
            return kernel.reduce(task.start, task.length, head, index % strips * STRIP, parts,
                                 partials, space);
        });
    }
    return done;
}

}  // namespace

// All return 0, or 1 where memory ran out. Arrays are contiguous; shapes stand at the top.

#define ATTENTION(NAME, T)                                                                        \
    extern "C" int attention_forward_##NAME(                                                      \
        const int64_t* starts, int documents, int heads, int kv_heads, int dim, float scale,      \
        int threads, const T* q, const T* k, const T* v, T* out, float* log_sum) {                \
        Shape shape{starts, documents, heads, kv_heads, dim, threads, scale};                     \
        return !forward(shape, q, k, v, out, log_sum);                                            \
    }                                                                                             \
    extern "C" int attention_backward_##NAME(                                                     \
        const int64_t* starts, int documents, int heads, int kv_heads, int dim, float scale,      \
        int threads, const T* q, const T* k, const T* v, const T* out, const float* log_sum,      \
        const T* grad_out, T* grad_q, T* grad_k, T* grad_v) {                                     \
        Shape shape{starts, documents, heads, kv_heads, dim, threads, scale};                     \
        return !backward(shape, Gradients<T>{q, k, v, out, grad_out, log_sum, grad_q, grad_k,     \
                                             grad_v});                                            \
    }

ATTENTION(float32, float)
ATTENTION(bfloat16, bf16)

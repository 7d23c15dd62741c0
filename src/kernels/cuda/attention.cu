// softmax(q kᵀ · scale) v with 16-bit floats on matrix units, sums in f32: no score leaves the registers.
//
// After FlashAttention-2, Dao (2023): a block takes some queries of a head, a warp 16 of them; keys and values
// come in tiles through two buffers, the next ones on their way while these are multiplied.
#include "numbers.cuh"
#include <cstdint>

typedef long long index_t;

// Powers of 2, not of numbers near the smallest ones.
__device__ __forceinline__ float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <typename T> struct Pair;
template <> struct Pair<__half> {
    static __device__ __forceinline__ uint32_t of(float a, float b) {
        __half2 pair = __floats2half2_rn(a, b);
        return *reinterpret_cast<uint32_t *>(&pair);
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};
template <> struct Pair<__nv_bfloat16> {
    static __device__ __forceinline__ uint32_t of(float a, float b) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
        return *reinterpret_cast<uint32_t *>(&pair);
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                     "{%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

__device__ __forceinline__ uint32_t shared_address(const void *at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ __forceinline__ void load_four(uint32_t (&r)[4], const void *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at)));
}

__device__ __forceinline__ void load_four_turned(uint32_t (&r)[4], const void *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at)));
}

// 16 bytes on their way to shared memory; zeros when they are not there.
__device__ __forceinline__ void fetch(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(there ? 16 : 0));
}
__device__ __forceinline__ void fetch_end() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void fetch_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

// ROWS rows of `width` numbers, `stride` apart, into shared rows of WIDTH + 8 (the 8 keep rows of a matrix in
// different banks); what is beyond `rows` or `width` becomes 0.
template <typename T, int ROWS, int WIDTH, int WARPS>
__device__ __forceinline__ void fetch_rows(T *to, const T *from, index_t stride, int rows, int width) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll
    for (int i = 0; i < (ROWS * CHUNKS + 32 * WARPS - 1) / (32 * WARPS); i++) {
        const int at = i * 32 * WARPS + threadIdx.x;
        const int row = at / CHUNKS, chunk = at % CHUNKS;
        if (row >= ROWS) break;
        const bool there = row < rows && chunk * 8 < width;
        fetch(to + row * (WIDTH + 8) + chunk * 8, there ? from + row * stride + chunk * 8 : from, there);
    }
}

// q, y: [batch, queries, heads * width]; k, v: [batch, keys, heads * width]. `width` is a multiple of 8, WIDTH
// the next multiple of 16 that is compiled. `scale` contains log2(e).
template <typename T, int WIDTH, int WARPS, int KEYS>
__device__ void attention(const T *q, const T *k, const T *v, T *y, int queries, int keys, int heads, int width,
                          float scale) {
    constexpr int QUERIES = 16 * WARPS, ROW = WIDTH + 8, STEPS = WIDTH / 16, COLUMNS = WIDTH / 8;
    extern __shared__ __align__(16) unsigned char memory[];
    T *const shared_q = reinterpret_cast<T *>(memory);
    T *const shared_k = shared_q + QUERIES * ROW;
    T *const shared_v = shared_k + 2 * KEYS * ROW;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.x * QUERIES, head = blockIdx.y;
    const index_t stride = (index_t)heads * width;
    q += ((index_t)blockIdx.z * queries + first) * stride + head * width;
    y += ((index_t)blockIdx.z * queries + first) * stride + head * width;
    k += (index_t)blockIdx.z * keys * stride + head * width;
    v += (index_t)blockIdx.z * keys * stride + head * width;

    const int tiles = (keys + KEYS - 1) / KEYS;
    fetch_rows<T, QUERIES, WIDTH, WARPS>(shared_q, q, stride, queries - first, width);
    fetch_rows<T, KEYS, WIDTH, WARPS>(shared_k, k, stride, keys, width);
    fetch_rows<T, KEYS, WIDTH, WARPS>(shared_v, v, stride, keys, width);
    fetch_end();

    float out[COLUMNS][4] = {};
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    uint32_t of_q[STEPS][4];
    for (int tile = 0; tile < tiles; tile++) {
        T *const tile_k = shared_k + (tile & 1) * KEYS * ROW, *const tile_v = shared_v + (tile & 1) * KEYS * ROW;
        if (tile + 1 < tiles) {
            const int next = (tile + 1) * KEYS, other = (tile + 1) & 1;
            fetch_rows<T, KEYS, WIDTH, WARPS>(shared_k + other * KEYS * ROW, k + next * stride, stride, keys - next, width);
            fetch_rows<T, KEYS, WIDTH, WARPS>(shared_v + other * KEYS * ROW, v + next * stride, stride, keys - next, width);
            fetch_end();
            fetch_wait<1>();
        } else {
            fetch_wait<0>();
        }
        __syncthreads();
        if (tile == 0) {
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                load_four(of_q[s], shared_q + (warp * 16 + lane % 16) * ROW + s * 16 + lane / 16 * 8);
            }
        }

        // Scores: row lane/4 and that plus 8, columns 8·c + 2·(lane%4) and the next.
        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
#pragma unroll
            for (int c = 0; c < KEYS / 8; c += 2) {
                uint32_t b[4]; // keys c·8.., numbers s·16.. and +8; then keys c·8 + 8..
                load_four(b, tile_k + (c * 8 + lane / 16 * 8 + lane % 8) * ROW + s * 16 + lane / 8 % 2 * 8);
                Pair<T>::multiply(scores[c], of_q[s], b[0], b[1]);
                Pair<T>::multiply(scores[c + 1], of_q[s], b[2], b[3]);
            }
        }
        const int left = keys - tile * KEYS;
        if (left < KEYS) {
#pragma unroll
            for (int c = 0; c < KEYS / 8; c++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (c * 8 + lane % 4 * 2 + i % 2 >= left) scores[c][i] = -INFINITY;
                }
            }
        }
        float high[2] = {top[0], top[1]};
#pragma unroll
        for (int c = 0; c < KEYS / 8; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) high[i / 2] = fmaxf(high[i / 2], scores[c][i]);
        }
        float fade[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffff, high[r], 1));
            high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffff, high[r], 2));
            fade[r] = power((top[r] - high[r]) * scale);
            top[r] = high[r];
            total[r] *= fade[r];
            high[r] *= scale;
        }
#pragma unroll
        for (int c = 0; c < KEYS / 8; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[c][i] = power(scores[c][i] * scale - high[i / 2]);
                total[i / 2] += scores[c][i];
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) out[c][i] *= fade[i / 2];
        }

#pragma unroll
        for (int s = 0; s < KEYS / 16; s++) {
            const uint32_t a[4] = {Pair<T>::of(scores[2 * s][0], scores[2 * s][1]),
                                   Pair<T>::of(scores[2 * s][2], scores[2 * s][3]),
                                   Pair<T>::of(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                                   Pair<T>::of(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
            for (int c = 0; c < COLUMNS; c += 2) {
                uint32_t b[4]; // keys s·16.. and +8 of numbers c·8..; then of c·8 + 8..
                load_four_turned(b, tile_v + (s * 16 + lane % 16) * ROW + c * 8 + lane / 16 * 8);
                Pair<T>::multiply(out[c], a, b[0], b[1]);
                Pair<T>::multiply(out[c + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 2);
        const int row = warp * 16 + lane / 4 + r * 8;
        if (first + row >= queries) continue;
        const float scale = 1.0f / total[r];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (c * 8 >= width) break;
            *reinterpret_cast<uint32_t *>(y + row * stride + c * 8 + lane % 4 * 2) =
                Pair<T>::of(out[c][2 * r] * scale, out[c][2 * r + 1] * scale);
        }
    }
}

// A block's shared memory is at most the 99 KB of small cards.
#define EACH(T, WIDTH, WARPS, KEYS, NAME)                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                   \
        attention_##NAME(const T *q, const T *k, const T *v, T *y, int queries, int keys, int heads,           \
                         int width, float scale) {                                                             \
        attention<T, WIDTH, WARPS, KEYS>(q, k, v, y, queries, keys, heads, width, scale);                      \
    }

#define WIDTHS(T, NAME)                                                                                        \
    EACH(T, 16, 8, 64, NAME##_16)                                                                              \
    EACH(T, 32, 8, 64, NAME##_32)                                                                              \
    EACH(T, 48, 8, 64, NAME##_48)                                                                              \
    EACH(T, 64, 8, 64, NAME##_64)                                                                              \
    EACH(T, 80, 8, 64, NAME##_80)                                                                              \
    EACH(T, 128, 4, 64, NAME##_128)                                                                            \
    EACH(T, 160, 4, 32, NAME##_160)

WIDTHS(__half, f16)
WIDTHS(__nv_bfloat16, bf16)

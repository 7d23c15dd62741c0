// Norms, activations and sums of channels-last tensors, one pass over memory each. Sums are in f32.
#include "numbers.cuh"

typedef long long index_t;

// ---- group norm ----------------------------------------------------------------------------------------
// x: [batch, pixels, channels]. Two launches: every block of the first sums a chunk of the pixels of an image,
// and the one that is done last adds those sums up; the second norms.
//
// Sums are of differences to the first number of a group, so that a mean far from 0 costs no digits.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int GROUPS = 64;  // most groups
constexpr int IMAGES = 256; // most images of a batch

// Blocks of every image that are done; 0 between launches. Launches of one stream follow each other.
__device__ unsigned int done[IMAGES];

// sums: [batch, chunks, groups, 2], for the blocks; found: [batch, groups, 2], mean and 1/deviation.
template <typename T, int W>
__device__ void group_sums(const T *x, float2 *sums, float2 *found, int pixels, int channels, int groups,
                           float eps) {
    const int chunks = gridDim.x, chunk = blockIdx.x, image = blockIdx.y;
    const int width = channels / groups, vectors = channels / W;
    const int columns = min(vectors, THREADS), rows = THREADS / columns;
    const int row = threadIdx.x / columns, column = threadIdx.x % columns;
    const int each = (pixels + chunks - 1) / chunks;
    const int first = chunk * each, end = min(pixels, first + each);
    const T *base = x + (index_t)image * pixels * channels;

    // The order of additions is fixed: the same sums every time.
    __shared__ float2 parts[THREADS * W];
    float2 totals[GROUPS / WARPS] = {};
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int start = 0; start < vectors; start += columns) {
        const int v = start + column;
        if (row < rows && v < vectors) {
            float origin[W], sum[W] = {}, squares[W] = {};
#pragma unroll
            for (int i = 0; i < W; i++) origin[i] = to_float(base[(v * W + i) / width * width]);
#pragma unroll 4
            for (int p = first + row; p < end; p += rows) {
                float values[W];
                load<T, W>(base + (index_t)p * channels + v * W, values);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    float d = values[i] - origin[i];
                    sum[i] += d;
                    squares[i] += d * d;
                }
            }
#pragma unroll
            for (int i = 0; i < W; i++) {
                parts[(row * columns + column) * W + i] = make_float2(sum[i], squares[i]);
            }
        }
        __syncthreads();
        const int from = start * W, to = min(channels, (start + columns) * W);
#pragma unroll
        for (int k = 0; k < GROUPS / WARPS; k++) {
            const int group = k * WARPS + warp;
            const int left = max(from, group * width), right = min(to, (group + 1) * width);
            if (group >= groups || left >= right) continue;
            for (int r = 0; r < rows; r++) {
                for (int c = left - from + lane; c < right - from; c += 32) {
                    const float2 part = parts[r * columns * W + c];
                    totals[k].x += part.x;
                    totals[k].y += part.y;
                }
            }
        }
        __syncthreads();
    }
    sums += (index_t)image * chunks * groups;
#pragma unroll
    for (int k = 0; k < GROUPS / WARPS; k++) {
        const int group = k * WARPS + warp;
        float s = warp_sum(totals[k].x), q = warp_sum(totals[k].y);
        if (lane == 0 && group < groups) sums[chunk * groups + group] = make_float2(s, q);
    }

    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&done[image], 1) + 1 == chunks;
    __syncthreads();
    if (!last) return;
    if (threadIdx.x == 0) done[image] = 0;
    for (int group = warp; group < groups; group += WARPS) {
        float s = 0, q = 0;
        for (int i = lane; i < chunks; i += 32) {
            const float2 part = __ldcg(sums + i * groups + group); // not from this multiprocessor's cache
            s += part.x;
            q += part.y;
        }
        s = warp_sum(s);
        q = warp_sum(q);
        if (lane == 0) {
            const float count = (float)pixels * width, d = s / count;
            const float variance = fmaxf(q / count - d * d, 0.0f);
            found[image * groups + group] =
                make_float2(d + to_float(base[group * width]), rsqrtf(variance + eps));
        }
    }
}

template <typename T, int W>
__device__ void group_norm(const T *x, const float2 *found, const T *weight, const T *bias, T *y, int pixels,
                           int channels, int groups, int with_silu) {
    const int image = blockIdx.y;
    const int width = channels / groups, vectors = channels / W;
    const int columns = min(vectors, THREADS), rows = THREADS / columns;
    const int row = threadIdx.x / columns, column = threadIdx.x % columns;
    const int each = (pixels + gridDim.x - 1) / gridDim.x;
    const int first = blockIdx.x * each, end = min(pixels, first + each);
    const T *base = x + (index_t)image * pixels * channels;
    T *out = y + (index_t)image * pixels * channels;
    found += image * groups;
    if (row >= rows) return;
    for (int v = column; v < vectors; v += columns) {
        float w[W], b[W];
        load<T, W>(weight + v * W, w);
        load<T, W>(bias + v * W, b);
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float2 of_group = found[(v * W + i) / width];
            w[i] *= of_group.y;
            b[i] -= of_group.x * w[i];
        }
#pragma unroll 4
        for (int p = first + row; p < end; p += rows) {
            float values[W];
            load<T, W>(base + (index_t)p * channels + v * W, values);
#pragma unroll
            for (int i = 0; i < W; i++) {
                float normed = values[i] * w[i] + b[i];
                values[i] = with_silu ? silu(normed) : normed;
            }
            store<T, W>(out + (index_t)p * channels + v * W, values);
        }
    }
}

// ---- layer norm ----------------------------------------------------------------------------------------
// x: [rows, width]; a warp a row.
template <typename T, int W>
__device__ void layer_norm(const T *x, const T *weight, const T *bias, T *y, index_t rows, int width,
                           float eps) {
    const int lane = threadIdx.x % 32;
    const index_t row = (index_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const T *from = x + row * width;
    float values[W], sum = 0;
    for (int i = lane * W; i < width; i += 32 * W) {
        load<T, W>(from + i, values);
#pragma unroll
        for (int j = 0; j < W; j++) sum += values[j];
    }
    const float mean = warp_sum(sum) / width;
    float squares = 0;
    for (int i = lane * W; i < width; i += 32 * W) {
        load<T, W>(from + i, values);
#pragma unroll
        for (int j = 0; j < W; j++) squares += (values[j] - mean) * (values[j] - mean);
    }
    const float scale = rsqrtf(warp_sum(squares) / width + eps);
    for (int i = lane * W; i < width; i += 32 * W) {
        float w[W], b[W];
        load<T, W>(from + i, values);
        load<T, W>(weight + i, w);
        load<T, W>(bias + i, b);
#pragma unroll
        for (int j = 0; j < W; j++) values[j] = (values[j] - mean) * scale * w[j] + b[j];
        store<T, W>(y + row * width + i, values);
    }
}

// ---- what follows a product ----------------------------------------------------------------------------
// y = (x + bias[channel] + shift[image, channel] + added) * scale; each of the three may be absent.
// x, added, y: [images, pixels, channels].
template <typename T, int W>
__device__ void finish(const T *x, const T *bias, const T *shift, const T *added, T *y, index_t count,
                       int channels, index_t of_image, float scale) {
    const index_t step = (index_t)gridDim.x * blockDim.x * W;
    for (index_t i = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < count; i += step) {
        float values[W], more[W];
        load<T, W>(x + i, values);
        const int channel = i % channels;
        if (bias) {
            load<T, W>(bias + channel, more);
#pragma unroll
            for (int j = 0; j < W; j++) values[j] += more[j];
        }
        if (shift) {
            load<T, W>(shift + i / of_image * channels + channel, more);
#pragma unroll
            for (int j = 0; j < W; j++) values[j] += more[j];
        }
        if (added) {
            load<T, W>(added + i, more);
#pragma unroll
            for (int j = 0; j < W; j++) values[j] += more[j];
        }
#pragma unroll
        for (int j = 0; j < W; j++) values[j] *= scale;
        store<T, W>(y + i, values);
    }
}

// value * GELU(gate) of (x + bias): x [rows, 2 * width], value first; y [rows, width].
template <typename T, int W>
__device__ void gated(const T *x, const T *bias, T *y, index_t count, int width) {
    const index_t step = (index_t)gridDim.x * blockDim.x * W;
    for (index_t i = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < count; i += step) {
        const int column = i % width;
        const T *row = x + i / width * 2 * width;
        float value[W], gate[W], more[W];
        load<T, W>(row + column, value);
        load<T, W>(row + width + column, gate);
        load<T, W>(bias + column, more);
#pragma unroll
        for (int j = 0; j < W; j++) value[j] += more[j];
        load<T, W>(bias + width + column, more);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float g = gate[j] + more[j];
            value[j] *= 0.5f * g * (1.0f + erff(g * 0.70710678f));
        }
        store<T, W>(y + i, value);
    }
}

// Nearest neighbours: x [images, rows, columns, channels] to [images, to_rows, to_columns, channels].
template <typename T, int W>
__device__ void grow(const T *x, T *y, index_t count, int channels, int rows, int columns, int to_rows,
                     int to_columns) {
    const index_t step = (index_t)gridDim.x * blockDim.x * W;
    for (index_t i = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < count; i += step) {
        const int channel = i % channels;
        index_t pixel = i / channels;
        const int column = pixel % to_columns;
        pixel /= to_columns;
        const int row = pixel % to_rows;
        const index_t image = pixel / to_rows;
        const index_t from = (image * rows + (index_t)row * rows / to_rows) * columns + (index_t)column * columns / to_columns;
        *reinterpret_cast<Vector<T, W> *>(y + i) =
            *reinterpret_cast<const Vector<T, W> *>(x + from * channels + channel);
    }
}

// What a convolution multiplies of its pixels first.., one after the other: x [images, rows, columns, channels] to
// y [pixels, kernel, kernel, channels], zeros where the kernel leaves the image.
struct Unfolding {
    int channels, rows, columns, to_rows, to_columns, kernel, stride, padding;
};

template <typename T, int W>
__device__ void unfold(const T *x, T *y, index_t count, index_t first, Unfolding how) {
    const index_t step = (index_t)gridDim.x * blockDim.x * W;
    for (index_t i = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < count; i += step) {
        const int channel = i % how.channels;
        index_t at = i / how.channels;
        const int across = at % how.kernel;
        at /= how.kernel;
        const int down = at % how.kernel;
        at = at / how.kernel + first;
        const int column = at % how.to_columns * how.stride + across - how.padding;
        at /= how.to_columns;
        const int row = at % how.to_rows * how.stride + down - how.padding;
        const index_t image = at / how.to_rows;
        Vector<T, W> v = {};
        if (row >= 0 && row < how.rows && column >= 0 && column < how.columns) {
            const index_t from = (image * how.rows + row) * how.columns + column;
            v = *reinterpret_cast<const Vector<T, W> *>(x + from * how.channels + channel);
        }
        *reinterpret_cast<Vector<T, W> *>(y + i) = v;
    }
}

#define EACH(T, W, NAME)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        group_sums_##NAME(const T *x, float2 *sums, float2 *found, int pixels, int channels, int groups,       \
                          float eps) {                                                                         \
        group_sums<T, W>(x, sums, found, pixels, channels, groups, eps);                                       \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        group_norm_##NAME(const T *x, const float2 *found, const T *weight, const T *bias, T *y, int pixels,   \
                          int channels, int groups, int with_silu) {                                           \
        group_norm<T, W>(x, found, weight, bias, y, pixels, channels, groups, with_silu);                      \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        layer_norm_##NAME(const T *x, const T *weight, const T *bias, T *y, index_t rows, int width,           \
                          float eps) {                                                                         \
        layer_norm<T, W>(x, weight, bias, y, rows, width, eps);                                                \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        finish_##NAME(const T *x, const T *bias, const T *shift, const T *added, T *y, index_t count,          \
                      int channels, index_t of_image, float scale) {                                           \
        finish<T, W>(x, bias, shift, added, y, count, channels, of_image, scale);                              \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        gated_##NAME(const T *x, const T *bias, T *y, index_t count, int width) {                              \
        gated<T, W>(x, bias, y, count, width);                                                                 \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        grow_##NAME(const T *x, T *y, index_t count, int channels, int rows, int columns, int to_rows,         \
                    int to_columns) {                                                                          \
        grow<T, W>(x, y, count, channels, rows, columns, to_rows, to_columns);                                 \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        unfold_##NAME(const T *x, T *y, index_t count, index_t first, int channels, int rows, int columns,     \
                      int to_rows, int to_columns, int kernel, int stride, int padding) {                      \
        unfold<T, W>(x, y, count, first,                                                                       \
                     {channels, rows, columns, to_rows, to_columns, kernel, stride, padding});                 \
    }

EACH(float, 4, f32_wide)
EACH(float, 1, f32_single)
EACH(__half, 8, f16_wide)
EACH(__half, 1, f16_single)
EACH(__nv_bfloat16, 8, bf16_wide)
EACH(__nv_bfloat16, 1, bf16_single)

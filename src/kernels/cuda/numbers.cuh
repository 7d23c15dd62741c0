// What the kernels share: the three float types, and vectors of 16 bytes of them.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// W numbers that lie together: one access of memory. W is 1, or makes 16 bytes.
template <typename T, int W> struct alignas(sizeof(T) * W) Vector {
    T at[W];
};

// The width of vectors of a type.
template <typename T> constexpr int WIDE = 16 / sizeof(T);

template <typename T, int W> __device__ __forceinline__ void load(const T *from, float (&to)[W]) {
    Vector<T, W> v = *reinterpret_cast<const Vector<T, W> *>(from);
#pragma unroll
    for (int i = 0; i < W; i++) to[i] = to_float(v.at[i]);
}

template <typename T, int W> __device__ __forceinline__ void store(T *to, const float (&from)[W]) {
    Vector<T, W> v;
#pragma unroll
    for (int i = 0; i < W; i++) v.at[i] = from_float<T>(from[i]);
    *reinterpret_cast<Vector<T, W> *>(to) = v;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

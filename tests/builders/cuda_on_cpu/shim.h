// CUDA's names for a processor: blocks run one after the other, and within one the threads, warps and lanes of each
// loop, so that barriers have nothing to wait for. What a loop leaves to the next lies in shared memory or in rows.

#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define CUDA_ON_CPU
#define __global__
#define __device__
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define INLINE inline
#define LANES 32
#define OF(lane) (lane)

struct Dimensions {
    unsigned x;
};
static Dimensions blockIdx, gridDim, blockDim;
alignas(16) static float shared_memory[1 << 16];

#define FOR_THREADS(thread) for (unsigned thread = 0; thread < blockDim.x; ++thread)
#define FOR_WARPS(warp) for (unsigned warp = 0; warp < blockDim.x / 32; ++warp)
#define FOR_LANES(lane) for (unsigned lane = 0; lane < 32; ++lane)
#define SHARED_FLOATS(name) float* name = shared_memory

inline void __syncthreads() {}
inline void __syncwarp() {}

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) ushort4 {
    unsigned short x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) {
    return {x, y, z, w};
}
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __double2float_rn(double value) { return (float)value; }

inline float float_of(unsigned short bits) {
    const unsigned sign = (unsigned)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, rest = bits & 1023;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * rest / 16777216.0f;
    const unsigned wide = exponent == 31 ? 255 : exponent + 112;
    const unsigned all = sign | wide << 23 | rest << 13;
    float value;
    std::memcpy(&value, &all, 4);
    return value;
}

// To the nearest, ties to even.
inline unsigned short half_of(float value) {
    unsigned all;
    std::memcpy(&all, &value, 4);
    const unsigned sign = all >> 16 & 0x8000, size = all & 0x7fffffff;
    if (size > 0x7f800000) return 0x7fff;  // not a number
    if (size >= 0x477ff000) return sign | 0x7c00;  // 65,520 and more
    if (size < 0x33000001) return sign;            // half of the smallest and less
    const int shift = size < 0x38800000 ? 126 - (int)(size >> 23) : 13;  // below 2^-14 fewer bits are kept
    const unsigned kept = size < 0x38800000 ? (size & 0x7fffff) | 0x800000 : size - 0x38000000;
    const unsigned half = 1u << (shift - 1), cut = kept & (2 * half - 1), low = kept >> shift;
    return sign | (low + (cut > half || (cut == half && low & 1)));
}

// Which block runs next: one of so many, of so many threads, in shared memory that holds what nobody wrote.
extern "C" void set_block(unsigned block, unsigned blocks, unsigned threads, unsigned bytes) {
    if (bytes > sizeof shared_memory) std::abort();
    blockIdx.x = block;
    gridDim.x = blocks;
    blockDim.x = threads;
    std::memset(shared_memory, 0xff, sizeof shared_memory);
}

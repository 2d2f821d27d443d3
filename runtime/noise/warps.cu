// What the kernels of a GPU are written with; cuda_kernel.py puts it before them.
//
// The same functions run on a processor, for tests: there the loops over threads, warps and lanes are loops, and what
// a lane holds from one of them to the next lies in an array with a row for each lane.

#ifndef CUDA_ON_CPU
#define FOR_THREADS(thread) if (const unsigned thread = threadIdx.x; true)
#define FOR_WARPS(warp) if (const unsigned warp = threadIdx.x / 32; true)
#define FOR_LANES(lane) if (const unsigned lane = threadIdx.x % 32; true)
#define LANES 1                // rows of what the lanes of a warp hold: a thread has its own
#define OF(lane) ((lane) * 0)  // which row is a lane's
#define SHARED_FLOATS(name) extern __shared__ __align__(16) float name[]
#define INLINE __device__ __forceinline__
#define APART __device__ __noinline__  // a stack of its own

// The same address, of which the compiler knows that it is in global memory.
template <class T>
INLINE T* global(T* address) {
    __builtin_assume(__isGlobal(address));
    return address;
}

INLINE unsigned short half_of(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

INLINE float float_of(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#else
#define APART inline
template <class T>
INLINE T* global(T* address) { return address; }
#endif

typedef unsigned long long u64;
typedef long long i64;

// Of the rows of a table, each with the first chunk that is its own, the one that a chunk lies in.
template <class Row>
INLINE const Row* row_of(const Row* rows, i64 count, i64 chunk) {
    i64 low = 0, high = count;
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (rows[middle].first <= chunk) low = middle;
        else high = middle;
    }
    return rows + low;
}

INLINE bool on(const void* address, u64 bytes) { return ((u64)address & (bytes - 1)) == 0; }

// Copies and products of many buffers, in one launch each.

constexpr int PIECE = 4096;      // bytes of a warp's turn
constexpr int OUTPUTS = 8 * 32;  // elements of a product that a warp computes in its turn

struct Copy {
    i64 first;  // piece; the last row holds the end
    const char* from;
    char* to;  // where the first point's is
    i64 bytes;
};

// Copy each of some buffers to where a point's values are.
extern "C" __global__ void gather(const Copy* copies, i64 count, i64 point) {
    const i64 pieces = copies[count].first, warps = blockDim.x / 32;
    FOR_WARPS(warp) {
        for (i64 g = blockIdx.x * warps + warp; g < pieces; g += gridDim.x * warps) {
            const Copy own = *row_of(copies, count, g);
            const i64 start = (g - own.first) * PIECE, end = start + PIECE < own.bytes ? start + PIECE : own.bytes;
            const char* from = own.from;
            char* to = own.to + point * own.bytes;
            // as wide as both addresses allow; what is left of the last vector goes byte by byte
            const i64 width = on(from, 16) && on(to, 16) ? 16 : on(from, 4) && on(to, 4) ? 4 : 1;
            const i64 vectors = start + (end - start) / width * width;
            FOR_LANES(lane) {
                for (i64 at = start + width * lane; at < vectors; at += width * 32) {
                    if (width == 16) *(uint4*)(to + at) = *(const uint4*)(from + at);
                    else if (width == 4) *(unsigned*)(to + at) = *(const unsigned*)(from + at);
                    else to[at] = from[at];
                }
                for (i64 at = vectors + lane; at < end; at += 32) to[at] = from[at];
            }
        }
    }
}

// out [n, rank] = u [n, rank] @ s [rank, rank]
struct Product {
    i64 first;  // turn; the last row holds the end
    const float* u;
    const float* s;
    void* out;
    i64 elements, rank;
    i64 half;  // whether out is float16: rounded once, at the end
};

// Make products, summed over the columns of u one after the other, each product and sum rounded.
extern "C" __global__ void products(const Product* all, i64 count) {
    const i64 turns = all[count].first, warps = blockDim.x / 32;
    FOR_WARPS(warp) {
        for (i64 g = blockIdx.x * warps + warp; g < turns; g += gridDim.x * warps) {
            const Product own = *row_of(all, count, g);
            const i64 start = (g - own.first) * OUTPUTS;
            FOR_LANES(lane) {
                for (i64 at = start + lane; at < start + OUTPUTS && at < own.elements; at += 32) {
                    const float* u = own.u + at / own.rank * own.rank;
                    const float* s = own.s + at % own.rank;
                    float sum = 0.0f;
                    for (i64 k = 0; k < own.rank; ++k) sum = __fadd_rn(sum, __fmul_rn(u[k], s[k * own.rank]));
                    if (own.half) ((unsigned short*)own.out)[at] = half_of(sum);
                    else ((float*)own.out)[at] = sum;
                }
            }
        }
    }
}

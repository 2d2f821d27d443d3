// Tiles of 1,024 elements: how a warp reads one into its lanes' registers, and writes it back.

constexpr int TILE = 1024;           // elements of a warp's turn: a stretch
constexpr int CHUNK_TILES = 4;       // tables count in chunks of so many tiles
constexpr int EACH = TILE / 4 / 32;  // vectors of four that a lane has of a tile

// one tensor, as work.py lays it out; the last row of a table is its end
struct Tensor {
    i64 first;  // chunk
    void* target;
    i64 elements;
    u64 own;  // the tensor's id in a family, its first term elsewhere
    i64 sample;
    const unsigned char* mask;
    const float* source;
    i64 half;  // whether the target is float16
};

// The part of a tensor that one warp works on: offsets count from its first element.
struct Tile {
    i64 number;
    int elements;
    const void* from;  // the source's values, or the target's own
    void* to;
    bool from_half, to_half;
    const unsigned char* mask;
};

INLINE Tile tile_of(const Tensor& row, i64 number) {
    const i64 start = number * TILE, left = row.elements - start;
    void* to = (char*)row.target + start * (row.half ? 2 : 4);
    const bool half = row.half && !row.source;
    return {number,
            (int)(left < TILE ? left : TILE),
            row.source ? row.source + start : to,
            to,
            half,
            row.half != 0,
            row.mask ? row.mask + start / 8 : nullptr};
}

// Whether all its vectors of four are full, and lie where vectors are loaded and stored; masks are rare.
INLINE bool is_whole(const Tile& tile) {
    return tile.elements == TILE && !tile.mask && on(tile.from, tile.from_half ? 8 : 16) && on(tile.to, tile.to_half ? 8 : 16);
}

// Four elements from an offset on; those that a tile doesn't have are zeros.
template <bool WHOLE>
INLINE float4 read_floats(const float* from, int at, int end) {
    if (WHOLE) return *(const float4*)(from + at);
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (at < end) x.x = from[at];
    if (at + 1 < end) x.y = from[at + 1];
    if (at + 2 < end) x.z = from[at + 2];
    if (at + 3 < end) x.w = from[at + 3];
    return x;
}

template <bool WHOLE>
INLINE float4 read_halves(const unsigned short* from, int at, int end) {
    if (WHOLE) {
        const ushort4 x = *(const ushort4*)(from + at);
        return make_float4(float_of(x.x), float_of(x.y), float_of(x.z), float_of(x.w));
    }
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (at < end) x.x = float_of(from[at]);
    if (at + 1 < end) x.y = float_of(from[at + 1]);
    if (at + 2 < end) x.z = float_of(from[at + 2]);
    if (at + 3 < end) x.w = float_of(from[at + 3]);
    return x;
}

template <bool WHOLE>
INLINE void write_floats(float* to, int at, int end, float4 x) {
    if (WHOLE) {
        *(float4*)(to + at) = x;
        return;
    }
    if (at < end) to[at] = x.x;
    if (at + 1 < end) to[at + 1] = x.y;
    if (at + 2 < end) to[at + 2] = x.z;
    if (at + 3 < end) to[at + 3] = x.w;
}

template <bool WHOLE>
INLINE void write_halves(unsigned short* to, int at, int end, float4 x) {
    if (WHOLE) {
        *(ushort4*)(to + at) = make_ushort4(half_of(x.x), half_of(x.y), half_of(x.z), half_of(x.w));
        return;
    }
    if (at < end) to[at] = half_of(x.x);
    if (at + 1 < end) to[at + 1] = half_of(x.y);
    if (at + 2 < end) to[at + 2] = half_of(x.z);
    if (at + 3 < end) to[at + 3] = half_of(x.w);
}

template <bool WHOLE>
INLINE void read(const Tile& tile, int lane, float4 (&x)[EACH]) {
    const int end = tile.elements;
    if (tile.from_half) {
        const unsigned short* from = global((const unsigned short*)tile.from);
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) x[i] = read_halves<WHOLE>(from, 4 * lane + 128 * i, end);
    } else {
        const float* from = global((const float*)tile.from);
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) x[i] = read_floats<WHOLE>(from, 4 * lane + 128 * i, end);
    }
}

template <bool WHOLE>
INLINE void write(const Tile& tile, int lane, const float4 (&x)[EACH]) {
    const int end = tile.elements;
    if (tile.to_half) {
        unsigned short* to = global((unsigned short*)tile.to);
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) write_halves<WHOLE>(to, 4 * lane + 128 * i, end, x[i]);
    } else {
        float* to = global((float*)tile.to);
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) write_floats<WHOLE>(to, 4 * lane + 128 * i, end, x[i]);
    }
}

// The source takes the values so far.
template <bool WHOLE>
INLINE void write_back(const Tile& tile, int lane, const float4 (&x)[EACH]) {
    float* from = global((float*)tile.from);
#pragma unroll(WHOLE ? EACH : 1)
    for (int i = 0; i < EACH; ++i) write_floats<WHOLE>(from, 4 * lane + 128 * i, tile.elements, x[i]);
}

// Elements without their bit in the mask stay as they were.
INLINE void put_back(const Tile& tile, int lane, float4 (&x)[EACH]) {
#pragma unroll 1
    for (int i = 0; i < EACH; ++i) {
        const int at = 4 * lane + 128 * i;
        if (at >= tile.elements) break;
        const int bits = tile.mask[at / 8] >> at % 8;
        const float4 kept = tile.from_half ? read_halves<false>((const unsigned short*)tile.from, at, tile.elements)
                                           : read_floats<false>((const float*)tile.from, at, tile.elements);
        if (!(bits & 1)) x[i].x = kept.x;
        if (!(bits & 2)) x[i].y = kept.y;
        if (!(bits & 4)) x[i].z = kept.z;
        if (!(bits & 8)) x[i].w = kept.w;
    }
}

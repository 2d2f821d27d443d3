// The noise specification on a GPU: bit for bit what reference.py says, for all tensors of a call in one launch.
//
// A warp takes a tile of 1,024 elements at a time. Of 256 levels each of its lanes computes one Philox block, of two
// levels the first four do; the words go through shared memory, so that loads and stores of elements are coalesced
// while each lane looks bits of other lanes' blocks up. Every product and sum is rounded (__fmul_rn, __fadd_rn): the
// compiler contracts nothing.

constexpr int TABLE = 256;  // floats of a term's place in shared memory
constexpr i64 ALL = -1;    // the sample of all stretches

struct Block {
    u64 word[4];
};

// step, probe, purpose and both words of the key; a table of 256 levels or 2
struct Term {
    u64 seed, tensor, step, probe, purpose;
    const float* table;
    bool wide;
    i64 sample;
};

INLINE Block philox(u64 block, u64 step, u64 probe, u64 purpose, u64 seed, u64 tensor) {
    u64 c0 = block + 1, c1 = step, c2 = probe, c3 = purpose;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 high0 = __umul64hi(0xD2E7470EE14C6C93ULL, c0), low0 = 0xD2E7470EE14C6C93ULL * c0;
        const u64 high1 = __umul64hi(0xCA5A826395121157ULL, c2), low1 = 0xCA5A826395121157ULL * c2;
        c0 = high1 ^ c1 ^ seed;
        c1 = low1;
        c2 = high0 ^ c3 ^ tensor;
        c3 = low0;
        seed += 0x9E3779B97F4A7C15ULL;
        tensor += 0xBB67AE8584CAA73BULL;
    }
    return {{c0, c1, c2, c3}};
}

// Whether a stretch takes part in a sample: five words of a stream and the bound.
INLINE bool drawn_below(const u64* sample, i64 stretch) {
    const Block drawn = philox(stretch / 4, sample[2], sample[3], sample[4], sample[0], sample[1]);
    const int k = stretch % 4;
    const u64 word = k == 0 ? drawn.word[0] : k == 1 ? drawn.word[1] : k == 2 ? drawn.word[2] : drawn.word[3];
    return word < sample[5];
}

INLINE float4 times(float4 x, float factor) {
    return make_float4(__fmul_rn(x.x, factor), __fmul_rn(x.y, factor), __fmul_rn(x.z, factor),
                       __fmul_rn(x.w, factor));
}

INLINE float4 plus(float4 x, float a, float b, float c, float d) {
    return make_float4(__fadd_rn(x.x, a), __fadd_rn(x.y, b), __fadd_rn(x.z, c), __fadd_rn(x.w, d));
}

// Let the lanes of a warp write the Philox blocks of a tile, eight words of 32 bits each.
INLINE void draw(const Term& term, i64 tile, unsigned* words) {
    __syncwarp();  // the words that were there are read
    FOR_LANES(lane) {
        if (term.wide || lane < 4) {
            const u64 block = tile * (term.wide ? 32 : 4) + lane;
            const Block drawn = philox(block, term.step, term.probe, term.purpose, term.seed, term.tensor);
            ulonglong2* place = (ulonglong2*)(words + 8 * lane);
            place[0] = make_ulonglong2(drawn.word[0], drawn.word[1]);
            place[1] = make_ulonglong2(drawn.word[2], drawn.word[3]);
        }
    }
    __syncwarp();
}

template <bool WHOLE>
INLINE void add(const Term& term, int lane, const unsigned* words, float4 (&x)[EACH]) {
    const float* table = term.table;
    if (term.wide) {
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) {
            const unsigned v = words[32 * i + lane];
            x[i] = plus(x[i], table[v & 255], table[v >> 8 & 255], table[v >> 16 & 255], table[v >> 24]);
        }
    } else {
#pragma unroll(WHOLE ? EACH : 1)
        for (int i = 0; i < EACH; ++i) {
            const unsigned v = words[4 * i + lane / 8] >> 4 * (lane % 8);
            x[i] = plus(x[i], table[v & 1], table[v >> 1 & 1], table[v >> 2 & 1], table[v >> 3 & 1]);
        }
    }
}

// Do to a tile what its tensor's row says, with the terms first .. last - 1.
template <bool WHOLE, class Terms>
INLINE void add_tile(const Tile& tile, i64 shrunk, const Terms& terms, i64 first, i64 last, float shrink,
                     unsigned* words) {
    float4 x[LANES][EACH];
    FOR_LANES(lane) read<WHOLE>(tile, lane, x[OF(lane)]);
    if (shrink != 1.0f && terms.takes_part(shrunk, tile.number)) {
        FOR_LANES(lane) {
#pragma unroll(WHOLE ? EACH : 1)
            for (int i = 0; i < EACH; ++i) x[OF(lane)][i] = times(x[OF(lane)][i], shrink);
        }
    }
    i64 sample = ALL;
    bool taken = true;
    for (i64 t = first; t < last; ++t) {
        if constexpr (Terms::STAY) {
            if (t == terms.stays) FOR_LANES(lane) write_back<WHOLE>(tile, lane, x[OF(lane)]);
        }
        const Term term = terms.at(t);
        if (term.sample != sample) {  // the terms of a step share one, and follow each other
            sample = term.sample;
            taken = terms.takes_part(sample, tile.number);
        }
        if (!taken) continue;
        draw(term, tile.number, words);
        FOR_LANES(lane) add<WHOLE>(term, lane, words, x[OF(lane)]);
    }
    if constexpr (Terms::STAY) {
        if (last == terms.stays) FOR_LANES(lane) write_back<WHOLE>(tile, lane, x[OF(lane)]);
    }
    FOR_LANES(lane) {
        if (!WHOLE && tile.mask) put_back(tile, lane, x[OF(lane)]);
        write<WHOLE>(tile, lane, x[OF(lane)]);
    }
}

// Tiles that are not whole: in a function of its own, because what it keeps in an array that loops index lies in local
// memory, and inlined beside the whole ones the compiler would let both keep theirs in the same place.
template <class Terms>
APART void add_ragged_tile(const Tile tile, i64 shrunk, const Terms terms, i64 first, i64 last, float shrink,
                           unsigned* words) {
    add_tile<false>(tile, shrunk, terms, first, last, shrink, words);
}

template <class Terms>
INLINE void add_any_tile(const Tensor& row, i64 number, const Terms& terms, i64 first, i64 last, float shrink,
                         unsigned* words) {
    if (number * TILE >= row.elements) return;  // a chunk's end
    const Tile tile = tile_of(row, number);
    if (is_whole(tile)) add_tile<true>(tile, row.sample, terms, first, last, shrink, words);
    else add_ragged_tile(tile, row.sample, terms, first, last, shrink, words);
}

// The terms of additions, as work.py lays them out.
struct WorkTerms {
    static constexpr bool STAY = false;
    const u64* streams;
    const i64* spans;
    const float* levels;
    const u64* samples;

    INLINE bool takes_part(i64 sample, i64 stretch) const {
        return sample == ALL || drawn_below(samples + 6 * sample, stretch);
    }
    INLINE Term at(i64 t) const {
        const u64* s = streams + 5 * t;
        const i64* span = spans + 3 * t;
        return {s[0], s[1], s[2], s[3], s[4], levels + span[0], span[1] - span[0] > 2, span[2]};
    }
};

// Additions to any tensors. In shared memory: the words of each warp, then the first ``staged`` of the levels, which
// are all of them or none.
extern "C" __global__ void __launch_bounds__(256, 3)
    add_terms(const Tensor* rows, i64 count, const float* shrinks, const u64* streams, const i64* spans,
              const float* levels, const u64* samples, i64 staged) {
    SHARED_FLOATS(memory);
    float* tables = memory + 8 * blockDim.x;
    FOR_THREADS(thread) {
        for (i64 i = thread; i < staged; i += blockDim.x) tables[i] = levels[i];
    }
    __syncthreads();
    const WorkTerms terms{streams, spans, staged ? tables : levels, samples};
    const i64 tiles = CHUNK_TILES * rows[count].first, warps = blockDim.x / 32;
    FOR_WARPS(warp) {
        unsigned* words = (unsigned*)memory + 256 * warp;
        for (i64 g = blockIdx.x * warps + warp; g < tiles; g += gridDim.x * warps) {
            const Tensor* found = row_of(rows, count, g / CHUNK_TILES);
            const Tensor row = *found;  // into registers: for all the compiler knows, stores change it
            add_any_tile(row, g - CHUNK_TILES * row.first, terms, row.own, found[1].own, shrinks[found - rows],
                         words);
        }
    }
}

// One change of a family: where its table is, and what is done to all of its tensors.
struct Sweep {
    i64 first;  // chunk of the launch; the last one holds the end
    const Tensor* rows;
    i64 count;
    u64 seed;
    i64 term;  // the first one
    double shrink;
    i64 stays;          // the term before which sources take the values so far; below 0 for none
    i64 level, levels;  // where the distribution's are, the first half of them, and how many there are
};

struct Amount {
    u64 step, probe;
    double scale;
};

template <bool STAYS>
struct SweepTerms {
    static constexpr bool STAY = STAYS;
    const Amount* amounts;
    const float* tables;
    u64 seed, tensor;
    bool wide;
    i64 stays;

    INLINE bool takes_part(i64 sample, i64 stretch) const { return true; }
    INLINE Term at(i64 t) const {
        return {seed, tensor, amounts[t].step, amounts[t].probe, 0, tables + TABLE * t, wide, ALL};
    }
};

// T = float32(scale * level) of one term, by all threads; the second half is the first with its signs turned.
INLINE void make_table(float* table, double scale, const float* levels, i64 count) {
    FOR_THREADS(thread) {
        for (i64 i = thread; i < count; i += blockDim.x) {
            const i64 k = i < count / 2 ? i : count - 1 - i;
            const float level = __double2float_rn(__dmul_rn(scale, (double)levels[k]));
            table[i] = k == i ? level : -level;
        }
    }
}

// Sweeps over families. In shared memory: the words of each warp, then a table for each term.
template <bool STAYS>
INLINE void make_sweeps(const Sweep* sweeps, i64 count, const Amount* amounts, const float* levels, float* memory) {
    float* tables = memory + 8 * blockDim.x;
    for (i64 s = 0; s < count; ++s)
        for (i64 t = sweeps[s].term; t < sweeps[s + 1].term; ++t)
            make_table(tables + TABLE * t, amounts[t].scale, levels + sweeps[s].level, sweeps[s].levels);
    __syncthreads();
    const i64 tiles = CHUNK_TILES * sweeps[count].first, warps = blockDim.x / 32;
    FOR_WARPS(warp) {
        unsigned* words = (unsigned*)memory + 256 * warp;
        for (i64 g = blockIdx.x * warps + warp; g < tiles; g += gridDim.x * warps) {
            const Sweep* own = sweeps;
            while (own[1].first <= g / CHUNK_TILES) ++own;
            const i64 tile = g - CHUNK_TILES * own->first;
            const Tensor row = *row_of(global(own->rows), own->count, tile / CHUNK_TILES);
            const SweepTerms<STAYS> terms{amounts, tables, own->seed, row.own, own->levels > 2, own->stays};
            add_any_tile(row, tile - CHUNK_TILES * row.first, terms, own[0].term, own[1].term, (float)own->shrink,
                         words);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 3)
    sweep(const Sweep* sweeps, i64 count, const Amount* amounts, const float* levels) {
    SHARED_FLOATS(memory);
    make_sweeps<false>(sweeps, count, amounts, levels, memory);
}

// The same where terms stay in some sources: an entry of its own, as it needs more registers.
extern "C" __global__ void __launch_bounds__(256, 3)
    sweep_staying(const Sweep* sweeps, i64 count, const Amount* amounts, const float* levels) {
    SHARED_FLOATS(memory);
    make_sweeps<true>(sweeps, count, amounts, levels, memory);
}

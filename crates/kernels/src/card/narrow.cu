// Attention in bf16: as `attention.cu` says, which precedes this file. A warp has 16 queries; products are the tensor cores',
// with sums in f32 (`mma`, 16 × 8 of 16 at a time).

#if __CUDA_ARCH__ >= 800

// Of a tile; fewer of wide heads, because shared memory is too little else.
constexpr int KEYS = HEAD > 64 ? 32 : 64;

struct Narrow {
    // 16 bytes more than a row: eight rows' parts then lie in different banks.
    static constexpr int STRIDE = HEAD + 8;
    // Two tiles: one comes while the other is computed with.
    bf16 keys[2][KEYS][STRIDE];
    bf16 values[2][KEYS][STRIDE];
};

// Two numbers of a head from this even column on; only of a whole head do they surely lie where they can be read at once.
__device__ __forceinline__ void two_of(const bf16* head, int column, int columns, float (&to)[2]) {
    if (columns == HEAD) {
        load<bf16, 2>(head + column, to);
    } else {
        load_of_head<bf16, 2>(head, column, columns, to);
    }
}

__device__ __forceinline__ unsigned pair(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ unsigned address(const void* shared) { return static_cast<unsigned>(__cvta_generic_to_shared(shared)); }

// Four matrices of 8 × 8, of which each lane names a row: as they lie, or transposed.
__device__ __forceinline__ void matrices(const bf16* row, unsigned (&to)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address(row)));
}

__device__ __forceinline__ void transposed(const bf16* row, unsigned (&to)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address(row)));
}

__device__ __forceinline__ void multiply(const unsigned (&a)[4], unsigned b0, unsigned b1, float (&sums)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Has 16 bytes copied to shared memory, or as many zeros.
__device__ __forceinline__ void copy(const bf16* from, bf16* to, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}

template <bool VALUE> struct Is {
    static constexpr bool value = VALUE;
};

// Begins to bring a tile of keys and values.
__device__ __forceinline__ void bring(const bf16* keys, size_t row_length, int inner, int columns, int there, bf16 (*to_keys)[HEAD + 8],
                                      bf16 (*to_values)[HEAD + 8]) {
#pragma unroll
    for (int index = threadIdx.x; index < KEYS * HEAD / 8; index += THREADS) {
        const int key = index / (HEAD / 8), column = index % (HEAD / 8) * 8;
        const bool is_there = key < there;
        const bf16* from = keys + (is_there ? key : 0) * row_length;
        if (columns == HEAD) {
            copy(from + column, &to_keys[key][column], is_there);
            copy(from + inner + column, &to_values[key][column], is_there);
        } else {
            float x[8];
            load_of_head<bf16, 8>(from, column, is_there ? columns : 0, x);
            store<bf16, 8>(x, &to_keys[key][column]);
            load_of_head<bf16, 8>(from + inner, column, is_there ? columns : 0, x);
            store<bf16, 8>(x, &to_values[key][column]);
        }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

__device__ __forceinline__ void attend_narrowly(const Input<bf16> input, bf16* y) {
    __shared__ __align__(16) Narrow shared;
    const Place here = place(input);
    if (here.query >= here.length) return;
    const int columns = input.head, inner = input.heads * columns, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const size_t row_length = 3 * static_cast<size_t>(inner);
    const bf16* states = input.states + here.begin * row_length + here.head * columns;
    const bf16* bias = input.bias + here.head * columns;
    const bf16* keys = states + inner;
    bring(keys, row_length, inner, columns, here.length, shared.keys[0], shared.values[0]);

    // A lane has two rows, eight apart, and two neighbouring columns of each eight.
    const int first = here.query + warp * 16, rows[2] = {first + lane / 4, first + lane / 4 + 8}, two = lane % 4 * 2;
    const bool has_any = first < here.length;
    unsigned queries[HEAD / 16][4];
#pragma unroll
    for (int step = 0; step < HEAD / 16; ++step) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const int row = rows[part % 2], column = step * 16 + part / 2 * 8 + two;
            float x[2] = {}, added[2];
            if (row < here.length) two_of(states + row * row_length, column, columns, x);
            two_of(bias, column, columns, added);
            queries[step][part] = pair((x[0] + added[0]) * input.scale, (x[1] + added[1]) * input.scale);
        }
    }

    float most[2] = {LEAST, LEAST}, total[2] = {}, sums[HEAD / 8][4] = {};
    int buffer = 0;
    for (int from = 0; from < here.length; from += KEYS, buffer ^= 1) {
        const int left = here.length - from;
        if (left > KEYS) {
            bring(keys + (from + KEYS) * row_length, row_length, inner, columns, left - KEYS, shared.keys[buffer ^ 1],
                              shared.values[buffer ^ 1]);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        // Without looks at each key where all are there: then steps of several keys overlap.
        const auto take = [&](auto is_whole) {
            constexpr bool WHOLE = decltype(is_whole)::value;
            float scores[KEYS / 8][4] = {};
#pragma unroll
            for (int step = 0; step < HEAD / 16; ++step) {
#pragma unroll
                for (int key = 0; key < KEYS; key += 16) {
                    if (WHOLE || key < left) {
                        unsigned b[4];
                        matrices(&shared.keys[buffer][key + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8], b);
                        multiply(queries[step], b[0], b[1], scores[key / 8]);
                        multiply(queries[step], b[2], b[3], scores[key / 8 + 1]);
                    }
                }
            }
            // Branches around whole loops: within them they would cost more than all else.
            if (input.by_distance) {
                const float* middle = input.by_distance + here.head * input.distances + input.distances / 2 + from;
#pragma unroll
                for (int eight = 0; eight < KEYS / 8; ++eight) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int key = eight * 8 + two + i % 2, row = rows[i / 2];
                        if ((WHOLE || key < left) && row < here.length) scores[eight][i] += middle[key - row] * LOG2_E;
                    }
                }
            }
            if (!WHOLE) {
#pragma unroll
                for (int eight = 0; eight < KEYS / 8; ++eight) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        if (eight * 8 + two + i % 2 >= left) scores[eight][i] = LEAST;
                    }
                }
            }
            float largest[2] = {most[0], most[1]};
#pragma unroll
            for (int eight = 0; eight < KEYS / 8; ++eight) {
#pragma unroll
                for (int i = 0; i < 4; ++i) largest[i / 2] = fmaxf(largest[i / 2], scores[eight][i]);
            }
            float smaller[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], 1));
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], 2));
                smaller[i] = two_to(most[i] - largest[i]);
                most[i] = largest[i];
                total[i] *= smaller[i];
            }
#pragma unroll
            for (int eight = 0; eight < HEAD / 8; ++eight) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[eight][i] *= smaller[i / 2];
            }
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) {
                if (WHOLE || key < left) {
                    unsigned shares[4];
#pragma unroll
                    for (int part = 0; part < 4; ++part) {
                        float(&of)[4] = scores[key / 8 + part / 2];
                        const int row = part % 2;
                        const float low = two_to(of[row * 2] - largest[row]), high = two_to(of[row * 2 + 1] - largest[row]);
                        total[row] += low + high;
                        shares[part] = pair(low, high);
                    }
#pragma unroll
                    for (int column = 0; column < HEAD; column += 16) {
                        unsigned b[4];
                        transposed(&shared.values[buffer][key + lane / 8 % 2 * 8 + lane % 8][column + lane / 16 * 8], b);
                        multiply(shares, b[0], b[1], sums[column / 8]);
                        multiply(shares, b[2], b[3], sums[column / 8 + 1]);
                    }
                }
            }
        };
        if (has_any && left >= KEYS) {
            take(Is<true>());
        } else if (has_any) {
            take(Is<false>());
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        total[i] += __shfl_xor_sync(~0u, total[i], 1);
        total[i] += __shfl_xor_sync(~0u, total[i], 2);
        total[i] = 1.0f / total[i];
    }
#pragma unroll
    for (int eight = 0; eight < HEAD / 8; ++eight) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int column = eight * 8 + two;
            if (rows[i] >= here.length || column >= columns) continue;
            float added[2];
            two_of(bias + 2 * inner, column, columns, added);
            bf16* to = y + (here.begin + rows[i]) * inner + here.head * columns + column;
            const float result[2] = {sums[eight][i * 2] * total[i] + added[0], sums[eight][i * 2 + 1] * total[i] + added[1]};
            if (columns == HEAD) {
                store<bf16, 2>(result, to);
            } else {
                to[0] = static_cast<bf16>(result[0]);
                if (column + 1 < columns) to[1] = static_cast<bf16>(result[1]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_bf16(const bf16* states, const bf16* bias, const unsigned* begins, const float* by_distance,
              unsigned distances, unsigned heads, unsigned head, unsigned tiles, float scale, bf16* y) {
    attend_narrowly({states, bias, begins, by_distance, distances, heads, head, tiles, scale}, y);
}

#endif

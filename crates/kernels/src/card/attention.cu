// Attention of texts that lie one after the other, without padding: rows of a text attend to rows of that text. Scores stay in
// registers; softmax is taken as keys come, as Milakov and Gimelshein (2018, arXiv 1805.02867) and Dao (2023, arXiv 2307.08691) do it.
//
// A block has 64 queries of one head of one text, and takes the text's keys in tiles. It is compiled for HEAD columns of a head, 32, 64
// or 128; those beyond the model's are 0.
//
// Of what products left out, queries' bias is added here, and values' to the result, because shares sum to 1. Keys' bias adds the
// same to all scores of a query, so softmax takes it away again: it is never read.

constexpr int QUERIES = 64;
constexpr int THREADS = 128;
// The logarithm to base 2 of e.
constexpr float LOG2_E = 1.4426950408889634f;

// What is attended to. Rows of states have queries, keys and values of all heads side by side.
template <typename T> struct Input {
    const T* states;
    const T* bias;
    // Where each text begins, and where the last one ends.
    const unsigned* begins;
    // What is added to scores by how far a key stands from its query: a row of so many numbers for each head, the middle one where they are one
    // token. Or nothing.
    const float* by_distance;
    unsigned distances;
    unsigned heads, head;
    // Tiles of queries that the longest text has.
    unsigned tiles;
    // Of scores, and base 2.
    float scale;
};

// What a block is to compute.
struct Place {
    size_t begin;
    int length, query, head;
};

template <typename T> __device__ __forceinline__ Place place(const Input<T>& input) {
    const unsigned tile = blockIdx.x % input.tiles, rest = blockIdx.x / input.tiles;
    const unsigned head = rest % input.heads, text = rest / input.heads;
    const unsigned begin = input.begins[text];
    return {begin, static_cast<int>(input.begins[text + 1] - begin), static_cast<int>(tile * QUERIES), static_cast<int>(head)};
}

// V numbers of a head from this column on, of which those beyond the head are 0.
template <typename T, int V>
__device__ __forceinline__ void load_of_head(const T* head, int column, int columns, float (&to)[V]) {
    if (column + V <= columns) {
#pragma unroll
        for (int i = 0; i < V; ++i) to[i] = static_cast<float>(head[column + i]);
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) to[i] = column + i < columns ? static_cast<float>(head[column + i]) : 0.0f;
    }
}

// In f32 a thread has 4 queries and every eighth key, or every eighth four columns.

// Of a tile; fewer of wide heads, so that shared memory has room for more blocks.
constexpr int EXACT_KEYS = HEAD > 32 ? 32 : 64;

struct Exact {
    static constexpr int STRIDE = QUERIES + 4, KEY_STRIDE = EXACT_KEYS + 4;
    float queries[HEAD][STRIDE];
    // Keys k, k + 8, k + 16 and k + 24 of each 32 stand together, so that a thread reads its four at once.
    float keys[HEAD][KEY_STRIDE];
    float values[EXACT_KEYS][HEAD];
    float shares[EXACT_KEYS][STRIDE];
};

// Whether rows are such that four numbers of a whole head can be read at once.
__device__ __forceinline__ void four_of(const float* head, int column, int columns, bool is_there, float (&to)[4]) {
    if (!is_there) {
        to[0] = to[1] = to[2] = to[3] = 0.0f;
    } else if (columns == HEAD) {
        load<float, 4>(head + column, to);
    } else {
        load_of_head<float, 4>(head, column, columns, to);
    }
}

__device__ __forceinline__ void attend_exactly(const Input<float> input, float* y) {
    extern __shared__ __align__(16) unsigned char memory[];
    auto& shared = *reinterpret_cast<Exact*>(memory);
    constexpr int OF_THREAD = EXACT_KEYS / 8, FOURS = HEAD / 32;
    const Place here = place(input);
    if (here.query >= here.length) return;
    const int columns = input.head, inner = input.heads * columns, lane = threadIdx.x % 8, first = threadIdx.x / 8 * 4;
    const size_t row_length = 3 * static_cast<size_t>(inner);
    const float* states = input.states + here.begin * row_length + here.head * columns;
    const float* bias = input.bias + here.head * columns;

    for (int index = threadIdx.x; index < QUERIES * HEAD / 4; index += THREADS) {
        const int query = index % QUERIES, column = index / QUERIES * 4, row = here.query + query;
        float x[4], added[4];
        four_of(states + row * row_length, column, columns, row < here.length, x);
        load_of_head<float, 4>(bias, column, columns, added);
#pragma unroll
        for (int i = 0; i < 4; ++i) shared.queries[column + i][query] = (x[i] + added[i]) * input.scale;
    }

    float most[4], total[4] = {}, sums[4][FOURS * 4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) most[i] = LEAST;
    for (int from = 0; from < here.length; from += EXACT_KEYS) {
        __syncthreads();
        for (int index = threadIdx.x; index < EXACT_KEYS * HEAD / 4; index += THREADS) {
            const int key = index % EXACT_KEYS, column = index / EXACT_KEYS * 4, row = from + key;
            const float* at = states + row * row_length;
            float x[4];
            four_of(at + inner, column, columns, row < here.length, x);
            const int stands = key / 32 * 32 + key % 8 * 4 + key % 32 / 8;
#pragma unroll
            for (int i = 0; i < 4; ++i) shared.keys[column + i][stands] = x[i];
        }
        for (int index = threadIdx.x; index < EXACT_KEYS * HEAD / 4; index += THREADS) {
            const int key = index / (HEAD / 4), column = index % (HEAD / 4) * 4, row = from + key;
            float x[4];
            four_of(states + row * row_length + 2 * inner, column, columns, row < here.length, x);
            store<float, 4>(x, &shared.values[key][column]);
        }
        __syncthreads();

        float scores[4][OF_THREAD] = {};
#pragma unroll 8
        for (int column = 0; column < HEAD; ++column) {
            float query[4];
            load<float, 4>(&shared.queries[column][first], query);
#pragma unroll
            for (int part = 0; part < OF_THREAD / 4; ++part) {
                float key[4];
                load<float, 4>(&shared.keys[column][part * 32 + lane * 4], key);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) scores[i][part * 4 + j] = fmaf(query[i], key[j], scores[i][part * 4 + j]);
                }
            }
        }
        // Branches around whole loops: within them they would cost more than all else.
        if (input.by_distance) {
            const float* middle = input.by_distance + here.head * input.distances + input.distances / 2;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < OF_THREAD; ++j) {
                    const int key = from + j / 4 * 32 + j % 4 * 8 + lane, query = here.query + first + i;
                    if (key < here.length && query < here.length) scores[i][j] += middle[key - query] * LOG2_E;
                }
            }
        }
        if (here.length - from < EXACT_KEYS) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < OF_THREAD; ++j) {
                    if (from + j / 4 * 32 + j % 4 * 8 + lane >= here.length) scores[i][j] = LEAST;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float largest = most[i];
#pragma unroll
            for (int j = 0; j < OF_THREAD; ++j) largest = fmaxf(largest, scores[i][j]);
#pragma unroll
            for (int lanes = 4; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lanes));
            const float smaller = two_to(most[i] - largest);
            most[i] = largest;
            total[i] *= smaller;
#pragma unroll
            for (int j = 0; j < OF_THREAD; ++j) {
                scores[i][j] = two_to(scores[i][j] - largest);
                total[i] += scores[i][j];
            }
#pragma unroll
            for (int j = 0; j < FOURS * 4; ++j) sums[i][j] *= smaller;
        }
#pragma unroll
        for (int j = 0; j < OF_THREAD; ++j) {
            const float of_key[4] = {scores[0][j], scores[1][j], scores[2][j], scores[3][j]};
            store<float, 4>(of_key, &shared.shares[j / 4 * 32 + j % 4 * 8 + lane][first]);
        }
        // Shares are read by the lanes of the warp that wrote them alone.
        __syncwarp();
        const int keys = min(EXACT_KEYS, here.length - from);
#pragma unroll 4
        for (int key = 0; key < keys; ++key) {
            float share[4];
            load<float, 4>(&shared.shares[key][first], share);
#pragma unroll
            for (int part = 0; part < FOURS; ++part) {
                float value[4];
                load<float, 4>(&shared.values[key][part * 32 + lane * 4], value);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) sums[i][part * 4 + j] = fmaf(share[i], value[j], sums[i][part * 4 + j]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float sum = total[i];
#pragma unroll
        for (int lanes = 4; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
        const int query = here.query + first + i;
        if (query >= here.length) continue;
        const float share = 1.0f / sum;
        float* to = y + (here.begin + query) * inner + here.head * columns;
#pragma unroll
        for (int j = 0; j < FOURS * 4; ++j) {
            const int column = j / 4 * 32 + lane * 4 + j % 4;
            if (column < columns) to[column] = sums[i][j] * share + bias[2 * inner + column];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_f32(const float* states, const float* bias, const unsigned* begins, const float* by_distance,
              unsigned distances, unsigned heads, unsigned head, unsigned tiles, float scale, float* y) {
    attend_exactly({states, bias, begins, by_distance, distances, heads, head, tiles, scale}, y);
}

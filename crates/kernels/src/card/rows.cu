// What an encoder does with rows between its products, each step in one kernel. Rows have no gaps; V numbers of one are read at once,
// so that columns are a multiple of V.

// As `kernels::Activation` counts them, and tanh.
enum Activation { NONE, GELU_ERF, GELU_TANH, RELU, SILU, TANH };

template <int ACTIVATION> __device__ __forceinline__ float activated(float x) {
    switch (ACTIVATION) {
    case GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    // In this order, so that NaN goes through.
    case RELU: return x < 0.0f ? 0.0f : x;
    case SILU: return x / (1.0f + expf(-x));
    case TANH: return tanhf(x);
    default: return x;
    }
}

// y ← activation(y + bias). A thread has V columns of so many rows: of few where there are few, so that all multiprocessors have some.

template <typename T, int V, int ACTIVATION>
__device__ __forceinline__ void finish_rows(T* y, const T* bias, size_t rows, unsigned columns, unsigned each) {
    const unsigned column = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (column >= columns) return;
    float added[V];
    load<T, V>(bias + column, added);
    const size_t first = static_cast<size_t>(blockIdx.x) * each, end = min(first + each, rows);
#pragma unroll 4
    for (size_t row = first; row < end; ++row) {
        T* at = y + row * columns + column;
        float x[V];
        load<T, V>(at, x);
#pragma unroll
        for (int j = 0; j < V; ++j) x[j] = activated<ACTIVATION>(x[j] + added[j]);
        store<T, V>(x, at);
    }
}

template <typename T, int V>
__device__ __forceinline__ void finish(T* y, const T* bias, size_t rows, unsigned columns, unsigned each,
                                       unsigned activation) {
    switch (activation) {
    case GELU_ERF: return finish_rows<T, V, GELU_ERF>(y, bias, rows, columns, each);
    case GELU_TANH: return finish_rows<T, V, GELU_TANH>(y, bias, rows, columns, each);
    case RELU: return finish_rows<T, V, RELU>(y, bias, rows, columns, each);
    case SILU: return finish_rows<T, V, SILU>(y, bias, rows, columns, each);
    case TANH: return finish_rows<T, V, TANH>(y, bias, rows, columns, each);
    default: return finish_rows<T, V, NONE>(y, bias, rows, columns, each);
    }
}

__device__ __forceinline__ float of_warp(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
    return x;
}

// Rows of a table: the row of this index for each row of the result; without indices the row of the same place.
template <typename T> struct Table {
    const T* rows;
    const unsigned* indices;

    __device__ __forceinline__ const T* row(size_t row, unsigned columns) const {
        return rows + (indices ? indices[row] : row) * columns;
    }
};

// y ← the layer norm of a + b + c, where c is one row for all unless it has indices, or nothing. A warp has a row.
template <typename T, int V>
__device__ __forceinline__ void norm(Table<T> a, Table<T> b, Table<T> c, const T* weight, const T* bias, float epsilon,
                                     T* y, size_t rows, unsigned columns) {
    extern __shared__ __align__(32) float sums[];
    const size_t row = static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    float* sum = sums + threadIdx.y * columns;
    const T* first = a.row(row, columns);
    const T* second = b.row(row, columns);
    const T* third = c.indices ? c.row(row, columns) : c.rows;
    float total = 0.0f;
    for (unsigned column = threadIdx.x * V; column < columns; column += 32 * V) {
        float x[V], more[V];
        load<T, V>(first + column, x);
        load<T, V>(second + column, more);
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] += more[i];
        if (third) {
            load<T, V>(third + column, more);
#pragma unroll
            for (int i = 0; i < V; ++i) x[i] += more[i];
        }
#pragma unroll
        for (int i = 0; i < V; ++i) total += x[i];
        store<float, V>(x, sum + column);
    }
    // What a lane wrote it alone reads again.
    const float mean = of_warp(total) / columns;
    float squares = 0.0f;
    for (unsigned column = threadIdx.x * V; column < columns; column += 32 * V) {
        float x[V];
        load<float, V>(sum + column, x);
#pragma unroll
        for (int i = 0; i < V; ++i) squares += (x[i] - mean) * (x[i] - mean);
    }
    const float scale = 1.0f / sqrtf(of_warp(squares) / columns + epsilon);
    for (unsigned column = threadIdx.x * V; column < columns; column += 32 * V) {
        float x[V], times[V], plus[V];
        load<float, V>(sum + column, x);
        load<T, V>(weight + column, times);
        load<T, V>(bias + column, plus);
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] = (x[i] - mean) * scale * times[i] + plus[i];
        store<T, V>(x, y + row * columns + column);
    }
}

// y ← for each range of rows of x, from its begin to its end, their mean, in f32; without ends the range's first row, without begins
// each row alone. Some columns of one range are a block's, and its warps have every so many rows of them.
template <typename T>
__device__ __forceinline__ void means(const T* x, const unsigned* begins, const unsigned* ends, float* y, unsigned columns) {
    __shared__ float sums[8][32];
    const unsigned column = blockIdx.y * 32 + threadIdx.x;
    const size_t begin = begins ? begins[blockIdx.x] : blockIdx.x, end = ends ? ends[blockIdx.x] : begin + 1;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (size_t row = begin + threadIdx.y; row < end; row += 8) sum += static_cast<float>(x[row * columns + column]);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
    y[static_cast<size_t>(blockIdx.x) * columns + column] = sum / (end - begin);
}

#define KERNELS_OF(NAME, T, V)                                                                                                    \
    extern "C" __global__ void finish_##NAME(T* y, const T* bias, size_t rows, unsigned columns, unsigned each,                   \
                                             unsigned activation) {                                                               \
        finish<T, V>(y, bias, rows, columns, each, activation);                                                                   \
    }                                                                                                                             \
    extern "C" __global__ void norm_##NAME(const T* a, const unsigned* of_a, const T* b, const unsigned* of_b, const T* c,       \
                                           const unsigned* of_c, const T* weight, const T* bias, float epsilon, T* y,             \
                                           size_t rows, unsigned columns) {                                                       \
        norm<T, V>({a, of_a}, {b, of_b}, {c, of_c}, weight, bias, epsilon, y, rows, columns);                                     \
    }

KERNELS_OF(f32, float, 4)
KERNELS_OF(f32_odd, float, 1)
extern "C" __global__ void means_f32(const float* x, const unsigned* begins, const unsigned* ends, float* y, unsigned columns) {
    means(x, begins, ends, y, columns);
}

#if __CUDA_ARCH__ >= 800
KERNELS_OF(bf16, bf16, 8)
KERNELS_OF(bf16_odd, bf16, 1)

extern "C" __global__ void means_bf16(const bf16* x, const unsigned* begins, const unsigned* ends, float* y, unsigned columns) {
    means(x, begins, ends, y, columns);
}
#endif

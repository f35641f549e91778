// Numbers of an encoder's states on a card, f32 or bf16: some at once to and from memory, always computed with in f32. What is
// compiled begins with this file, and includes nothing.

// The upper half of an f32. Made of one by rounding to the nearest.
struct bf16 {
    unsigned short bits;

    bf16() = default;
#if __CUDA_ARCH__ >= 800
    __device__ __forceinline__ explicit bf16(float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
#endif
    __device__ __forceinline__ explicit operator float() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
};

// So many numbers that lie one after the other, as a card moves them best: V × the size of one is the alignment.
template <typename T, int V> struct __align__(V * sizeof(T)) Some {
    T of[V];
};

template <typename T, int V> __device__ __forceinline__ void load(const T* from, float (&to)[V]) {
    const Some<T, V> some = *reinterpret_cast<const Some<T, V>*>(from);
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] = static_cast<float>(some.of[i]);
}

template <typename T, int V> __device__ __forceinline__ void store(const float (&from)[V], T* to) {
    Some<T, V> some;
#pragma unroll
    for (int i = 0; i < V; ++i) some.of[i] = static_cast<T>(from[i]);
    *reinterpret_cast<Some<T, V>*>(to) = some;
}

// 2 to the x, to two units in the last place; 0 for minus infinity.
__device__ __forceinline__ float two_to(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Less than any number.
#define LEAST __int_as_float(0xff800000)

// CUDA C++ as CubeCL writes it, for g++: a block's threads are coroutines that change at barriers and warp operations.
//
// CUDA_ON_CPU_ORDER  forward (default) or backward: in which order blocks run, and threads between two barriers
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__ inline
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__

struct Index3 { unsigned x, y, z; };
struct Thread {
    void* stack_pointer;
    Index3 index;
    unsigned id;
    bool done;
};
struct Warp {
    unsigned alive, arrived, generation;
    char slots[2][32][16];
    unsigned voters[2], votes[2];
};

static Index3 blockIdx, blockDim, gridDim, threadIdx;
static constexpr unsigned warpSize = 32;
alignas(1024) char cuda_on_cpu_shared[232448];
static std::vector<Thread> threads;
static std::vector<Warp> warps;
static Thread* current;
static void* scheduler_stack;
static unsigned block_alive, block_arrived, block_generation, progress;
static const char* kernel_name;
static void (*body)(void**);
static void** launch_arguments;

// Saves what a call must preserve on the stack, and goes on with another stack.
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.pushsection .text
.local cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.popsection
)");

static void give_way() { cuda_on_cpu_switch(&current->stack_pointer, scheduler_stack); }

static void block_arrival() {
    if (block_arrived == block_alive) { block_arrived = 0; block_generation++; progress++; }
}
static void warp_arrival(Warp& warp) {
    if (warp.arrived == warp.alive) {
        warp.arrived = 0;
        warp.generation++;
        progress++;
        warp.voters[warp.generation & 1] = warp.votes[warp.generation & 1] = 0;
    }
}
static void __syncthreads() {
    const unsigned generation = block_generation;
    block_arrived++;
    block_arrival();
    while (generation == block_generation) give_way();
}
static Warp& own_warp() { return warps[current->id / 32]; }
static unsigned own_lane() { return current->id % 32; }
static void __syncwarp(unsigned = ~0u) {
    Warp& warp = own_warp();
    const unsigned generation = warp.generation;
    warp.arrived++;
    warp_arrival(warp);
    while (generation == warp.generation) give_way();
}
static void __threadfence() {}

// Every lane's value, after all have given theirs. The slots of two operations are apart, so that a fast lane does not
// overwrite what a slow one has still to read.
template <class T> static T exchange(T value, unsigned from) {
    static_assert(sizeof(T) <= 16);
    Warp& warp = own_warp();
    auto& slots = warp.slots[warp.generation & 1];
    memcpy(slots[own_lane()], &value, sizeof(T));
    __syncwarp();
    T result = value;
    if (from < 32) memcpy(&result, slots[from], sizeof(T));
    return result;
}
static unsigned __activemask() {
    const unsigned lanes = std::min<unsigned>(32, blockDim.x * blockDim.y * blockDim.z - current->id / 32 * 32);
    unsigned mask = 0;
    for (unsigned lane = 0; lane < lanes; lane++) mask |= unsigned(!threads[current->id / 32 * 32 + lane].done) << lane;
    return mask;
}
template <class T> static T __shfl_sync(unsigned, T value, unsigned lane) { return exchange(value, lane % 32); }
template <class T> static T __shfl_xor_sync(unsigned, T value, unsigned mask) { return exchange(value, own_lane() ^ mask); }
template <class T> static T __shfl_up_sync(unsigned, T value, unsigned delta) { return exchange(value, own_lane() < delta ? own_lane() : own_lane() - delta); }
template <class T> static T __shfl_down_sync(unsigned, T value, unsigned delta) { return exchange(value, own_lane() + delta > 31 ? own_lane() : own_lane() + delta); }
// Who voted, and who for it.
static std::pair<unsigned, unsigned> vote(bool value) {
    Warp& warp = own_warp();
    const unsigned slot = warp.generation & 1;
    warp.voters[slot] |= 1u << own_lane();
    warp.votes[slot] |= unsigned(value) << own_lane();
    __syncwarp();
    return {warp.voters[slot], warp.votes[slot]};
}
static unsigned __ballot_sync(unsigned, bool value) { return vote(value).second; }
static bool __any_sync(unsigned, bool value) { return vote(value).second != 0; }
static bool __all_sync(unsigned, bool value) { auto [voters, votes] = vote(value); return voters == votes; }

static void thread_main() {
    body(launch_arguments);
    current->done = true;
    progress++;
    block_alive--;
    own_warp().alive--;
    block_arrival();
    warp_arrival(own_warp());
    for (;;) give_way();
}

// Threads that never wait for each other.
static void run_alone(unsigned count, bool backward) {
    for (unsigned k = 0; k < count; k++) {
        const unsigned id = backward ? count - 1 - k : k;
        threadIdx = {id % blockDim.x, id / blockDim.x % blockDim.y, id / blockDim.x / blockDim.y};
        body(launch_arguments);
    }
}

static const uint64_t STACK_END = 0x5afe5afe5afe5afe;

static void run_block(std::vector<char>& stacks, size_t stack_bytes, unsigned shared, bool backward) {
    const unsigned count = threads.size();
    memset(cuda_on_cpu_shared, 0xff, shared);
    block_alive = count;
    block_arrived = 0;
    for (unsigned warp = 0; warp < warps.size(); warp++) { warps[warp].alive = std::min(32u, count - 32 * warp); warps[warp].arrived = 0; }
    for (unsigned id = 0; id < count; id++) {
        Thread& thread = threads[id];
        thread.id = id;
        thread.index = {id % blockDim.x, id / blockDim.x % blockDim.y, id / blockDim.x / blockDim.y};
        thread.done = false;
        // As after a call: six registers, the address to return to, and the stack one word off 16 bytes.
        char* top = stacks.data() + (id + 1) * stack_bytes;
        void** frame = (void**)((uintptr_t(top) & ~uintptr_t(15)) - 64);
        memset(frame, 0, 64);
        frame[6] = (void*)thread_main;
        thread.stack_pointer = frame;
        memcpy(top - stack_bytes, &STACK_END, sizeof STACK_END);
    }
    while (block_alive) {
        const unsigned before = progress;
        for (unsigned k = 0; k < count; k++) {
            current = &threads[backward ? count - 1 - k : k];
            if (current->done) continue;
            threadIdx = current->index;
            cuda_on_cpu_switch(&scheduler_stack, current->stack_pointer);
        }
        if (progress == before) {
            fprintf(stderr, "cuda_on_cpu: %s: threads wait for each other for ever, %u of %u at the block's barrier\n", kernel_name, block_arrived, block_alive);
            abort();
        }
    }
    for (unsigned id = 0; id < count; id++)
        if (memcmp(stacks.data() + id * stack_bytes, &STACK_END, sizeof STACK_END)) { fprintf(stderr, "cuda_on_cpu: %s: a stack is too small\n", kernel_name); abort(); }
}

template <class... A, size_t... I> static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_reference_t<std::remove_cv_t<A>>*)arguments[I]...);
}
template <class... A> static void call(void (*kernel)(A...), void** arguments) { call(kernel, arguments, std::index_sequence_for<A...>()); }

static void launch(const char* name, void (*called)(void**), const unsigned grid[3], const unsigned block[3], unsigned shared, void** arguments, bool alone) {
    static const char* order = getenv("CUDA_ON_CPU_ORDER");
    const bool backward = order && !strcmp(order, "backward");
    const size_t stack_bytes = 64 << 10;
    const unsigned count = block[0] * block[1] * block[2];
    static std::vector<char> stacks;
    if (stacks.size() < count * stack_bytes) stacks.resize(count * stack_bytes);
    kernel_name = name;
    body = called;
    launch_arguments = arguments;
    threads.resize(count);
    warps.assign((count + 31) / 32, Warp{});
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    for (uint64_t k = 0; k < blocks; k++) {
        const uint64_t at = backward ? blocks - 1 - k : k;
        blockIdx = {unsigned(at % grid[0]), unsigned(at / grid[0] % grid[1]), unsigned(at / grid[0] / grid[1])};
        alone ? run_alone(count, backward) : run_block(stacks, stack_bytes, shared, backward);
    }
}
#define CUDA_ON_CPU_ENTRY(kernel)                                                                                           \
    extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_launch(const unsigned grid[3], const unsigned block[3], unsigned shared, void** arguments) { \
        launch(#kernel, [](void** a) { call(kernel, a); }, grid, block, shared, arguments, CUDA_ON_CPU_ALONE);                                          \
    }

// 16-bit floats: computed in 32 bits and rounded once, as the hardware does.
static float float_of_bits(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
static uint32_t bits_of(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
struct HalfFormat {
    static float wide(uint16_t bits) { _Float16 value; memcpy(&value, &bits, 2); return value; }
    static uint16_t narrow(float value) { _Float16 half = value; uint16_t bits; memcpy(&bits, &half, 2); return bits; }
};
struct BrainFormat {
    static float wide(uint16_t bits) { return float_of_bits(uint32_t(bits) << 16); }
    static uint16_t narrow(float value) {
        const uint32_t bits = bits_of(value);
        if (std::isnan(value)) return 0x7fff;
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
};
template <class F> struct Short {
    uint16_t bits;
    Short() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> Short(T value) : bits(F::narrow(float(value))) {}
    operator float() const { return F::wide(bits); }
    Short& operator+=(Short other) { return *this = Short(float(*this) + float(other)); }
    Short& operator-=(Short other) { return *this = Short(float(*this) - float(other)); }
    Short& operator*=(Short other) { return *this = Short(float(*this) * float(other)); }
    Short& operator/=(Short other) { return *this = Short(float(*this) / float(other)); }
};
template <class F> struct alignas(4) Pair { Short<F> x, y; };
using __half = Short<HalfFormat>;
using __nv_bfloat16 = Short<BrainFormat>;
using __half2 = Pair<HalfFormat>;
using __nv_bfloat162 = Pair<BrainFormat>;
#define BINARY(op)                                                                                                     \
    template <class F> static Short<F> operator op(Short<F> a, Short<F> b) { return Short<F>(float(a) op float(b)); }      \
    template <class F> static Pair<F> operator op(Pair<F> a, Pair<F> b) { return {a.x op b.x, a.y op b.y}; }
BINARY(+) BINARY(-) BINARY(*) BINARY(/)
template <class F> static Short<F> operator-(Short<F> a) { a.bits ^= 0x8000; return a; }
template <class F> static Pair<F> operator-(Pair<F> a) { return {-a.x, -a.y}; }
#define COMPARE(op) template <class F> static bool operator op(Short<F> a, Short<F> b) { return float(a) op float(b); }
COMPARE(<) COMPARE(>) COMPARE(<=) COMPARE(>=) COMPARE(==) COMPARE(!=)
static float rsqrt(float x) { return 1.0f / std::sqrt(x); }
#define UNARY(name)                                                                                             \
    template <class F> static Short<F> h##name(Short<F> a) { using namespace std; return Short<F>(float(name(float(a)))); } \
    template <class F> static Pair<F> h2##name(Pair<F> a) { return {h##name(a.x), h##name(a.y)}; }
UNARY(log) UNARY(sin) UNARY(cos) UNARY(tanh) UNARY(sqrt) UNARY(rsqrt) UNARY(exp) UNARY(ceil) UNARY(trunc) UNARY(floor) UNARY(rint)
template <class F> static Short<F> __habs(Short<F> a) { a.bits &= 0x7fff; return a; }
template <class F> static Pair<F> __habs2(Pair<F> a) { return {__habs(a.x), __habs(a.y)}; }
template <class F> static bool __hisnan(Short<F> a) { return std::isnan(float(a)); }
template <class F> static bool __hisinf(Short<F> a) { return std::isinf(float(a)); }
template <class F> static Short<F> __hmin(Short<F> a, Short<F> b) { return Short<F>(std::fmin(float(a), float(b))); }
template <class F> static Short<F> __hmax(Short<F> a, Short<F> b) { return Short<F>(std::fmax(float(a), float(b))); }
template <class F> static Pair<F> __hmin2(Pair<F> a, Pair<F> b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
template <class F> static Pair<F> __hmax2(Pair<F> a, Pair<F> b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
template <class F> static Short<F> __hfma(Short<F> a, Short<F> b, Short<F> c) { return Short<F>(std::fma(float(a), float(b), float(c))); }
template <class F> static Pair<F> __hfma2(Pair<F> a, Pair<F> b, Pair<F> c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

using std::isinf;
using std::isnan;
static float min(float a, float b) { return std::fmin(a, b); }
static float max(float a, float b) { return std::fmax(a, b); }
static double min(double a, double b) { return std::fmin(a, b); }
static double max(double a, double b) { return std::fmax(a, b); }
#define INTEGER(T)                                    \
    static T min(T a, T b) { return a < b ? a : b; } \
    static T max(T a, T b) { return a < b ? b : a; }
INTEGER(int) INTEGER(unsigned) INTEGER(long) INTEGER(unsigned long) INTEGER(long long) INTEGER(unsigned long long)
static float __expf(float x) { return std::exp(x); }
static float __logf(float x) { return std::log(x); }
static float __powf(float x, float y) { return std::pow(x, y); }
static float __sinf(float x) { return std::sin(x); }
static float __cosf(float x) { return std::cos(x); }
static float __tanhf(float x) { return std::tanh(x); }
static float __fdividef(float x, float y) { return x / y; }
static float __frcp_rn(float x) { return 1 / x; }
static float __fsqrt_rn(float x) { return std::sqrt(x); }
static float __frsqrt_rn(float x) { return 1 / std::sqrt(x); }
static unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
static int __popc(unsigned x) { return __builtin_popcount(x); }
static int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static int __ffs(int x) { return __builtin_ffs(x); }
template <class T> static T atomicAdd(T* at, T value) { const T before = *at; *at = before + value; return before; }
template <class T> static T atomicMax(T* at, T value) { const T before = *at; *at = max(before, value); return before; }
template <class T> static T atomicMin(T* at, T value) { const T before = *at; *at = min(before, value); return before; }
template <class T> static T atomicExch(T* at, T value) { const T before = *at; *at = value; return before; }

// Tensor cores: every lane holds and computes the whole tile.
namespace nvcuda::wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major; struct col_major;
namespace precision { struct tf32; }
enum layout_t { mem_row_major, mem_col_major };
template <class T> struct Stored { using type = T; };
template <> struct Stored<precision::tf32> { using type = float; };
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static constexpr int rows = std::is_same_v<Use, matrix_b> ? K : M, columns = std::is_same_v<Use, matrix_a> ? K : N;
    static constexpr int num_elements = rows * columns;
    typename Stored<T>::type x[num_elements];
};
static float __float_to_tf32(float x) { uint32_t bits = bits_of(x); if (!std::isfinite(x)) return x; return float_of_bits((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu); }
template <class Use, int M, int N, int K, class T, class L, class V> static void fill_fragment(fragment<Use, M, N, K, T, L>& f, V value) {
    for (auto& x : f.x) x = value;
}
template <class Use, int M, int N, int K, class T, class L, class V> static void load_matrix_sync(fragment<Use, M, N, K, T, L>& f, const V* from, unsigned stride) {
    __syncwarp();
    for (int r = 0; r < f.rows; r++)
        for (int c = 0; c < f.columns; c++) f.x[r * f.columns + c] = std::is_same_v<L, col_major> ? from[c * stride + r] : from[r * stride + c];
}
template <int M, int N, int K, class T, class V> static void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const V* from, unsigned stride, layout_t layout) {
    __syncwarp();
    for (int r = 0; r < M; r++)
        for (int c = 0; c < N; c++) f.x[r * N + c] = layout == mem_col_major ? from[c * stride + r] : from[r * stride + c];
}
template <int M, int N, int K, class T, class V> static void store_matrix_sync(V* to, const fragment<accumulator, M, N, K, T>& f, unsigned stride, layout_t layout) {
    for (int r = 0; r < M; r++)
        for (int c = 0; c < N; c++) (layout == mem_col_major ? to[c * stride + r] : to[r * stride + c]) = f.x[r * N + c];
    __syncwarp();
}
template <int M, int N, int K, class D, class A, class LA, class B, class LB, class C>
static void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, A, LA>& a, const fragment<matrix_b, M, N, K, B, LB>& b, const fragment<accumulator, M, N, K, C>& c) {
    float left[M * K], right[K * N], sum[M * N];
    for (int i = 0; i < M * K; i++) left[i] = a.x[i];
    for (int i = 0; i < K * N; i++) right[i] = b.x[i];
    for (int i = 0; i < M * N; i++) sum[i] = c.x[i];
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++)
            for (int n = 0; n < N; n++) sum[m * N + n] += left[m * K + k] * right[k * N + n];
    for (int i = 0; i < M * N; i++) d.x[i] = sum[i];
}
}  // namespace nvcuda::wmma

// The kernels define these themselves, 64 bits as `long long`.
#define uint64_t kernel_uint64_t
#define int64_t kernel_int64_t

// Vectors of the instruction set, and the few functions of numbers that everything uses.
// Included once for each instruction set, inside a namespace of its own.

// The cache's lines, in bytes: vectors that cross them cost double.
constexpr int64_t LINE = 64;

template <class T>
struct Vector {
    static constexpr int64_t lanes = VECTOR_BYTES / sizeof(T);
    typedef T Type __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T>
using Vec = typename Vector<T>::Type;

template <class T>
INLINE Vec<T> load(const T* from) {
    Vec<T> v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class T>
INLINE void store(T* to, Vec<T> v) {
    __builtin_memcpy(to, &v, sizeof v);
}

// The last plane of an image whose channels do not fill it: the first n values, 0 < n < lanes. The instruction set's own
// masks, since a copy of so many bytes is a call.
#if defined(__x86_64__) && !defined(__clang__) && VECTOR_BYTES == 64
INLINE Vec<float> load_some(const float* from, int64_t n) {
    return __builtin_ia32_loadups512_mask(from, Vec<float>{}, (1u << n) - 1);
}

INLINE Vec<double> load_some(const double* from, int64_t n) {
    return __builtin_ia32_loadupd512_mask(from, Vec<double>{}, (1u << n) - 1);
}

INLINE void store_some(float* to, Vec<float> v, int64_t n) { __builtin_ia32_storeups512_mask(to, v, (1u << n) - 1); }

INLINE void store_some(double* to, Vec<double> v, int64_t n) { __builtin_ia32_storeupd512_mask(to, v, (1u << n) - 1); }
#else
template <class T>
INLINE void copy_some(const T* from, int64_t n, T* to) {
    int64_t i = 0;
    for (int64_t part = Vector<T>::lanes / 2; part > 1; part /= 2)
        if (n & part) {
            __builtin_memcpy(to + i, from + i, part * sizeof(T));
            i += part;
        }
    if (n & 1) to[i] = from[i];
}

template <class T>
INLINE Vec<T> load_some(const T* from, int64_t n) {
    Vec<T> v = {};
    copy_some(from, n, reinterpret_cast<T*>(&v));
    return v;
}

template <class T>
INLINE void store_some(T* to, Vec<T> v, int64_t n) {
    copy_some(reinterpret_cast<const T*>(&v), n, to);
}
#endif

template <class T>
INLINE Vec<T> load(const T* from, int64_t n) {
    return n >= Vector<T>::lanes ? load(from) : load_some(from, n);
}

template <class T>
INLINE void store(T* to, Vec<T> v, int64_t n) {
    if (n >= Vector<T>::lanes)
        store(to, v);
    else
        store_some(to, v, n);
}

#if !defined(__x86_64__) || defined(__clang__)
#define STREAM_FLOATS(to, v) store(to, v)
#define STREAM_DOUBLES(to, v) store(to, v)
#elif VECTOR_BYTES == 64
#define STREAM_FLOATS __builtin_ia32_movntps512
#define STREAM_DOUBLES __builtin_ia32_movntpd512
#elif VECTOR_BYTES == 32
#define STREAM_FLOATS __builtin_ia32_movntps256
#define STREAM_DOUBLES __builtin_ia32_movntpd256
#else
#define STREAM_FLOATS __builtin_ia32_movntps
#define STREAM_DOUBLES __builtin_ia32_movntpd
#endif

// Past the caches, for what is not read soon: the memory is not read first. `to` lies on a whole vector.
INLINE void stream(float* to, Vec<float> v) { STREAM_FLOATS(to, v); }
INLINE void stream(double* to, Vec<double> v) { STREAM_DOUBLES(to, v); }

#undef STREAM_FLOATS
#undef STREAM_DOUBLES

// What a thread has streamed, others may read behind this and a barrier.
INLINE void finish_streams() {
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

template <class T>
INLINE bool is_aligned(const T* at) {
    return reinterpret_cast<uintptr_t>(at) % VECTOR_BYTES == 0;
}

template <class T>
void stream_all(const T* from, int64_t count, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t i = 0;
    if (is_aligned(to))
        for (; i + L <= count; i += L) stream(to + i, load(from + i));
    std::memcpy(to + i, from + i, (count - i) * sizeof(T));
}

// v where `by` is positive or not a number (which must not be hidden), else 0.
template <class T>
INLINE Vec<T> where_positive(Vec<T> v, Vec<T> by) {
    return by <= 0 ? Vec<T>{} : v;
}

// Sums that fit the registers beside what they are made of: with 512 bits there are twice as many registers.
constexpr int MANY = VECTOR_BYTES == 64 ? 16 : 8;

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

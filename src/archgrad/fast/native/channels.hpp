// What is done to an image channel by channel, without a product of pixels with matrices.
// Included once for each instruction set, inside a namespace of its own.
//
// Coefficients of C channels are repeated until they fill whole vectors: C lanes / gcd(C, lanes) values. An image is
// then a flat array, whatever its number of channels; the few pixels that are left over go one value at a time.

INLINE int64_t period_of(int64_t channels, int64_t lanes) {
    int64_t a = channels, b = lanes;
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return channels / a * lanes;
}

// Call f(i, channel) for the values of whole pixels, from the first of one on.
template <class F>
INLINE void each_value(int64_t begin, int64_t end, int64_t channels, F f) {
    for (int64_t i = begin, c = 0; i < end; ++i) {
        f(i, c);
        if (++c == channels) c = 0;
    }
}

template <class T>
struct Periodic {
    static int64_t size(int64_t channels) { return period_of(channels, Vector<T>::lanes); }

    static void repeat(const void* values, int64_t channels, T* to) {
        each_value(0, size(channels), channels,
                   [=](int64_t i, int64_t c) { to[i] = values ? static_cast<const T*>(values)[c] : T(0); });
    }
};

// to = a x + b, or to += a x; through a ReLU if asked for. Coefficients are repeated, the count is that of values.
// `next` is as long as x and brought near meanwhile.
template <class T>
void scale_and_shift(const T* x, const T* next, const T* a, const T* b, int64_t period, int64_t count, T* to, bool add,
                     bool relu) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t i = 0;
    for (; i + period <= count; i += period)
        for (int64_t e = 0; e < period; e += L) {
            __builtin_prefetch(next + i + e, 0, 2);
            Vec<T> y = load(a + e) * load(x + i + e) + (add ? load(to + i + e) : load(b + e));
            if (relu) y = where_positive<T>(y, y);
            store(to + i + e, y);
        }
    for (int64_t e = 0; i < count; ++i, ++e) {
        const T y = a[e] * x[i] + (add ? to[i] : b[e]);
        to[i] = relu && y <= 0 ? T(0) : y;
    }
}

// to = a grad + b x + c, with the gradient only where the mask is positive.
template <class T>
void mix(const T* grad, const T* mask, const T* x, const T* a, const T* b, const T* c, int64_t period, int64_t count,
         T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t i = 0;
    for (; i + period <= count; i += period)
        for (int64_t e = 0; e < period; e += L) {
            Vec<T> g = load(grad + i + e);
            if (mask) g = where_positive<T>(g, load(mask + i + e));
            store(to + i + e, load(a + e) * g + (load(b + e) * load(x + i + e) + load(c + e)));
        }
    for (int64_t e = 0; i < count; ++i, ++e) {
        const T g = mask && mask[i] <= 0 ? T(0) : grad[i];
        to[i] = a[e] * g + (b[e] * x[i] + c[e]);
    }
}

// to = values where `by` is positive.
template <class T>
void copy_where_positive(const T* values, const T* by, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = by[i] <= 0 ? T(0) : values[i];
}

// Sums over the pixels of N vectors of channels, beginning at `e`, of one image that was cut into periods.
template <class T, int N, class Values>
INLINE void sum_vectors(int64_t e, int64_t period, int64_t count, T* sums, T* weighted, Values values) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> one[N] = {}, other[N] = {};
    for (int64_t i = 0; i + period <= count; i += period)
        UNROLL for (int v = 0; v < N; ++v) values(i + e + v * L, e + v * L, one[v], other[v]);
    UNROLL for (int v = 0; v < N; ++v) store(sums + e + v * L, one[v]);
    UNROLL for (int v = 0; v < N; ++v) store(weighted + e + v * L, other[v]);
}

template <class T, class Values>
INLINE void sum_periods(int64_t period, int64_t count, T* sums, T* weighted, Values values) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t e = 0;
    for (; e + 4 * L <= period; e += 4 * L) sum_vectors<T, 4>(e, period, count, sums, weighted, values);
    for (; e + 2 * L <= period; e += 2 * L) sum_vectors<T, 2>(e, period, count, sums, weighted, values);
    for (; e < period; e += L) sum_vectors<T, 1>(e, period, count, sums, weighted, values);
}

// Sums (C,) of grad and of grad * x, with the gradient only where the mask is positive; `room` holds two periods.
// `next` is as long as x and brought near meanwhile.
template <class T>
void sum_gradients(const T* grad, const T* mask, const T* x, const T* next, int64_t channels, int64_t count, T* room, double* totals,
                   double* products) {
    const int64_t period = Periodic<T>::size(channels);
    const auto add = [&](int64_t i, int64_t, Vec<T>& total, Vec<T>& product) __attribute__((always_inline)) {
        __builtin_prefetch(next + i, 0, 2);
        Vec<T> g = load(grad + i);
        if (mask) g = where_positive<T>(g, load(mask + i));
        total += g;
        product += g * load(x + i);
    };
    sum_periods<T>(period, count, room, room + period, add);
    for (int64_t c = 0; c < channels; ++c) totals[c] = products[c] = 0;
    each_value(0, period, channels, [=](int64_t e, int64_t c) {
        totals[c] += room[e];
        products[c] += room[period + e];
    });
    each_value(count / period * period, count, channels, [=](int64_t i, int64_t c) {
        const T g = mask && mask[i] <= 0 ? T(0) : grad[i];
        totals[c] += g;
        products[c] += double(g) * x[i];
    });
}

// Mean and sum of squared deviations (C,) of one image; `room` holds three periods.
template <class T>
void moments(const T* x, int64_t channels, int64_t count, T* room, double* mean, double* deviations) {
    const int64_t period = Periodic<T>::size(channels), cut = count / period * period;
    T* centre = room + 2 * period;
    const auto add = [&](int64_t i, int64_t, Vec<T>& sum, Vec<T>&) __attribute__((always_inline)) {
        sum += load(x + i);
    };
    sum_periods<T>(period, count, room, room + period, add);
    for (int64_t c = 0; c < channels; ++c) mean[c] = deviations[c] = 0;
    each_value(0, period, channels, [=](int64_t e, int64_t c) { mean[c] += room[e]; });
    each_value(cut, count, channels, [=](int64_t i, int64_t c) { mean[c] += x[i]; });
    for (int64_t c = 0; c < channels; ++c) mean[c] /= count / channels;
    each_value(0, period, channels, [=](int64_t e, int64_t c) { centre[e] = T(mean[c]); });
    const auto deviate = [&](int64_t i, int64_t e, Vec<T>& sum, Vec<T>&) __attribute__((always_inline)) {
        const Vec<T> d = load(x + i) - load(centre + e);
        sum += d * d;
    };
    sum_periods<T>(period, count, room, room + period, deviate);
    each_value(0, period, channels, [=](int64_t e, int64_t c) { deviations[c] += room[e]; });
    each_value(cut, count, channels, [=](int64_t i, int64_t c) {
        const double d = x[i] - mean[c];
        deviations[c] += d * d;
    });
}

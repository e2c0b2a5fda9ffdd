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

// What a ReLU behind strength * x + offset lets through; without these everything. Coefficients are repeated.
template <class T>
struct Gate {
    const T *strength, *offset;

    INLINE Vec<T> operator()(Vec<T> grad, Vec<T> x, int64_t e) const {
        return strength ? where_positive<T>(grad, load(strength + e) * x + load(offset + e)) : grad;
    }
    INLINE T operator()(T grad, T x, int64_t e) const {
        return strength && strength[e] * x + offset[e] <= 0 ? T(0) : grad;
    }
};

// to = a grad + b x + c, with the gradient behind the gate.
template <class T>
void mix(const T* grad, Gate<T> gate, const T* x, const T* a, const T* b, const T* c, int64_t period, int64_t count,
         T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t i = 0;
    for (; i + period <= count; i += period)
        for (int64_t e = 0; e < period; e += L) {
            const Vec<T> here = load(x + i + e), g = gate(load(grad + i + e), here, e);
            store(to + i + e, load(a + e) * g + (load(b + e) * here + load(c + e)));
        }
    for (int64_t e = 0; i < count; ++i, ++e) {
        to[i] = a[e] * gate(grad[i], x[i], e) + (b[e] * x[i] + c[e]);
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

// Sums (C,) of grad and of grad * x, with the gradient behind the gate; `room` holds two periods.
// `next` is as long as x and brought near meanwhile.
template <class T>
void sum_gradients(const T* grad, Gate<T> gate, const T* x, const T* next, int64_t channels, int64_t count, T* room,
                   double* totals, double* products) {
    const int64_t period = Periodic<T>::size(channels);
    const auto add = [&](int64_t i, int64_t e, Vec<T>& total, Vec<T>& product) __attribute__((always_inline)) {
        __builtin_prefetch(next + i, 0, 2);
        const Vec<T> here = load(x + i), g = gate(load(grad + i), here, e);
        total += g;
        product += g * here;
    };
    sum_periods<T>(period, count, room, room + period, add);
    for (int64_t c = 0; c < channels; ++c) totals[c] = products[c] = 0;
    each_value(0, period, channels, [=](int64_t e, int64_t c) {
        totals[c] += room[e];
        products[c] += room[period + e];
    });
    each_value(count / period * period, count, channels, [=](int64_t i, int64_t c) {
        const T g = gate(grad[i], x[i], c);
        totals[c] += g;
        products[c] += double(g) * x[i];
    });
}

// Mean and sum of squared deviations (C,) of one image; `room` holds three periods.
//
// Deviations are taken from the mean of a first few pixels, which is never further from that of all n than sqrt(n / few)
// standard deviations: what cancels in the end is not large against what is left.
template <class T>
void moments(const T* x, int64_t channels, int64_t count, T* room, double* mean, double* deviations) {
    const int64_t period = Periodic<T>::size(channels), cut = count / period * period;
    const int64_t few = smaller(larger(cut / period / 32, 1) * period, cut);
    T *sums = room, *squares = room + period, *centre = room + 2 * period;
    for (int64_t c = 0; c < channels; ++c) mean[c] = few ? 0 : x[c];
    if (few) {
        const auto add = [&](int64_t i, int64_t, Vec<T>& sum, Vec<T>&) __attribute__((always_inline)) {
            sum += load(x + i);
        };
        sum_periods<T>(period, few, sums, squares, add);
        each_value(0, period, channels, [=](int64_t e, int64_t c) { mean[c] += sums[e] / double(few / channels); });
    }
    each_value(0, period, channels, [=](int64_t e, int64_t c) { centre[e] = T(mean[c]); });
    const auto deviate = [&](int64_t i, int64_t e, Vec<T>& sum, Vec<T>& square) __attribute__((always_inline)) {
        const Vec<T> d = load(x + i) - load(centre + e);
        sum += d;
        square += d * d;
    };
    sum_periods<T>(period, count, sums, squares, deviate);
    for (int64_t c = 0; c < channels; ++c) mean[c] = deviations[c] = 0;
    each_value(0, period, channels, [=](int64_t e, int64_t c) {
        mean[c] += sums[e];
        deviations[c] += squares[e];
    });
    each_value(cut, count, channels, [=](int64_t i, int64_t c) {
        const double d = double(x[i]) - centre[c];
        mean[c] += d;
        deviations[c] += d * d;
    });
    const double pixels = double(count / channels);
    for (int64_t c = 0; c < channels; ++c) {
        const double around = deviations[c] - mean[c] * mean[c] / pixels;
        deviations[c] = around < 0 ? 0 : around;  // what is not a number is not hidden
        mean[c] = centre[c] + mean[c] / pixels;
    }
}

// Mean and biased variance over all images of one channel, from the moments of each.
template <class T, class Means, class Deviations>
void join_moments(int64_t batch, int64_t pixels, Means mean_of, Deviations deviations_of, T* mean, T* variance) {
    double middle = 0, within = 0, across = 0;
    for (int64_t i = 0; i < batch; ++i) middle += mean_of(i) / batch;
    for (int64_t i = 0; i < batch; ++i) {
        const double d = mean_of(i) - middle;
        within += deviations_of(i);
        across += d * d;
    }
    *mean = T(middle);
    *variance = T((within / pixels + across) / batch);
}

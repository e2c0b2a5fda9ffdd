// How the states of a cell with partial channels pass by its operations, in one pass over them each way.
// Included once for each instruction set, inside a namespace of its own.
//
// With K groups of O channels, a node is `woven` of what was mixed, (O,), and of the weighted sum of what passes by, of
// which the first O channels do not count: channel c of group g becomes channel c K + g. Sums are taken over all
// channels, so that pixels are a flat array. Blocks of pixels stay in the first cache.

// to = the groups of n pixels woven: the first is `mixed`, the others are those of `passing`.
template <class T, class Groups>
INLINE void weave_pixels(const T* mixed, const T* passing, int64_t n, int64_t outputs, Groups groups, T* to) {
    const int64_t channels = groups * outputs;
    for (int64_t p = 0; p < n; ++p, mixed += outputs, passing += channels, to += channels)
        for (int64_t c = 0; c < outputs; ++c) {
            to[c * groups] = mixed[c];
            for (int64_t g = 1; g < groups; ++g) to[c * groups + g] = passing[g * outputs + c];
        }
}

// The other way; the first group of `passing` becomes zero.
template <class T, class Groups>
INLINE void unweave_pixels(const T* woven, int64_t n, int64_t outputs, Groups groups, T* mixed, T* passing) {
    const int64_t channels = groups * outputs;
    for (int64_t p = 0; p < n; ++p, mixed += outputs, passing += channels, woven += channels)
        for (int64_t c = 0; c < outputs; ++c) {
            mixed[c] = woven[c * groups];
            passing[c] = 0;
            for (int64_t g = 1; g < groups; ++g) passing[g * outputs + c] = woven[c * groups + g];
        }
}

// Call f(groups) with a number that is known to the compiler, where it is a usual one.
template <class F>
INLINE void with_groups(int64_t groups, F f) {
    struct Two {
        INLINE constexpr operator int64_t() const { return 2; }
    };
    struct Four {
        INLINE constexpr operator int64_t() const { return 4; }
    };
    if (groups == 4)
        f(Four());
    else if (groups == 2)
        f(Two());
    else
        f(groups);
}

// to = weight * x, or that is added to it.
template <class T>
INLINE void add_scaled(T weight, const T* x, int64_t count, bool add, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t i = 0;
    for (; i + L <= count; i += L) {
        const Vec<T> v = weight * load(x + i);
        store(to + i, add ? load(to + i) + v : v);
    }
    for (; i < count; ++i) to[i] = add ? to[i] + weight * x[i] : weight * x[i];
}

template <class T>
INLINE double inner(const T* a, const T* b, int64_t count) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sums = {};
    int64_t i = 0;
    for (; i + L <= count; i += L) sums += load(a + i) * load(b + i);
    double total = 0;
    for (int64_t lane = 0; lane < L; ++lane) total += sums[lane];
    for (; i < count; ++i) total += a[i] * b[i];
    return total;
}

// Some pixels at a time.
struct Blocks {
    template <class T>
    static Blocks of(const Job& j) {
        const int64_t most = larger(4096 / int64_t(sizeof(T)) / j.channels, 1);
        return {j.batch, j.height * j.width, most};
    }
    // Call f(first pixel, counted through all images, and number of pixels) for the blocks of image i.
    template <class F>
    INLINE void of_image(int64_t i, F f) const {
        for (int64_t p = 0; p < pixels; p += most) f(i * pixels + p, smaller(most, pixels - p));
    }
    int64_t batch, pixels, most;
};

template <class T>
INLINE T weight_of(const Job& j) {
    return j.strength ? *static_cast<const T*>(j.strength) : T(1);
}

// output = what passes by, summed over all jobs, woven with the first job's result if there is one; part = the first
// channels of it.
template <class T>
void weave(const Job* jobs, int64_t n) {
    const Job& j = jobs[0];
    const int64_t channels = j.channels, outputs = j.outputs;
    const Blocks blocks = Blocks::of<T>(j);
#pragma omp parallel
    {
        T* sum = scratch<T>(2 * up_to(blocks.most * channels, LINE));
        T* woven = sum + up_to(blocks.most * channels, LINE);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks.batch; ++i)
            blocks.of_image(i, [&](int64_t first, int64_t pixels) __attribute__((always_inline)) {
                const int64_t at = first * channels, count = pixels * channels;
                for (int64_t k = 0; k < n; ++k)
                    add_scaled(weight_of<T>(jobs[k]), static_cast<const T*>(jobs[k].input) + at, count, k > 0, sum);
                const T* whole = sum;
                if (j.result) {
                    T* to = j.output ? static_cast<T*>(j.output) + at : woven;
                    const T* mixed = static_cast<const T*>(j.result) + first * outputs;
                    with_groups(channels / outputs, [&](auto groups) __attribute__((always_inline)) {
                        weave_pixels(mixed, sum, pixels, outputs, groups, to);
                    });
                    whole = to;
                }
                if (!j.part) return;
                T* part = static_cast<T*>(j.part) + first * outputs;
                for (int64_t p = 0; p < pixels; ++p)
                    for (int64_t c = 0; c < outputs; ++c) part[p * outputs + c] = whole[p * channels + c];
            });
    }
}

// From the gradients by output and part, either of which may be missing, to those by the result, by what passes by, and
// by its weights (`products`).
template <class T>
void unweave(const Job* jobs, int64_t n) {
    const Job& j = jobs[0];
    const int64_t channels = j.channels, outputs = j.outputs;
    const Blocks blocks = Blocks::of<T>(j);
    Array<double> products(blocks.batch * n);
#pragma omp parallel
    {
        const int64_t room = up_to(blocks.most * channels, LINE);
        T* d_woven = scratch<T>(3 * room);
        T* d_sum = d_woven + room;
        T* d_mixed = d_sum + room;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < blocks.batch; ++i)
            blocks.of_image(i, [&](int64_t first, int64_t pixels) __attribute__((always_inline)) {
                const int64_t at = first * channels, count = pixels * channels;
                if (j.grad)
                    std::memcpy(d_woven, static_cast<const T*>(j.grad) + at, count * sizeof(T));
                else
                    std::memset(d_woven, 0, count * sizeof(T));
                if (j.grad_part) {
                    const T* part = static_cast<const T*>(j.grad_part) + first * outputs;
                    for (int64_t p = 0; p < pixels; ++p)
                        for (int64_t c = 0; c < outputs; ++c) d_woven[p * channels + c] += part[p * outputs + c];
                }
                const T* through = d_woven;
                if (j.result) {
                    T* to = j.d_result ? static_cast<T*>(j.d_result) + first * outputs : d_mixed;
                    with_groups(channels / outputs, [&](auto groups) __attribute__((always_inline)) {
                        unweave_pixels(d_woven, pixels, outputs, groups, to, d_sum);
                    });
                    through = d_sum;
                }
                for (int64_t k = 0; k < n; ++k) {
                    if (jobs[k].products)
                        products[i * n + k] += inner(through, static_cast<const T*>(jobs[k].input) + at, count);
                    if (jobs[k].d_input)
                        add_scaled(weight_of<T>(jobs[k]), through, count, jobs[k].adds,
                                   static_cast<T*>(jobs[k].d_input) + at);
                }
            });
    }
    for (int64_t k = 0; k < n; ++k) {
        if (!jobs[k].products) continue;
        double total = 0;
        for (int64_t i = 0; i < blocks.batch; ++i) total += products[i * n + k];
        *static_cast<T*>(jobs[k].products) = T(total);
    }
}

// Dense convolutions of 3 x 3 pixels with 16 products for 4 results, instead of 36 (Lavin and Gray 2016).
// Included once for each instruction set, inside a namespace of its own.
//
// A patch d of 4 x 4 pixels and a kernel w give 2 x 2 results, A^T ((G w G^T) * (B^T d B)) A, where * is by position.
// With channels, each of the 16 positions has a matrix of its own, and many patches are one product with it. From g, the
// gradient by the results, that by w is G^T ((A g A^T) * (B^T d B)) G.

constexpr int64_t POSITIONS = 16;

// How an image is cut: some rows of patches are done at once, as many as products need to be quick.
struct Patches {
    Patches(int64_t height, int64_t width) : down((height + 1) / 2), across((width + 1) / 2) {}
    int64_t rows() const { return smaller(down, (31 + across) / across); }
    // What lies at one position of all of them, a pixel each.
    Shape tile(int64_t channels) const { return {1, rows() * across, 0, channels}; }
    // From position to position: a vector more than that, lest all of them are in one set of the cache.
    template <class T>
    int64_t apart(int64_t channels) const {
        return tile(channels).size<T>() + Vector<T>::lanes;
    }
    // Room for two images' patches.
    template <class T>
    int64_t room(int64_t channels, int64_t others) const {
        return POSITIONS * (apart<T>(channels) + apart<T>(others));
    }
    int64_t down, across;
};

// Call f(plane, row of patches, patch of the row, its number) for the rows from `first` on that are done at once.
template <class T, class F>
INLINE void each_patch(const Patches& patches, int64_t first, int64_t channels, F f) {
    const int64_t rows = smaller(patches.rows(), patches.down - first);
    for (int64_t b = 0; b * Vector<T>::lanes < channels; ++b)
        for (int64_t y = 0; y < rows; ++y)
            for (int64_t x = 0; x < patches.across; ++x) f(b, first + y, x, y * patches.across + x);
}

template <class T>
INLINE void spread(Vec<T>& a, Vec<T>& b, Vec<T>& c, Vec<T>& d) {
    const Vec<T> second = b;
    a -= c;
    b += c;
    c -= second;
    d = second - d;
}

// to (16, patches) = B^T d B.
template <class T>
void spread_input(const Patches& patches, int64_t first, const T* tile, Shape s, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    const Shape all = patches.tile(s.channels);
    const int64_t apart = patches.apart<T>(s.channels);
    const auto one = [&](int64_t b, int64_t y, int64_t x, int64_t n) __attribute__((always_inline)) {
        const T* from = tile + b * s.plane<T>() + s.at<T>(2 * y - 1, 2 * x - 1);
        Vec<T> d[4][4];
        UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q)
            d[r][q] = load(from + (r * s.columns() + q) * L);
        UNROLL for (int q = 0; q < 4; ++q) spread<T>(d[0][q], d[1][q], d[2][q], d[3][q]);
        UNROLL for (int r = 0; r < 4; ++r) spread<T>(d[r][0], d[r][1], d[r][2], d[r][3]);
        T* at = to + b * all.plane<T>() + n * L;
        UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q) store(at + (4 * r + q) * apart, d[r][q]);
    };
    each_patch<T>(patches, first, s.channels, one);
}

// to (16, patches) = A g A^T.
template <class T>
void spread_gradient(const Patches& patches, int64_t first, const T* tile, Shape s, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    const Shape all = patches.tile(s.channels);
    const int64_t apart = patches.apart<T>(s.channels);
    const auto one = [&](int64_t b, int64_t y, int64_t x, int64_t n) __attribute__((always_inline)) {
        const T* from = tile + b * s.plane<T>() + s.at<T>(2 * y, 2 * x);
        const int64_t below = s.columns() * L;
        const Vec<T> g[2][2] = {{load(from), load(from + L)}, {load(from + below), load(from + below + L)}};
        T* at = to + b * all.plane<T>() + n * L;
        UNROLL for (int r = 0; r < 4; ++r) {
            Vec<T> h[2];
            UNROLL for (int q = 0; q < 2; ++q)
                h[q] = r == 0 ? g[0][q] : r == 1 ? g[0][q] + g[1][q] : r == 2 ? g[0][q] - g[1][q] : -g[1][q];
            store(at + (4 * r + 0) * apart, h[0]);
            store(at + (4 * r + 1) * apart, h[0] + h[1]);
            store(at + (4 * r + 2) * apart, h[0] - h[1]);
            store(at + (4 * r + 3) * apart, -h[1]);
        }
    };
    each_patch<T>(patches, first, s.channels, one);
}

// image = A^T m A, from m (16, patches). The image is given from row 2 `first` on, where `height` rows are left of it.
template <class T>
void join(const Patches& patches, int64_t first, const T* from, int64_t channels, T* image, int64_t height,
          int64_t width) {
    constexpr int64_t L = Vector<T>::lanes;
    const Shape all = patches.tile(channels);
    const int64_t apart = patches.apart<T>(channels);
    const auto one = [&](int64_t b, int64_t y, int64_t x, int64_t n) __attribute__((always_inline)) {
        const T* at = from + b * all.plane<T>() + n * L;
        Vec<T> h[2][4];
        UNROLL for (int q = 0; q < 4; ++q) {
            const Vec<T> m1 = load(at + (4 + q) * apart), m2 = load(at + (8 + q) * apart);
            h[0][q] = load(at + q * apart) + (m1 + m2);
            h[1][q] = m1 - m2 - load(at + (12 + q) * apart);
        }
        UNROLL for (int r = 0; r < 2; ++r) {
            const int64_t row = 2 * (y - first) + r;
            if (row >= height) continue;
            T* to = image + (row * width + 2 * x) * channels + b * L;
            store(to, h[r][0] + (h[r][1] + h[r][2]), channels - b * L);
            if (2 * x + 1 < width) store(to + channels, h[r][1] - h[r][2] - h[r][3], channels - b * L);
        }
    };
    each_patch<T>(patches, first, channels, one);
}

// What the pixels of a tile see, from row 2 `first` on, for the rows of patches that are done at once.
template <class T>
void see_patches(const Patches& patches, int64_t first, const T* tile, Shape s, const T* matrices, int64_t outputs,
                 T* room, T* image, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t apart = patches.apart<T>(s.channels), made_apart = patches.apart<T>(outputs);
    const Shape all = patches.tile(s.channels), made = patches.tile(outputs);
    const int64_t count = smaller(patches.rows(), patches.down - first) * patches.across;
    T* products = room + POSITIONS * apart;
    spread_input(patches, first, tile, s, room);
    for (int64_t k = 0; k < POSITIONS; ++k)
        see(room + k * apart, all, 1, 1, count, matrices + k * s.channels * up_to(outputs, L), outputs,
            Sink<T>::tile(products + k * made_apart, made), ahead);
    ahead.work(3 * POSITIONS * count * s.channels * up_to(outputs, L) / L);  // as if by taps, which it was planned for
    join(patches, first, products, outputs, image, s.height - 2 * first, s.width);
}

// The gradient by the matrices of all positions, (16, O, C filled up), is added to d_matrices.
template <class T>
void tally_patches(const Patches& patches, const T* input, Shape s, const T* gradient, Shape g, T* room,
                   T* d_matrices) {
    const int64_t apart = patches.apart<T>(s.channels), grad_apart = patches.apart<T>(g.channels);
    T* gradients = room + POSITIONS * apart;
    for (int64_t first = 0; first < patches.down; first += patches.rows()) {
        spread_input(patches, first, input, s, room);
        spread_gradient(patches, first, gradient, g, gradients);
        const int64_t count = smaller(patches.rows(), patches.down - first) * patches.across;
        for (int64_t k = 0; k < POSITIONS; ++k)
            tally(room + k * apart, patches.tile(s.channels), gradients + k * grad_apart, patches.tile(g.channels), 1,
                  count, d_matrices + k * g.channels * up_to(s.channels, Vector<T>::lanes));
    }
}

// to (16, n) = G w G^T, from w (9, n), which may be the end of it; n values fill whole vectors.
template <class T>
void spread_kernel(const T* w, int64_t n, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    const T half = T(0.5);
    for (int64_t i = 0; i < n; i += L) {
        Vec<T> h[4][3];
        UNROLL for (int q = 0; q < 3; ++q) {
            const T* at = w + q * n + i;
            const Vec<T> above = load(at), middle = load(at + 3 * n), below = load(at + 6 * n);
            h[0][q] = above;
            h[1][q] = half * (above + below + middle);
            h[2][q] = half * (above + below - middle);
            h[3][q] = below;
        }
        UNROLL for (int r = 0; r < 4; ++r) {
            store(to + (4 * r + 0) * n + i, h[r][0]);
            store(to + (4 * r + 1) * n + i, half * (h[r][0] + h[r][2] + h[r][1]));
            store(to + (4 * r + 2) * n + i, half * (h[r][0] + h[r][2] - h[r][1]));
            store(to + (4 * r + 3) * n + i, h[r][2]);
        }
    }
}

// to (O, 9, C) = G^T m G, from m (16, O, C filled up).
template <class T>
void join_kernel(const T* m, int64_t outputs, int64_t channels, T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t apart = up_to(channels, L), n = outputs * apart;
    const T half = T(0.5);
    for (int64_t o = 0; o < outputs; ++o, to += 9 * channels)
        for (int64_t c = 0; c < channels; c += L) {
            const T* at = m + o * apart + c;
            Vec<T> h[3][4];
            UNROLL for (int q = 0; q < 4; ++q) {
                const Vec<T> m1 = load(at + (4 + q) * n), m2 = load(at + (8 + q) * n), sum = half * (m1 + m2);
                h[0][q] = load(at + q * n) + sum;
                h[1][q] = half * (m1 - m2);
                h[2][q] = sum + load(at + (12 + q) * n);
            }
            UNROLL for (int r = 0; r < 3; ++r) {
                const Vec<T> sum = half * (h[r][1] + h[r][2]);
                store(to + (3 * r + 0) * channels + c, h[r][0] + sum, channels - c);
                store(to + (3 * r + 1) * channels + c, half * (h[r][1] - h[r][2]), channels - c);
                store(to + (3 * r + 2) * channels + c, sum + h[r][3], channels - c);
            }
        }
}

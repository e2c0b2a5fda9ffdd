// What is done to one image, or to one image's tile: it fits the second-level cache.
//
// A tile holds an image as planes of `lanes` channels, each plane (rows, columns, lanes) with a border of zeros, so that
// neighbouring pixels are one vector apart whatever the number of channels, and no convolution meets an edge.
// Included once for each instruction set, inside a namespace of its own.

struct Shape {
    int64_t height, width, border, channels;

    int64_t columns() const { return width + 2 * border; }
    int64_t rows() const { return height + 2 * border; }

    template <class T>
    int64_t plane() const {
        return rows() * columns() * Vector<T>::lanes;
    }
    template <class T>
    int64_t planes() const {
        return up_to(channels, Vector<T>::lanes) / Vector<T>::lanes;
    }
    template <class T>
    int64_t size() const {
        return planes<T>() * plane<T>();
    }
    // Where the pixel (y, x) of the image lies in a plane; the border has negative coordinates.
    template <class T>
    int64_t at(int64_t y, int64_t x) const {
        return ((y + border) * columns() + x + border) * Vector<T>::lanes;
    }
};

template <class T>
void clear_border(T* tile, Shape s) {
    constexpr int64_t L = Vector<T>::lanes;
    if (s.border == 0) return;
    for (int64_t b = 0; b < s.planes<T>(); ++b) {
        T* plane = tile + b * s.plane<T>();
        const int64_t band = s.border * s.columns() * L;
        std::memset(plane, 0, band * sizeof(T));
        std::memset(plane + s.plane<T>() - band, 0, band * sizeof(T));
        for (int64_t y = 0; y < s.height; ++y) {
            std::memset(plane + s.at<T>(y, -s.border), 0, s.border * L * sizeof(T));
            std::memset(plane + s.at<T>(y, s.width), 0, s.border * L * sizeof(T));
        }
    }
}

// tile = image, or ReLU(image).
template <class T>
void fill(T* tile, Shape s, const T* image, bool relu) {
    constexpr int64_t L = Vector<T>::lanes;
    clear_border(tile, s);
    for (int64_t y = 0; y < s.height; ++y)
        for (int64_t b = 0; b < s.planes<T>(); ++b) {
            T* to = tile + b * s.plane<T>() + s.at<T>(y, 0);
            const int64_t n = s.channels - b * L, first = y * s.width * s.channels + b * L;
            for (int64_t x = 0; x < s.width; ++x) {
                Vec<T> v = load(image + first + x * s.channels, n);
                if (relu) v = where_positive<T>(v, v);
                store(to + x * L, v);
            }
        }
}

// tile = zeros but for the pixels of an image, which lie `apart`.
template <class T>
void fill_apart(T* tile, Shape s, const T* image, int64_t height, int64_t width, int64_t apart) {
    constexpr int64_t L = Vector<T>::lanes;
    std::memset(tile, 0, s.size<T>() * sizeof(T));
    for (int64_t y = 0; y < height; ++y)
        for (int64_t b = 0; b < s.planes<T>(); ++b) {
            T* to = tile + b * s.plane<T>() + s.at<T>(y * apart, 0);
            const T* from = image + y * width * s.channels + b * L;
            for (int64_t x = 0; x < width; ++x)
                store(to + x * apart * L, load(from + x * s.channels, s.channels - b * L));
        }
}

// image = tile, or tile where `by`, a tile of the same shape, is positive; or that is added to it.
template <class T>
void empty(const T* tile, Shape s, T* image, const T* by, bool add, bool streams) {
    constexpr int64_t L = Vector<T>::lanes;
    if (streams && !add && s.channels % L == 0 && is_aligned(image)) {  // line after line
        for (int64_t y = 0; y < s.height; ++y)
            for (int64_t x = 0; x < s.width; ++x)
                for (int64_t b = 0; b < s.planes<T>(); ++b, image += L) {
                    const int64_t from = b * s.plane<T>() + s.at<T>(y, x);
                    Vec<T> v = load(tile + from);
                    if (by) v = where_positive<T>(v, load(by + from));
                    stream(image, v);
                }
        return;
    }
    for (int64_t y = 0; y < s.height; ++y)
        for (int64_t b = 0; b < s.planes<T>(); ++b) {
            const int64_t from = b * s.plane<T>() + s.at<T>(y, 0), n = s.channels - b * L;
            T* to = image + y * s.width * s.channels + b * L;
            for (int64_t x = 0; x < s.width; ++x) {
                Vec<T> v = load(tile + from + x * L);
                if (by) v = where_positive<T>(v, load(by + from + x * L));
                if (add) v += load(to + x * s.channels, n);
                store(to + x * s.channels, v, n);
            }
        }
}

// --- depthwise convolution: planes in, planes or an image out ---------------------------------------------------------

// Some taps of a kernel along one axis: first, first + step, ... Neighbours of them read inputs `dilation` apart.
struct Taps {
    int64_t first, step, count, dilation;
};

// Kernel weights (C, k, k) -> (planes, taps down, taps across, lanes), turned by 180 degrees if asked for. Planes are
// `plane` taps apart.
template <class T>
void pack_kernel(const T* weight, int64_t channels, int64_t kernel, Taps down, Taps across, bool turned, int64_t plane,
                 T* to) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t first = 0; first < channels; first += L, to += plane * L)
        for (int64_t ty = 0; ty < down.count; ++ty)
            for (int64_t tx = 0; tx < across.count; ++tx) {
                const int64_t y = down.first + (turned ? down.count - 1 - ty : ty) * down.step;
                const int64_t x = across.first + (turned ? across.count - 1 - tx : tx) * across.step;
                const T* from = weight + (first * kernel + y) * kernel + x;
                T* tap = to + (ty * across.count + tx) * L;
                for (int64_t lane = 0; lane < L; ++lane)
                    tap[lane] = first + lane < channels ? from[lane * kernel * kernel] : T(0);
            }
}

template <class T, int P, int S>
INLINE void convolve_pixels(const T* corner, int64_t columns, const T* taps, Taps down, Taps across, T* out,
                            int64_t apart, int64_t n, bool add) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[P];
    UNROLL for (int p = 0; p < P; ++p) sum[p] = add ? load(out + p * apart, n) : Vec<T>{};
    for (int64_t ty = 0; ty < down.count; ++ty) {
        const T* from = corner + ty * down.dilation * columns * L;
        for (int64_t tx = 0; tx < across.count; ++tx, from += across.dilation * L, taps += L) {
            const Vec<T> tap = load(taps);
            UNROLL for (int p = 0; p < P; ++p) sum[p] += load(from + p * S * L) * tap;
        }
    }
    UNROLL for (int p = 0; p < P; ++p) store(out + p * apart, sum[p], n);
}

// out(y, x) (+)= sum over taps of tap * in(S y + dilation ty, S x + dilation tx), for one plane; `in` is the corner that
// output (0, 0) reads first, `apart` is from pixel to pixel and `row` from row to row of the output.
template <class T, int S>
void convolve_plane(const T* in, int64_t columns, const T* taps, Taps down, Taps across, T* out, int64_t row,
                    int64_t apart, int64_t height, int64_t width, int64_t n, bool add, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t work = width * down.count * across.count;
    for (int64_t y = 0; y < height; ++y) {
        ahead.work(work);
        const T* from = in + y * S * columns * L;
        T* to = out + y * row;
        int64_t x = 0;
        for (; MANY > 8 && x + MANY <= width; x += MANY)
            convolve_pixels<T, MANY, S>(from + x * S * L, columns, taps, down, across, to + x * apart, apart, n, add);
        for (; x + 8 <= width; x += 8)
            convolve_pixels<T, 8, S>(from + x * S * L, columns, taps, down, across, to + x * apart, apart, n, add);
        for (; x + 4 <= width; x += 4)
            convolve_pixels<T, 4, S>(from + x * S * L, columns, taps, down, across, to + x * apart, apart, n, add);
        for (; x < width; ++x)
            convolve_pixels<T, 1, S>(from + x * S * L, columns, taps, down, across, to + x * apart, apart, n, add);
    }
}

// R rows of K taps of the gradient by the kernel: taps[r][t] += sum over pixels of grad * in.
template <class T, int R, int K, int S>
void tally_rows(const T* in, int64_t columns, const T* grad, int64_t grad_columns, int64_t dilation, T* taps,
                int64_t tap_row, int64_t height, int64_t width, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[R][K];
    UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < K; ++t) sum[r][t] = load(taps + (r * tap_row + t) * L);
    for (int64_t y = 0; y < height; ++y) {
        ahead.work(width * R * K);
        const T* from[R];
        UNROLL for (int r = 0; r < R; ++r) from[r] = in + (y * S + r * dilation) * columns * L;
        const T* g = grad + y * grad_columns * L;
        for (int64_t x = 0; x < width; ++x) {
            const Vec<T> here = load(g + x * L);
            UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < K; ++t)
                sum[r][t] += load(from[r] + (x * S + t * dilation) * L) * here;
        }
    }
    UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < K; ++t) store(taps + (r * tap_row + t) * L, sum[r][t]);
}

template <class T, int S>
void tally_plane(const T* in, int64_t columns, const T* grad, int64_t grad_columns, int64_t kernel, int64_t dilation,
                 T* taps, int64_t height, int64_t width, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    for (int64_t ty = 0; ty < kernel;) {
        const T* from = in + ty * dilation * columns * L;
        T* to = taps + ty * kernel * L;
        if (kernel == 3) {
            tally_rows<T, 3, 3, S>(from, columns, grad, grad_columns, dilation, to, kernel, height, width, ahead);
            ty += 3;
        } else if (kernel == 5 && ty + 2 <= kernel) {
            tally_rows<T, 2, 5, S>(from, columns, grad, grad_columns, dilation, to, kernel, height, width, ahead);
            ty += 2;
        } else if (kernel == 5) {
            tally_rows<T, 1, 5, S>(from, columns, grad, grad_columns, dilation, to, kernel, height, width, ahead);
            ty += 1;
        } else if (kernel == 7 && MANY > 8 && ty + 2 <= kernel) {
            tally_rows<T, 2, 7, S>(from, columns, grad, grad_columns, dilation, to, kernel, height, width, ahead);
            ty += 2;
        } else if (kernel == 7) {
            tally_rows<T, 1, 7, S>(from, columns, grad, grad_columns, dilation, to, kernel, height, width, ahead);
            ty += 1;
        } else {
            for (int64_t tx = 0; tx < kernel; ++tx)
                tally_rows<T, 1, 1, S>(from + tx * dilation * L, columns, grad, grad_columns, dilation, to + tx * L,
                                       kernel, height, width, ahead);
            ty += 1;
        }
    }
}

// --- products of pixels with small matrices ---------------------------------------------------------------------------

// (rows, columns) or its transpose -> (rows, columns filled up to whole vectors).
template <class T>
void pack_matrix(const T* matrix, int64_t rows, int64_t columns, bool transposed, T* to) {
    const int64_t width = up_to(columns, Vector<T>::lanes);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < width; ++c)
            to[r * width + c] = c >= columns ? T(0) : transposed ? matrix[c * rows + r] : matrix[r * columns + c];
}

// Where the products of neighbouring pixels go: into a dense image, or into a row of a tile.
template <class T>
struct Sink {
    T* at;
    int64_t apart;     // from pixel to pixel
    int64_t block;     // from vector to vector of one pixel
    int64_t channels;  // how many of them there is room for

    static Sink image(T* at, int64_t channels) { return {at, channels, Vector<T>::lanes, channels}; }
    static Sink tile(T* at, Shape s) {
        return {at, Vector<T>::lanes, s.plane<T>(), up_to(s.channels, Vector<T>::lanes)};
    }
};

template <class T, int P, int N>
INLINE void multiply_block(const T* pixels, int64_t apart, int64_t depth, const T* matrix, int64_t width, Sink<T> sink,
                           int64_t pixel, int64_t column) {
    constexpr int64_t L = Vector<T>::lanes;
    pixels += pixel * apart;
    matrix += column;
    Vec<T> sum[P][N] = {};
    for (int64_t c = 0; c < depth; ++c) {
        Vec<T> row[N];
        UNROLL for (int v = 0; v < N; ++v) row[v] = load(matrix + c * width + v * L);
        UNROLL for (int p = 0; p < P; ++p) UNROLL for (int v = 0; v < N; ++v)
            sum[p][v] += pixels[p * apart + c] * row[v];
    }
    T* to = sink.at + pixel * sink.apart + column / L * sink.block;
    UNROLL for (int p = 0; p < P; ++p) UNROLL for (int v = 0; v < N; ++v)
        store(to + p * sink.apart + v * sink.block, sum[p][v], sink.channels - column - v * L);
}

template <class T, int P, int N>
INLINE void multiply_columns(const T* pixels, int64_t apart, int64_t count, int64_t depth, const T* matrix, int64_t width,
                             Sink<T> sink, int64_t column, Ahead& ahead) {
    int64_t p = 0;
    for (; p + P <= count; p += P) {
        ahead.work(P * N * depth);
        multiply_block<T, P, N>(pixels, apart, depth, matrix, width, sink, p, column);
    }
    for (; p < count; ++p) multiply_block<T, 1, N>(pixels, apart, depth, matrix, width, sink, p, column);
}

// Whether of columns, filled up, one vector is left over by pairs; it goes with a pair where there are registers for three.
INLINE bool has_odd_vector(int64_t width, int64_t lanes) { return width / lanes % 2 && width > lanes; }

// sink = pixels (n, depth) * matrix (depth, columns), the latter packed; pixels are `apart` values from each other.
template <class T>
void multiply(const T* pixels, int64_t apart, int64_t count, int64_t depth, const T* matrix, int64_t columns,
              Sink<T> sink, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t width = up_to(columns, L);
    int64_t column = 0;
    if (MANY > 8 && has_odd_vector(width, L)) {
        multiply_columns<T, MANY / 2, 3>(pixels, apart, count, depth, matrix, width, sink, column, ahead);
        column += 3 * L;
    }
    for (; column + 2 * L <= width; column += 2 * L)
        multiply_columns<T, MANY / 2, 2>(pixels, apart, count, depth, matrix, width, sink, column, ahead);
    if (column < width) multiply_columns<T, MANY, 1>(pixels, apart, count, depth, matrix, width, sink, column, ahead);
}

template <class T, int R, int N>
INLINE void gram_block(const T* a, int64_t apart, const T* b, int64_t b_depth, int64_t pixels, T* to, int64_t width,
                       int64_t room) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[R][N];
    UNROLL for (int r = 0; r < R; ++r) UNROLL for (int v = 0; v < N; ++v) sum[r][v] = load(to + r * width + v * L);
    for (int64_t p = 0; p < pixels; ++p) {
        Vec<T> row[N];
        UNROLL for (int v = 0; v + 1 < N; ++v) row[v] = load(b + p * b_depth + v * L);
        row[N - 1] = load(b + p * b_depth + (N - 1) * L, room - (N - 1) * L);
        UNROLL for (int r = 0; r < R; ++r) UNROLL for (int v = 0; v < N; ++v) sum[r][v] += a[p * apart + r] * row[v];
    }
    UNROLL for (int r = 0; r < R; ++r) UNROLL for (int v = 0; v < N; ++v) store(to + r * width + v * L, sum[r][v]);
}

template <class T, int R>
void gram_rows(const T* a, int64_t apart, const T* b, int64_t b_depth, int64_t pixels, T* to, int64_t width) {
    constexpr int64_t L = Vector<T>::lanes;
    int64_t column = 0;
    if (MANY > 8 && has_odd_vector(width, L)) {
        gram_block<T, R, 3>(a, apart, b, b_depth, pixels, to, width, b_depth);
        column = 3 * L;
    }
    for (; column + L < width; column += 2 * L)
        gram_block<T, R, 2>(a, apart, b + column, b_depth, pixels, to + column, width, b_depth - column);
    if (column < width)
        gram_block<T, R, 1>(a, apart, b + column, b_depth, pixels, to + column, width, b_depth - column);
}

// to (A, B filled up) += a^T b, from (n, A), with pixels `apart`, and (n, B).
template <class T>
void gram(const T* a, int64_t apart, int64_t a_depth, const T* b, int64_t b_depth, int64_t pixels, T* to) {
    const int64_t width = up_to(b_depth, Vector<T>::lanes);
    int64_t r = 0;
    for (; r + 8 <= a_depth; r += 8) gram_rows<T, 8>(a + r, apart, b, b_depth, pixels, to + r * width, width);
    for (; r + 4 <= a_depth; r += 4) gram_rows<T, 4>(a + r, apart, b, b_depth, pixels, to + r * width, width);
    for (; r < a_depth; ++r) gram_rows<T, 1>(a + r, apart, b, b_depth, pixels, to + r * width, width);
}

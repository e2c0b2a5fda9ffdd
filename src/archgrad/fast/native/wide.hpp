// Wide projections of one image: dense convolutions of stride 1.
// Included once for each instruction set, inside a namespace of its own.
//
// What pixels see in a tile is a product with a matrix for each tap of the kernel, all of them summed up in registers.

inline bool is_wide(const Job& j) { return j.projection && !j.weight && j.kernel; }

inline int64_t taps_of(const Job& j) { return is_wide(j) ? j.kernel * j.kernel : 1; }

inline Shape wide_input(const Job& j) { return {j.in_height, j.in_width, j.padding, j.channels}; }

// The gradient by the result, from which the turned kernel makes that by the input.
inline Shape wide_gradient(const Job& j) {
    return {j.height, j.width, j.dilation * (j.kernel - 1) - j.padding, j.outputs};
}

// (O, k, k, C) -> (k, k, C, O filled up); or, turned by 180 degrees, (k, k, O, C filled up).
template <class T>
void pack_taps(const Job& j, bool turned, T* to) {
    const T* from = static_cast<const T*>(j.projection);
    const int64_t taps = taps_of(j), rows = turned ? j.outputs : j.channels, columns = turned ? j.channels : j.outputs;
    for (int64_t t = 0; t < taps; ++t)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < up_to(columns, Vector<T>::lanes); ++c, ++to) {
                const int64_t output = turned ? r : c, tap = turned ? taps - 1 - t : t, channel = turned ? c : r;
                *to = c < columns ? from[(output * taps + tap) * j.channels + channel] : T(0);
            }
}

template <class T, int P, int N>
INLINE void see_block(const T* seen, Shape s, int64_t kernel, int64_t dilation, const T* matrix, int64_t width,
                      Sink<T> sink, int64_t pixel, int64_t column) {
    constexpr int64_t L = Vector<T>::lanes;
    seen += pixel * L;
    matrix += column;
    Vec<T> sum[P][N] = {};
    for (int64_t y = 0; y < kernel; ++y)
        for (int64_t x = 0; x < kernel; ++x) {
            const T* at = seen + (y * s.columns() + x) * dilation * L;
            for (int64_t rest = s.channels; rest > 0; rest -= L, at += s.plane<T>())
                for (int64_t c = 0; c < smaller(rest, L); ++c, matrix += width) {
                    Vec<T> row[N];
                    UNROLL for (int v = 0; v < N; ++v) row[v] = load(matrix + v * L);
                    UNROLL for (int p = 0; p < P; ++p) UNROLL for (int v = 0; v < N; ++v)
                        sum[p][v] += at[p * L + c] * row[v];
                }
        }
    T* to = sink.at + pixel * sink.apart + column / L * sink.block;
    UNROLL for (int p = 0; p < P; ++p) UNROLL for (int v = 0; v < N; ++v)
        store(to + p * sink.apart + v * sink.block, sum[p][v], sink.channels - column - v * L);
}

template <class T, int P, int N>
INLINE void see_columns(const T* seen, Shape s, int64_t kernel, int64_t dilation, int64_t count, const T* matrices,
                        int64_t width, Sink<T> sink, int64_t column, Ahead& ahead) {
    ahead.work(count * N * s.channels * kernel * kernel);
    int64_t p = 0;
    for (; p + P <= count; p += P) see_block<T, P, N>(seen, s, kernel, dilation, matrices, width, sink, p, column);
    for (; p + 4 <= count; p += 4) see_block<T, 4, N>(seen, s, kernel, dilation, matrices, width, sink, p, column);
    for (; p < count; ++p) see_block<T, 1, N>(seen, s, kernel, dilation, matrices, width, sink, p, column);
}

// sink = what pixels in a row see, from row y of a tile's border on, through packed matrices.
template <class T>
void see(const T* tile, Shape s, int64_t y, int64_t kernel, int64_t dilation, int64_t count, const T* matrices,
         int64_t columns, Sink<T> sink, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const T* seen = tile + y * s.columns() * L;
    const int64_t width = up_to(columns, L);
    int64_t column = 0;
    for (; column + 2 * L <= width; column += 2 * L)
        see_columns<T, MANY / 2, 2>(seen, s, kernel, dilation, count, matrices, width, sink, column, ahead);
    if (column < width)
        see_columns<T, MANY, 1>(seen, s, kernel, dilation, count, matrices, width, sink, column, ahead);
}

template <class T>
void project_wide(const Job& j, const T* image, const T* matrices, T* tile, T* result, Ahead& ahead) {
    const Shape s = wide_input(j);
    fill(tile, s, image, j.relu_input);
    for (int64_t y = 0; y < j.height; ++y)
        see(tile, s, y, j.kernel, j.dilation, j.width, matrices, j.outputs,
            Sink<T>::image(result + y * j.width * j.outputs, j.outputs), ahead);
}

// R rows of a gradient by a tap's matrix, one vector each: to[r] += sum over pixels of grad's channel r * in.
template <class T, int R>
void tally_channels(const T* in, int64_t columns, const T* grad, int64_t grad_columns, int64_t height, int64_t width,
                    T* to, int64_t apart) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[R];
    UNROLL for (int r = 0; r < R; ++r) sum[r] = load(to + r * apart);
    for (int64_t y = 0; y < height; ++y, in += columns * L, grad += grad_columns * L)
        for (int64_t x = 0; x < width; ++x) {
            const Vec<T> here = load(in + x * L);
            UNROLL for (int r = 0; r < R; ++r) sum[r] += grad[x * L + r] * here;
        }
    UNROLL for (int r = 0; r < R; ++r) store(to + r * apart, sum[r]);
}

// The gradient by the matrices of all taps, (k, k, O, C filled up), is added to d_matrices; both tiles are given.
template <class T>
void tally_wide(const Job& j, const T* input, const T* gradient, T* d_matrices) {
    constexpr int64_t L = Vector<T>::lanes;
    const Shape s = wide_input(j), g = wide_gradient(j);
    const int64_t apart = up_to(j.channels, L);
    for (int64_t ty = 0; ty < j.kernel; ++ty)
        for (int64_t tx = 0; tx < j.kernel; ++tx, d_matrices += j.outputs * apart)
            for (int64_t b = 0; b < s.planes<T>(); ++b) {
                const T* in = input + b * s.plane<T>() + (ty * s.columns() + tx) * j.dilation * L;
                for (int64_t o = 0, n; o < j.outputs; o += n) {
                    const int64_t rest = j.outputs - o;
                    n = rest >= L ? L : rest >= 4 ? 4 : 1;
                    const auto tally = n == L ? tally_channels<T, L> : n == 4 ? tally_channels<T, 4> : tally_channels<T, 1>;
                    tally(in, s.columns(), gradient + o / L * g.plane<T>() + g.at<T>(0, 0) + o % L, g.columns(), j.height,
                          j.width, d_matrices + o * apart + b * L, apart);
                }
            }
}

// From the gradient by the result to those by the projection, as there, and by the image, which is added to d_image or
// written to it; it may be null. There is room for the tiles of input and gradient.
template <class T>
void through_wide(const Job& j, const T* image, const T* d_result, const T* turned, bool add, T* input, T* gradient,
                  T* d_image, T* d_matrices, Ahead& ahead) {
    const Shape g = wide_gradient(j);
    fill(gradient, g, d_result, false);
    if (j.d_projection) {
        fill(input, wide_input(j), image, j.relu_input);
        tally_wide(j, input, gradient, d_matrices);
    }
    if (!d_image) return;
    const int64_t row = j.in_width * j.channels;
    for (int64_t y = 0; y < j.in_height; ++y, image += row, d_image += row) {
        T* made = add ? input : d_image;
        see(gradient, g, y, j.kernel, j.dilation, j.in_width, turned, j.channels, Sink<T>::image(made, j.channels),
            ahead);
        if (j.relu_input) copy_where_positive(made, image, row, made);
        for (int64_t i = 0; add && i < row; ++i) d_image[i] += made[i];
    }
}

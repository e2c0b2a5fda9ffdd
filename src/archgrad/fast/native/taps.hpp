// Products of the pixels of a tile with small matrices, and the gradients by these.
// Included once for each instruction set, inside a namespace of its own.

template <class T, int P, int N, int S>
INLINE void see_block(const T* seen, Shape s, int64_t kernel, int64_t dilation, const T* matrix, int64_t width,
                      Sink<T> sink, int64_t pixel, int64_t column) {
    constexpr int64_t L = Vector<T>::lanes;
    seen += pixel * S * L;
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
                        sum[p][v] += at[p * S * L + c] * row[v];
                }
        }
    T* to = sink.at + pixel * sink.apart + column / L * sink.block;
    UNROLL for (int p = 0; p < P; ++p) UNROLL for (int v = 0; v < N; ++v)
        store(to + p * sink.apart + v * sink.block, sum[p][v], sink.channels - column - v * L);
}

template <class T, int P, int N, int S>
INLINE void see_columns(const T* seen, Shape s, int64_t kernel, int64_t dilation, int64_t count, const T* matrices,
                        int64_t width, Sink<T> sink, int64_t column, Ahead& ahead) {
    ahead.work(count * N * s.channels * kernel * kernel);
    int64_t p = 0;
    for (; p + P <= count; p += P) see_block<T, P, N, S>(seen, s, kernel, dilation, matrices, width, sink, p, column);
    for (; p + 4 <= count; p += 4) see_block<T, 4, N, S>(seen, s, kernel, dilation, matrices, width, sink, p, column);
    for (; p < count; ++p) see_block<T, 1, N, S>(seen, s, kernel, dilation, matrices, width, sink, p, column);
}

// sink = the sum, over the taps of windows whose first pixels lie in a row from `seen` on, S apart, of pixels (n, C) *
// matrix (C, columns); the matrices are packed, one behind the other.
template <class T, int S = 1>
void see(const T* seen, Shape s, int64_t kernel, int64_t dilation, int64_t count, const T* matrices, int64_t columns,
         Sink<T> sink, Ahead& ahead) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t width = up_to(columns, L);
    int64_t column = 0;
    for (; column + 2 * L <= width; column += 2 * L)
        see_columns<T, MANY / 2, 2, S>(seen, s, kernel, dilation, count, matrices, width, sink, column, ahead);
    if (column < width)
        see_columns<T, MANY, 1, S>(seen, s, kernel, dilation, count, matrices, width, sink, column, ahead);
}

// R rows of a matrix, one vector each: to[r] += sum over pixels, `step` apart, of grad's channel r * in.
template <class T, int R>
void tally_channels(const T* in, int64_t columns, const T* grad, int64_t grad_columns, int64_t height, int64_t width,
                    T* to, int64_t apart, int64_t step) {
    constexpr int64_t L = Vector<T>::lanes;
    Vec<T> sum[R];
    UNROLL for (int r = 0; r < R; ++r) sum[r] = load(to + r * apart);
    for (int64_t y = 0; y < height; y += step, in += step * columns * L, grad += step * grad_columns * L)
        for (int64_t x = 0; x < width; x += step) {
            const Vec<T> here = load(in + x * L);
            UNROLL for (int r = 0; r < R; ++r) sum[r] += grad[x * L + r] * here;
        }
    UNROLL for (int r = 0; r < R; ++r) store(to + r * apart, sum[r]);
}

// to (O, C filled up) += grad^T in, from the pixels of two tiles, `step` apart, (n, O) and (n, C), whose first ones are
// given.
template <class T>
void tally(const T* in, Shape s, const T* grad, Shape g, int64_t height, int64_t width, T* to, int64_t step = 1) {
    constexpr int64_t L = Vector<T>::lanes;
    const int64_t apart = up_to(s.channels, L);
    for (int64_t c = 0; c < apart; c += L, in += s.plane<T>())
        for (int64_t o = 0, n; o < g.channels; o += n) {
            const int64_t rest = g.channels - o;
            n = rest >= L ? L : rest >= 4 ? 4 : 1;
            const auto some = n == L ? tally_channels<T, L> : n == 4 ? tally_channels<T, 4> : tally_channels<T, 1>;
            some(in, s.columns(), grad + o / L * g.plane<T>() + o % L, g.columns(), height, width, to + o * apart + c,
                 apart, step);
        }
}

// What is read next, brought near while something else is computed: both then take the time of the longer one instead of
// their sum.
// Included once for each instruction set, inside a namespace of its own.

class Ahead {
   public:
    // Forget what is left, and begin anew.
    void begin() { spans_ = lines_ = credit_ = 0; }
    // So many bytes will be read next, from here; null: nothing. What goes beyond the room for it is left out.
    void read(const void* at, int64_t bytes) {
        if (!at || spans_ == MOST) return;
        span_[spans_++] = {static_cast<const char*>(at), static_cast<const char*>(at) + bytes};
        lines_ += bytes / LINE + 1;
    }
    // The work to spread it over, in any unit.
    void over(int64_t work) { per_line_ = lines_ ? larger(work / lines_, 1) : 1; }
    // So much work is done now.
    INLINE void work(int64_t amount) {
        credit_ += amount;
        if (credit_ >= per_line_) spend();
    }

   private:
    static constexpr int64_t MOST = 4;
    struct Span {
        const char *at, *end;
    };

    __attribute__((noinline)) void spend() {
        int64_t credit = credit_;
        while (spans_ && credit >= per_line_) {
            Span& span = span_[spans_ - 1];
            const char* at = span.at;
            for (; at < span.end && credit >= per_line_; credit -= per_line_, at += LINE)
                __builtin_prefetch(at, 0, 2);  // into the second-level cache
            span.at = at;
            if (at >= span.end) --spans_;
        }
        credit_ = spans_ ? credit : 0;
    }

    Span span_[MOST];
    int64_t spans_ = 0, lines_ = 0, per_line_ = 1, credit_ = 0;
};

package export

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a receiver can ask for: a mistake of its must not stop audit for a day.
const maxRetryAfter = 5 * time.Minute

// Busy is a receiver that asks to be left alone for a while.
type Busy struct {
	After time.Duration
	Text  string
}

func (b *Busy) Error() string {
	return fmt.Sprintf("%s, and asks to wait for %s", b.Text, b.After.Round(time.Second))
}

// busy is the error of an answer with 429 or 503, a *Busy where that says for how long.
func busy(text string, header http.Header, now time.Time) error {
	if after := retryAfter(header.Get("Retry-After"), now); after > 0 {
		return &Busy{After: after, Text: text}
	}
	return errors.New(text)
}

// retryAfter reads how long a header says to wait, in seconds or until a date, within bounds; 0: it does not.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	var after time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		after = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		after = at.Sub(now)
	}
	return min(max(after, 0), maxRetryAfter)
}

// asked is how long an error's receiver asks to be left alone.
func asked(err error) time.Duration {
	var b *Busy
	if errors.As(err, &b) {
		return b.After
	}
	return 0
}

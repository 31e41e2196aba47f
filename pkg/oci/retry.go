package oci

import (
	"net/http"
	"strconv"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	// maxRetryAfter stops a registry that would hold a request up for days. What asks for longer is not tried again by the
	// request; the error says for how long.
	maxRetryAfter = 2 * time.Minute
	// maxAskedFor stops a registry that would silence a client for ever.
	maxAskedFor = time.Hour
	// maxRetries stops a registry whose failures would have one request tried for ever.
	maxRetries   = 5
	firstBackoff = 250 * time.Millisecond
)

// RetryAfter is how long an answer asks its client to wait: Retry-After in seconds or as a date, at most two minutes;
// zero when it doesn't say.
//
// See https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func RetryAfter(header http.Header, now time.Time) time.Duration {
	return min(askedFor(header, now), maxRetryAfter)
}

// askedFor is RetryAfter without its bound, up to an hour.
func askedFor(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(seconds, int(maxAskedFor/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxAskedFor)
}

// patience retries what a registry couldn't answer just now, when it asks to.
type patience struct{}

func (patience) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if attempt >= maxRetries {
		return -1, nil
	}
	if again, err := retry.DefaultPredicate(resp, err); err != nil || !again {
		return -1, nil //nolint:nilerr // the transport hands the request's own error on
	}
	if resp != nil {
		switch wait := askedFor(resp.Header, time.Now()); {
		case wait > maxRetryAfter:
			return -1, nil
		case wait > 0:
			return wait, nil
		}
	}
	return min(retry.ExponentialBackoff(firstBackoff, 2, 0.1)(attempt, nil), 3*time.Second), nil
}

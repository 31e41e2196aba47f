package oci

import (
	"net/http"
	"strconv"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	// maxRetryAfter stops a registry that would hold a client up for days.
	maxRetryAfter = 2 * time.Minute
	maxRetries    = 5
	firstBackoff  = 250 * time.Millisecond
)

// RetryAfter is how long an answer asks its client to wait: Retry-After in seconds or as a date, at most two minutes;
// zero when it doesn't say.
//
// See https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
func RetryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
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
		if wait := RetryAfter(resp.Header, time.Now()); wait > 0 {
			return wait, nil
		}
	}
	return min(retry.ExponentialBackoff(firstBackoff, 2, 0.1)(attempt, nil), 3*time.Second), nil
}

package oci

import (
	"net/http"
	"sync/atomic"
	"time"
)

// busy remembers until when a registry asked to be left alone.
type busy struct {
	next  http.RoundTripper
	until atomic.Int64 // Unix nanoseconds
}

// RoundTrip passes the request on and notes what the answer asks for.
func (b *busy) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return response, err
	}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		now := time.Now()
		if wait := askedFor(response.Header, now); wait > 0 {
			b.until.Store(now.Add(wait).UnixNano())
		}
	}
	return response, nil
}

// wrap gives an error of such an answer how long to wait.
func (b *busy) wrap(err error) error {
	if wait := time.Until(time.Unix(0, b.until.Load())); wait > 0 {
		return &busyError{err, wait}
	}
	return err
}

// busyError is an error of a registry that asked to be left alone for a while.
type busyError struct {
	error
	wait time.Duration
}

// RetryAfter is how long the registry is to be left alone.
func (e *busyError) RetryAfter() time.Duration { return e.wait }

func (e *busyError) Unwrap() error { return e.error }

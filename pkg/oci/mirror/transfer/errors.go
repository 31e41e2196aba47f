package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pinnace.dev/pinnace/pkg/oci"
)

// statusError is an answer that isn't what was asked for.
type statusError struct {
	method, path string
	status       int
	detail       string
	retryAfter   time.Duration
}

// maxDetail stops refusals that fill the memory, the terminal or the log.
const maxDetail = 256

func newStatusError(resp *http.Response) error {
	detail, _ := io.ReadAll(io.LimitReader(resp.Body, maxDetail)) // what it says is a courtesy
	return &statusError{
		method: resp.Request.Method, path: resp.Request.URL.Path, status: resp.StatusCode,
		detail: strings.TrimSpace(string(detail)), retryAfter: oci.RetryAfter(resp.Header, time.Now()),
	}
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s %s", e.method, e.path, e.status, http.StatusText(e.status), e.detail)
}

func (e *statusError) Unwrap() error {
	switch {
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		return oci.ErrUnauthorized
	case e.status == http.StatusNotFound:
		return oci.ErrNotFound
	case e.status == http.StatusTooManyRequests, e.status == http.StatusRequestTimeout, e.status >= http.StatusInternalServerError:
		return oci.ErrUnreachable
	}
	return nil
}

// passing says whether trying again may help.
func passing(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || errors.Is(err, oci.ErrUnauthorized) || errors.Is(err, oci.ErrDamaged) ||
		errors.Is(err, oci.ErrTooLarge) || errors.Is(err, oci.ErrNotFound) {
		return false
	}
	if refused := (*statusError)(nil); errors.As(err, &refused) {
		return errors.Is(err, oci.ErrUnreachable)
	}
	return true // the connection
}

// congested says whether the other side asks for less at once.
func congested(err error) bool {
	return errors.Is(err, oci.ErrUnreachable)
}

// unreachable classifies an error of the connection.
func unreachable(err error) error {
	if broken := (*url.Error)(nil); errors.As(err, &broken) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", oci.ErrUnreachable, err)
	}
	return err
}

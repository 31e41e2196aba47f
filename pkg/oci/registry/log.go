package registry

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// quietLogrus takes distribution's own log, which goes to the process-wide logrus logger and calls every 404 an error,
// off the terminal. What can't be seen from a request's status, such as a notification that got lost, is a warning.
var quietLogrus = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	logrus.AddHook(slogHook{})
})

type slogHook struct{}

func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (slogHook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	// That an index needn't be complete is what we want.
	if entry.Level == logrus.WarnLevel && !strings.HasPrefix(entry.Message, "Image index completeness") {
		level = slog.LevelWarn
	}
	slog.Default().Log(entry.Context, level, entry.Message, "from", "registry")
	return nil
}

func logger(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// logged writes a record for each request: debug, or a warning when the registry failed.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	if log == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		recorded := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorded, r)
		level := slog.LevelDebug
		if recorded.status >= http.StatusInternalServerError {
			level = slog.LevelWarn
		}
		log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", recorded.status,
			"duration", time.Since(started), "client", r.RemoteAddr)
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }

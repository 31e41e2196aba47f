package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// mark says what a message is about.
type mark int

const (
	markDoing mark = iota
	markDone
	markFailed
	markWaiting
	markWarning
)

// Symbols on a terminal, and words elsewhere.
var marks = map[mark]struct{ symbol, word string }{
	markDoing:   {"►", "doing"},
	markDone:    {"✔", "done"},
	markFailed:  {"✗", "failed"},
	markWaiting: {"◎", "waiting"},
	markWarning: {"⚠", "warning"},
}

// say writes to people. Where stderr is gone there is nobody to tell.
func (s *session) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Err, format, args...)
}

// message writes one line for people on stderr. With --quiet only failures and warnings are written.
func (s *session) message(m mark, format string, args ...any) {
	if s.quiet && m != markFailed && m != markWarning {
		return
	}
	text := oneLine(fmt.Sprintf(format, args...))
	if s.logFormat == "json" {
		s.writeJSON(map[string]string{"level": level(m), "state": marks[m].word, "msg": text})
		return
	}
	s.say("%s %s\n", s.sign(m), text)
}

func (s *session) sign(m mark) string {
	if isTerminal(s.Err) && os.Getenv("NO_COLOR") == "" {
		return marks[m].symbol
	}
	return marks[m].word + ":"
}

func level(m mark) string {
	switch m {
	case markFailed:
		return "error"
	case markWarning:
		return "warn"
	default:
		return "info"
	}
}

// printError writes why a command ended: one line, or one for each finding in documents.
func (s *session) printError(err error, code int) {
	if s.logFormat == "json" {
		s.writeJSON(map[string]any{"level": "error", "msg": strings.Join(errorLines(err), "\n"), "exitCode": code})
		return
	}
	lines := errorLines(err)
	more := len(lines) - maxErrorLines
	if more > 0 && !s.verbose {
		lines = append(lines[:maxErrorLines], fmt.Sprintf("and %d more; -v shows all", more))
	}
	for _, line := range lines {
		s.say("error: %s\n", line)
	}
}

// maxErrorLines bounds what a wrong fleet of thousands of clusters prints.
const maxErrorLines = 20

// errorLines puts each of several errors on a line of its own: findings in documents, above all.
func errorLines(err error) []string {
	if several := parts(err); several != nil {
		var lines []string
		for _, one := range several {
			lines = append(lines, errorLines(one)...)
		}
		return lines
	}
	// What stands before a list stands before each of it.
	if inner := errors.Unwrap(err); inner != nil && parts(inner) != nil {
		if prefix, ok := strings.CutSuffix(err.Error(), inner.Error()); ok {
			lines := errorLines(inner)
			for i, line := range lines {
				lines[i] = oneLine(prefix + line)
			}
			return lines
		}
	}
	line := oneLine(err.Error())
	if act := act(err); act != "" {
		line += "; " + act
	}
	return []string{line}
}

// parts returns the errors that err merely lists, one a line; nil when it says something of its own.
func parts(err error) []error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var text []string
	for _, one := range list.Unwrap() {
		text = append(text, one.Error())
	}
	if len(text) == 0 || strings.Join(text, "\n") != err.Error() {
		return nil
	}
	return list.Unwrap()
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", " ")), " ")
}

func (s *session) writeJSON(value any) {
	data, err := json.Marshal(value)
	if err != nil {
		data = []byte(`{"level":"error","msg":"message could not be encoded"}`)
	}
	s.say("%s\n", data)
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// log is what packages log to: records become messages, debug ones with --verbose only.
func (s *session) log() *slog.Logger {
	return slog.New(&messageHandler{session: s, mutex: &sync.Mutex{}})
}

type messageHandler struct {
	session *session
	mutex   *sync.Mutex
	attrs   []slog.Attr
}

func (h *messageHandler) Enabled(_ context.Context, level slog.Level) bool {
	switch {
	case h.session.verbose:
		return true
	case h.session.quiet:
		return level >= slog.LevelWarn
	}
	return level >= slog.LevelInfo
}

func (h *messageHandler) Handle(_ context.Context, record slog.Record) error {
	attrs := append([]slog.Attr(nil), h.attrs...)
	record.Attrs(func(attr slog.Attr) bool {
		attrs = append(attrs, attr)
		return true
	})
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.session.logFormat == "json" {
		line := map[string]any{"level": strings.ToLower(record.Level.String()), "msg": record.Message}
		for _, attr := range attrs {
			line[attr.Key] = attr.Value.Resolve().String()
		}
		h.session.writeJSON(line)
		return nil
	}
	m := markDoing
	switch {
	case record.Level >= slog.LevelError:
		m = markFailed
	case record.Level >= slog.LevelWarn:
		m = markWarning
	}
	text := record.Message
	for _, attr := range attrs {
		text += fmt.Sprintf(" %s=%s", attr.Key, attr.Value.Resolve())
	}
	h.session.message(m, "%s", text)
	return nil
}

func (h *messageHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &messageHandler{session: h.session, mutex: h.mutex, attrs: append(append([]slog.Attr(nil), h.attrs...), attrs...)}
}

// WithGroup keeps attributes flat: messages are for people.
func (h *messageHandler) WithGroup(string) slog.Handler { return h }

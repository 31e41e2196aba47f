package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

func codef(code int, format string, args ...any) error {
	return exitcode.With(code, fmt.Errorf(format, args...))
}

func usagef(format string, args ...any) error { return codef(exitcode.Usage, format, args...) }

// errInterrupted replaces the chain of an error that only says that the context ended.
var errInterrupted = codef(exitcode.Interrupted, "interrupted")

// exitCode adds what only people's input can cause to the common table.
func exitCode(err error) int {
	if code := exitcode.For(err); code != exitcode.No {
		return code
	}
	switch {
	case errors.As(err, new(*signing.Error)):
		return exitcode.Refused
	case errors.As(err, new(document.Error)):
		return exitcode.Usage
	case errors.As(err, new(*publish.RefusedError)), errors.Is(err, source.ErrRefused):
		return exitcode.Refused
	case errors.Is(err, signing.ErrPassword), errors.Is(err, source.ErrUnauthorized), errors.Is(err, fs.ErrPermission):
		return exitcode.Unauthorized
	case errors.Is(err, source.ErrNotFound), errors.Is(err, publish.ErrNotInFleet), errors.Is(err, fs.ErrNotExist):
		return exitcode.NotFound
	case errors.Is(err, source.ErrUnreachable):
		return exitcode.Unreachable
	}
	return exitcode.No
}

// ofInput classifies what nothing else does as wrong input: what a fleet's files say. I/O errors stay what they are.
func ofInput(err error) error {
	if err == nil || exitCode(err) != exitcode.No || errors.Is(err, publish.ErrConcurrent) || errors.Is(err, publish.ErrNotSelected) || errors.As(err, new(*fs.PathError)) {
		return err
	}
	return exitcode.With(exitcode.Usage, err)
}

// act is what mends an error of which only the command line knows the mending flag; empty for all others.
func act(err error) string {
	switch {
	case errors.Is(err, oci.ErrUnauthorized):
		return "log in with docker login, or name credentials with --registry-config"
	case errors.Is(err, syscall.ENOSPC):
		return "free space on the disk, or name another folder with --cache-dir"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it speaks http, without TLS: pass --plain-http, or --to-plain-http where it is what a mirror writes to"
	case errors.Is(err, oci.ErrUnreachable) && errors.As(err, new(*net.DNSError)):
		return "check the name and the network"
	case errors.Is(err, oci.ErrUnreachable):
		return "check the address and the network; for a registry without TLS pass --plain-http"
	}
	return ""
}

// exitCodesMarkdown renders the table of exit codes for the documentation.
func exitCodesMarkdown() string {
	var b strings.Builder
	b.WriteString("# Exit codes\n\nOf `pinnace` and `pinnace-agent`. Scripts may rely on them. This file is generated from the program.\n\n")
	b.WriteString("| code | name | meaning |\n|---|---|---|\n")
	for _, code := range exitcode.Table {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", code.Code, code.Name, code.Meaning)
	}
	return b.String()
}

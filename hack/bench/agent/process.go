package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// memory of a process, in MiB.
type memory struct{ rss, anon, peak float64 }

// memoryOf reads /proc/PID/status.
func memoryOf(pid int) (memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("memory is measured on Linux only: %w", err)
	}
	var m memory
	for name, into := range map[string]*float64{"VmRSS:": &m.rss, "RssAnon:": &m.anon, "VmHWM:": &m.peak} {
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, name); ok {
				kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
				if err != nil {
					return memory{}, err
				}
				*into = kib / 1024
			}
		}
	}
	if m.rss == 0 {
		return memory{}, errors.New("/proc says nothing of the memory")
	}
	return m, nil
}

// cpuOf is the time that a process has computed, from /proc/PID/stat, in steps of the kernel's clock tick.
func cpuOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th field after it.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("/proc says nothing of the CPU")
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // 100 ticks a second on every Linux
}

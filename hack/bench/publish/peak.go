package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peakEvery is how often a process is asked for the most memory that it had: what the kernel tells of it afterwards
// counts that of the process that started it too.
const peakEvery = 50 * time.Millisecond

// outputAndPeak runs a command and returns what it wrote, and the most memory that it had resident, in MiB.
func outputAndPeak(cmd *exec.Cmd) ([]byte, float64, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var peak float64
	ticker := time.NewTicker(peakEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return out.Bytes(), peak, err
		case <-ticker.C:
			peak = max(peak, highWaterMiB(cmd.Process.Pid))
		}
	}
}

// highWaterMiB is 0 when the process is gone, and where there is no /proc.
func highWaterMiB(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, is := strings.CutPrefix(line, "VmHWM:"); is {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			if err != nil {
				return 0
			}
			return kib / 1024
		}
	}
	return 0
}

// processorTime is what this process used, in seconds.
func processorTime() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return (time.Duration(used.Utime.Nano()) + time.Duration(used.Stime.Nano())).Seconds()
}

//go:build unix && !linux

package process

import "syscall"

// attributes can end a process with its parent on Linux only.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

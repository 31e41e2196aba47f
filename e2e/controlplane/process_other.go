//go:build unix && !linux

package controlplane

import "syscall"

// processAttributes puts a process into its own group. Only Linux can end it with its parent.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

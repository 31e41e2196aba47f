package controlplane

import "syscall"

// processAttributes puts a process into its own group, away from the terminal's Ctrl-C, and ends it with its parent.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

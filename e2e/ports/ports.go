// Package ports reserves loopback ports for servers of tests and the demo, across processes.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports come from below the usual ephemeral range, so that no outgoing connection takes one between a stop and a start
// of the same server.
const (
	first = 20000
	count = 10000
)

// Set holds ports that no other set on this machine has, of this process or another: a lock on a file stands for each.
// The zero value is empty.
type Set struct {
	mu    sync.Mutex
	locks []*os.File
}

// Reserve returns a port that nobody listens on. It stays this set's until Release.
func (s *Set) Reserve() (int, error) {
	dir := filepath.Join(os.TempDir(), "pinnace-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	start := rand.IntN(count)
	for i := range count {
		port := first + (start+i)%count
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && free(port) {
			s.locks = append(s.locks, lock)
			return port, nil
		}
		_ = lock.Close() // somebody else's; closing gives up nothing of ours
	}
	return 0, fmt.Errorf("no free port between %d and %d", first, first+count-1)
}

// Release gives all ports up.
func (s *Set) Release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	s.locks = nil
	return errors.Join(errs...)
}

// free says whether nobody listens there.
func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

package controlplane

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
	firstPort = 20000
	portCount = 10000
)

// portSet holds ports that no other plane on this machine uses, of this process or another: a lock on a file stands
// for each.
type portSet struct {
	mu    sync.Mutex
	locks []*os.File
}

func (s *portSet) reserve() (int, error) {
	dir := filepath.Join(os.TempDir(), "pinnace-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	start := rand.IntN(portCount) //nolint:gosec // spreads load, guards nothing
	for i := range portCount {
		port := firstPort + (start+i)%portCount
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
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, firstPort+portCount-1)
}

func (s *portSet) release() error {
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

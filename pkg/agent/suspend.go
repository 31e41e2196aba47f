package agent

import (
	"path/filepath"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const suspendedFile = "suspended.json"

// Suspended is suspended.json: the bundles that are not to be touched. It outlives restarts.
type Suspended struct {
	// All is since when nothing is touched.
	All *time.Time `json:"all,omitempty"`
	// Bundles is since when each of them is not touched.
	Bundles map[string]time.Time `json:"bundles,omitempty"`
}

func (s Suspended) has(bundle string) bool {
	_, one := s.Bundles[bundle]
	return one || s.All != nil
}

// Suspend returns s with those bundles suspended; with all when none is named.
func (s Suspended) Suspend(now time.Time, bundles ...string) Suspended {
	next := Suspended{All: s.All, Bundles: map[string]time.Time{}}
	for name, since := range s.Bundles {
		next.Bundles[name] = since
	}
	now = now.UTC().Truncate(time.Second)
	if len(bundles) == 0 && next.All == nil {
		next.All = &now
	}
	for _, name := range bundles {
		if _, known := next.Bundles[name]; !known {
			next.Bundles[name] = now
		}
	}
	return next
}

// Resume returns s with those bundles no longer suspended; with none left when none is named.
func (s Suspended) Resume(bundles ...string) Suspended {
	next := Suspended{}
	if len(bundles) == 0 {
		return next
	}
	next.All, next.Bundles = s.All, map[string]time.Time{}
	for name, since := range s.Bundles {
		next.Bundles[name] = since
	}
	for _, name := range bundles {
		delete(next.Bundles, name)
	}
	return next
}

// Suspended reads suspended.json; the zero value when there is none.
func (s *State) Suspended() (Suspended, error) {
	var suspended Suspended
	err := s.read(filepath.Join(s.dir, suspendedFile), &suspended, "remove the file: nothing is suspended then")
	return suspended, err
}

// Suspend writes suspended.json.
func (s *State) Suspend(suspended Suspended) error {
	return s.writeJSON(filepath.Join(s.dir, suspendedFile), suspended)
}

const suspendedText = "is suspended: nothing is applied and drift is not corrected until it is resumed"

// showSuspended lets a suspension show in how a bundle stands; what is wrong with it shows first.
func showSuspended(s standing) standing {
	switch s.state {
	case v1alpha1.StateFailed, v1alpha1.StateRefused, v1alpha1.StateDrifted, v1alpha1.StateContested:
		s.message += " (" + suspendedText + ")"
		return s
	}
	s.state, s.reason, s.message = v1alpha1.StateWaiting, ReasonSuspended, suspendedText
	return s
}
